// The files of the forced form, and its table for people.
#include <cmath>
#include <cstdio>

#include "base/csv.h"
#include "base/files.h"
#include "base/text_table.h"
#include "eval/faithfulness/curve_cells.h"
#include "eval/faithfulness/forced.h"

namespace signalbox::eval {

namespace {

std::string curves_csv(const ForcedFindings& findings) {
  CsvWriter csv({"test", "measure", "sentences", "x", "n", "p", "p_lo", "p_hi", "logprob", "logprob_lo", "logprob_hi"});
  for (const ForcedTest& test : findings.tests)
    for (const CurveRow& row : test.curve) {
      csv.cell(faith_test_name(test.test)).cell(forced_measure_name(test.measure));
      add_curve_row(csv, row);
    }
  return csv.text();
}

std::string aoc_csv(const ForcedFindings& findings) {
  CsvWriter csv({"test", "measure", "sentences", "n", "weight", "aoc", "ci_lo", "ci_hi", "drop", "drop_lo", "drop_hi"});
  for (const ForcedTest& test : findings.tests)
    for (size_t r = 0; r < test.areas.size(); ++r) {
      csv.cell(faith_test_name(test.test)).cell(forced_measure_name(test.measure));
      add_length(csv, test.areas[r].n_sentences);
      csv.cell(test.areas[r].area.n).cell(test.areas[r].weight);
      add_mean(csv, test.areas[r].area);
      if (test.drops.empty()) {
        for (int i = 0; i < 3; ++i) csv.cell(std::string_view());
      } else {
        add_mean(csv, test.drops[r].area);
      }
      csv.end_row();
    }
  return csv.text();
}

std::string rows_csv(const ForcedFindings& findings) {
  CsvWriter csv({"test", "policy", "fraction", "measure", "n", "p", "p_lo", "p_hi", "logprob", "logprob_lo",
                 "logprob_hi", "drop", "drop_lo", "drop_hi", "p_drop"});
  for (const ForcedRow& row : findings.rows) {
    csv.cell(row.test).cell(row.policy).cell(row.fraction).cell(forced_measure_name(row.measure)).cell(row.p.n);
    add_mean(csv, row.p);
    add_mean(csv, row.logprob);
    add_mean(csv, row.drop);
    csv.cell(row.p_drop);
    csv.end_row();
  }
  return csv.text();
}

// The mean with its interval, where there is one: one record has none.
std::string number(const MeanEstimate& mean, int digits) {
  if (std::isnan(mean.mean)) return "-";
  char text[80];
  const int n = std::snprintf(text, sizeof text, "%.*f", digits, mean.mean);
  if (!std::isnan(mean.ci.lo))
    std::snprintf(text + n, sizeof text - static_cast<size_t>(n), " [%.*f, %.*f]", digits, mean.ci.lo, digits,
                  mean.ci.hi);
  return text;
}

}  // namespace

void write_forced(const ForcedFindings& findings, const std::filesystem::path& dir) {
  write_file_atomically(dir / "forced_curves.csv", curves_csv(findings));
  write_file_atomically(dir / "forced_aoc.csv", aoc_csv(findings));
  write_file_atomically(dir / "forced.csv", rows_csv(findings));
}

json::Value forced_summary(const ForcedFindings& findings) {
  json::Value out = json::Value::object();
  for (const FaithTest test : faith_tests) {
    json::Value measures = json::Value::object();
    bool any = false;
    for (const ForcedTest& found : findings.tests) {
      if (found.test != test) continue;
      json::Value one = json::Value::object().set("aoc", mean_value(found.areas.back().area));
      if (!found.drops.empty()) one.set("drop", mean_value(found.drops.back().area));
      measures.set(forced_measure_name(found.measure), std::move(one));
      any = true;
    }
    if (any) out.set(faith_test_name(test), std::move(measures));
  }
  return out;
}

std::string forced_table(const ForcedFindings& findings, int width) {
  if (findings.tests.empty()) return "";
  TextTable table({{"forced form", false, true},
                   {"answer", false, true},
                   {"explanations"},
                   {"area over the curve of p"},
                   {"log p lost over x, nats"}});
  for (const ForcedTest& test : findings.tests) {
    const MeanEstimate drop = test.drops.empty() ? MeanEstimate{NAN, {}, 0} : test.drops.back().area;
    table.add({faith_test_name(test.test), forced_measure_name(test.measure), std::to_string(test.areas.back().area.n),
               number(test.areas.back().area, 3), number(drop, 2)});
  }
  return "\n" + table.text(width);
}

}  // namespace signalbox::eval
