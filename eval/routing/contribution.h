// What experts give, as traces record it: the points expert.norm, expert.update_share and expert.direct
// (docs/probes.md), one number for each slot of a route. contribution.csv holds their means.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/trace_set.h"

namespace signalbox::eval {

enum class Contribution : uint8_t { norm, update_share, direct };
inline constexpr int n_contributions = 3;

struct ContributionName {
  std::string_view name;    // "update_share": what rankings are asked for by, and a column of contribution.csv
  std::string_view column;  // "update": of the columns of rd.csv, rd_update and its kin
  std::string_view tensor;  // "expert.update_share"
};
inline constexpr std::array<ContributionName, n_contributions> contribution_names = {
    {{"norm", "norm", "expert.norm"},
     {"update_share", "update", "expert.update_share"},
     {"direct", "direct", "expert.direct"}}};

// Those that all traces of the set recorded, in the order above.
std::vector<Contribution> recorded_contributions(const TraceSet& set);

// The recorded numbers of some rows of a trace; those that are not recorded are empty.
class ContributionRows {
 public:
  ContributionRows(const TraceReader& trace, TraceReader::Rows rows, const std::vector<Contribution>& wanted);
  // Whether it is defined at row `t` (from the first one): expert.direct is not where no token follows.
  bool defined(Contribution which, int64_t t) const;
  // Of slot `at` of the rows' [t][layer][slot].
  float value(Contribution which, int64_t at) const {
    return values_[static_cast<size_t>(which)][static_cast<size_t>(at)];
  }

 private:
  std::array<std::vector<float>, n_contributions> values_;
  int64_t width_;  // slots of all layers of a token
};

// Means over the tokens that selected an expert.
struct ExpertContribution {
  int32_t layer = 0, expert = 0;
  std::string domain;  // empty = all records, those without a domain included
  int64_t n = 0;       // tokens that selected it
  std::array<double, n_contributions> means = {no_number, no_number, no_number};  // of those of which it is defined
};

// In the order of usage_table; empty where nothing of this is recorded.
std::vector<ExpertContribution> contribution_table(const TraceSet& set, const TokenFilter& filter);

// layer, expert, domain, n, norm, update_share, direct
void write_contribution_csv(const std::filesystem::path& file, const std::vector<ExpertContribution>& rows);

}  // namespace signalbox::eval
