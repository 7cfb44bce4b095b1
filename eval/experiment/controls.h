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

  // Uniform over the experts outside; where those are too few they are all taken, and the rest is drawn from the named.
  // A function of (seed, intervention, number).
  Replacement random(uint64_t seed, std::string_view intervention, int64_t number) const;

  // Each named expert, in drawn order, gets one of the n_nearest_usage experts outside that are not taken yet and whose
  // usage is nearest to its own (ties to the lowest index), drawn uniformly; once none is left outside, of the named.
  Replacement frequency_matched(const UsageTable& usage, uint64_t seed, std::string_view intervention,
                                int64_t number) const;

  // From the other end: for experts of a ranking those outside of the smallest absolute value in their layer (experts
  // that it has no value for come last), for listed ones the least used outside; ties to the lowest index; named ones
  // once none is left outside. `usage` may be empty when all experts come from rankings.
  Replacement bottom(const UsageTable& usage) const;

  // The edits with "experts" by layer (a list beside a point that names its layer) in the original order, and without
  // "layers". Edits that name no experts stay as they are.
  json::Value replaced(const Replacement& replacement) const;

 private:
  struct Edit {
    json::Value source;
    std::vector<std::pair<int32_t, std::vector<int32_t>>> experts;  // by layer, as named; empty: names none
    std::optional<Ranking> ranking;
    bool one_layer = false;  // its point names the layer
  };
  // A named expert of a layer, and the edit that names it first.
  struct Named {
    int32_t expert = 0;
    size_t edit = 0;
  };
  std::vector<int32_t> outside(int32_t layer) const;
  Replacement empty_replacement() const;
  const std::vector<double>& usage_of(const UsageTable& usage, int32_t layer) const;
  UsageTable importance(const Edit& edit, const UsageTable& usage) const;

  std::vector<Edit> edits_;
  std::vector<std::vector<Named>> named_;  // [layer] in order of first mention
  ModelShape shape_;
};

}  // namespace signalbox::eval
