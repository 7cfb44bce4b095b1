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

// Experts by rank in an rd.csv.
struct Ranking {
  enum class Sign : uint8_t { plus, minus, both };
  std::filesystem::path file;
  std::string by = "rd";          // the column that ranks
  std::optional<double> q_below;  // only rows with a q below this
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

// The rows of an rd.csv. Columns other than layer and expert are looked at when somebody asks for them.
class RankingFile {
 public:
  // Throws Error naming file and line: not a table, no columns layer and expert, a row without them; given the shape of
  // a model, also an expert that the model does not have, or a second row for an expert.
  explicit RankingFile(const std::filesystem::path& file, const ModelShape* shape = nullptr);

  size_t n_rows() const { return experts_.size(); }
  int32_t layer(size_t row) const { return experts_[row].first; }
  int32_t expert(size_t row) const { return experts_[row].second; }

  size_t column(std::string_view name) const { return table_.column(name); }  // Error when there is none
  std::optional<size_t> find_column(std::string_view name) const;
  // nullopt: an empty cell, which is an undefined value. The column rd has none: there it is an Error.
  std::optional<double> value(size_t row, size_t column) const;

 private:
  void check_repeats(const ModelShape& shape) const;
  CsvTable table_;
  std::vector<std::pair<int32_t, int32_t>> experts_;  // [rows] layer, expert
};

}  // namespace signalbox::probes
