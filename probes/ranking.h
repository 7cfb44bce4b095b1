// rd.csv, a ranking of experts: detection writes it, and edits, controls, audits and reports read it. How its rows are
// read and in which order they rank is decided here alone.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/csv.h"
#include "base/namespaces.h"
#include "probes/shape.h"

namespace signalbox::probes {

// Which rows of a table rank, where it has several for an expert: by the columns of these names. A row's cell must be
// the text given here; without one it must be empty, which means all records.
struct RankingRows {
  std::optional<std::string> metric;  // without one, all rows must have the same metric
  std::optional<std::string> condition, domain;
};

// Experts by rank in an rd.csv.
struct Ranking {
  enum class Sign : uint8_t { plus, minus, both };
  std::filesystem::path file;
  std::string by = "rd";          // the column that ranks, as RankingFile::effect_column() reads it
  std::optional<double> q_below;  // only rows with a q below this
  RankingRows rows = {};
  int64_t top = 0;
  Sign sign = Sign::plus;
  int64_t per_layer = std::numeric_limits<int64_t>::max();
};

// An expert with the value that ranks it.
struct RankKey {
  double value = 0;
  int32_t layer = 0, expert = 0;
};

// The order of rankings. plus: the largest value first; minus: the smallest; both: the largest absolute value. Ties by
// layer, then expert.
bool ranks_before(const RankKey& a, const RankKey& b, Ranking::Sign sign);

// The point that a ranking by what experts give is made of: "expert.norm" for "norm" or "rd_norm", and so on; empty for
// every other "by".
std::string_view contribution_point(std::string_view by);

// The rows of an rd.csv. Columns other than layer and expert are looked at when somebody asks for them.
class RankingFile {
 public:
  // Throws Error naming file and line: not a table, no columns layer and expert, a row without them; given the shape of
  // a model, also an expert that the model does not have, or a second row for an expert. Given `rows`, other rows are
  // left out; Error where it asks for a column that is not there, for rows of which there are none, or for no metric
  // where there are several.
  explicit RankingFile(const std::filesystem::path& file, const ModelShape* shape = nullptr,
                       const RankingRows* rows = nullptr);

  size_t n_rows() const { return experts_.size(); }
  int32_t layer(size_t row) const { return experts_[row].first; }
  int32_t expert(size_t row) const { return experts_[row].second; }

  size_t column(std::string_view name) const { return table_.column(name); }  // Error when there is none
  // The column that "by" means: that of this name, or rd_norm, rd_update, rd_direct for "norm", "update_share",
  // "direct". Error when there is neither.
  size_t effect_column(const std::string& by) const;
  // The q of that column: q_norm and its kin, q_effect of "effect", else "q". Error when there is none.
  size_t q_column(const std::string& by) const;
  std::optional<size_t> find_column(std::string_view name) const;
  // nullopt: an empty cell, which is an undefined value. The column rd has none: there it is an Error.
  std::optional<double> value(size_t row, size_t column) const;

 private:
  void check_repeats(const ModelShape& shape) const;
  void choose(const RankingRows& rows);
  CsvTable table_;
  std::string file_;
  std::vector<size_t> kept_;                          // [rows] of the table
  std::vector<std::pair<int32_t, int32_t>> experts_;  // [rows] layer, expert
};

}  // namespace signalbox::probes
