// Matched controls: the same edits on other experts of the same layers.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "probes/edit_spec.h"
#include "probes/shape.h"

namespace signalbox::eval {

// [layer][expert] how often each expert was selected; the row of a layer without a router is not looked at.
using UsageTable = std::vector<std::vector<double>>;

// Among how many experts of nearest usage a frequency-matched control draws.
inline constexpr size_t n_nearest_usage = 5;
inline constexpr int64_t n_fruitless = 1000;

// A relabelling of the experts of each layer: [layer][expert] is the expert that takes its place, -1 for those that the
// edits do not name. Within a layer no two share a replacement, so that the edits of an intervention keep their counts
// and their order, and what they have in common or apart.
using Replacement = std::vector<std::vector<int32_t>>;

// The experts that the edits of one intervention name, all together. "Outside" below are the experts of a layer that
// none of them names.
class NamedExperts {
 public:
  // `edits` is an array as EditPlan::parse takes it. Reads rankings and resolves layers. Throws Error for what the
  // model does not have.
  NamedExperts(const json::Ref& edits, const std::filesystem::path& base_dir, const ModelShape& shape);

  bool none() const;

  // Controls are told apart by what is run: exchanging experts that the edits treat alike gives the same intervention.
  // Experts are not alike where an edit gives them places (misroute fixed), or where they stand in different edits,
  // unless these follow each other and differ in their experts alone.
  //
  // How many different interventions random() can give, none of them the named one; INT64_MAX where more.
  int64_t n_random() const;

  // `n` different ones, each uniform over the experts outside; where a layer has too few, all of those are taken and
  // the rest is drawn from the named. Drawn one after the other by (seed, intervention), repetitions left out; where
  // there are no more than n, every one of them, in a fixed order.
  std::vector<Replacement> random(uint64_t seed, std::string_view intervention, int64_t n) const;

  // Of the experts of a random control, how many are named ones for want of others.
  int64_t n_shared() const;

  // Up to `n` different ones: each named expert, in drawn order, gets one of the n_nearest_usage experts outside that
  // are not taken yet and whose usage is nearest to its own (ties to the lowest index), drawn uniformly; once none is
  // left outside, of the named. Fewer where n_fruitless draws in a row bring nothing new.
  std::vector<Replacement> frequency_matched(const UsageTable& usage, uint64_t seed, std::string_view intervention,
                                             int64_t n) const;

  // From the other end: for experts of a ranking those outside of the smallest absolute value in their layer (experts
  // that it has no value for come last), for listed ones the least used outside; ties to the lowest index; named ones
  // once none is left outside. `usage` may be empty when all experts come from rankings.
  Replacement bottom(const UsageTable& usage) const;

  // Whether the edits do with it what they do without.
  bool same(const Replacement& replacement) const;

  // The share of tokens that select an expert, as a mean over the experts that take the places of the named; without a
  // replacement over the named themselves. NaN where no token was counted.
  double use(const UsageTable& usage, const Replacement* replacement = nullptr) const;

  // The edits with "experts" by layer (a list beside a point that names its layer) in the original order, and without
  // "layers". Edits that name no experts stay as they are.
  json::Value replaced(const Replacement& replacement) const;

 private:
  struct Edit {
    json::Value source;
    std::vector<std::pair<int32_t, std::vector<int32_t>>> experts;  // by layer, as named; empty: names none
    std::optional<Ranking> ranking;
    bool one_layer = false;  // its point names the layer
    bool ordered = false;    // its experts have places
    bool adds_up = false;    // an expert that two such edits name is changed twice
    std::string key;         // the edit but for its experts
  };
  // A named expert of a layer, the edit that names it first, and what the edits do with it: equal numbers, the same.
  struct Named {
    int32_t expert = 0;
    size_t edit = 0;
    int32_t role = 0;
  };
  using Identity = std::vector<std::pair<int32_t, int32_t>>;  // of a replacement: experts and roles, layer by layer
  std::vector<int32_t> outside(int32_t layer) const;
  Replacement empty_replacement() const;
  const std::vector<double>& usage_of(const UsageTable& usage, int32_t layer) const;
  UsageTable importance(const Edit& edit, const UsageTable& usage) const;
  void set_roles();
  Identity identity(const Replacement& replacement) const;
  Replacement own() const;
  int64_t n_random(int32_t layer) const;
  std::vector<std::vector<int32_t>> all_random(int32_t layer) const;
  std::vector<Replacement> all_random() const;
  Replacement draw_random(uint64_t seed, std::string_view intervention, int64_t number) const;
  Replacement draw_matched(const UsageTable& usage, uint64_t seed, std::string_view intervention, int64_t number) const;

  std::vector<Edit> edits_;
  std::vector<std::vector<Named>> named_;  // [layer] in order of first mention
  ModelShape shape_;
};

}  // namespace signalbox::eval
