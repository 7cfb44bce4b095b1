// Cells and values that the files of both forms of a study share.
#pragma once
#include "base/csv.h"
#include "base/json.h"
#include "eval/faithfulness/curves.h"

namespace signalbox::eval {

inline void add_mean(CsvWriter& csv, const MeanEstimate& mean) {
  csv.cell(mean.mean).cell(mean.ci.lo).cell(mean.ci.hi);
}

inline json::Value mean_value(const MeanEstimate& mean) {
  return json::Value::object()
      .set("mean", mean.mean)
      .set("ci_lo", mean.ci.lo)
      .set("ci_hi", mean.ci.hi)
      .set("n", mean.n);
}

// An empty cell stands for all lengths.
inline void add_length(CsvWriter& csv, int64_t n_sentences) {
  n_sentences > 0 ? csv.cell(n_sentences) : csv.cell(std::string_view());
}

// The cells of a curve's point, sentences to the second mean's ends, and the end of the row.
inline void add_curve_row(CsvWriter& csv, const CurveRow& row) {
  add_length(csv, row.n_sentences);
  csv.cell(row.x).cell(row.same.n);
  add_mean(csv, row.same);
  add_mean(csv, row.correct);
  csv.end_row();
}

}  // namespace signalbox::eval
