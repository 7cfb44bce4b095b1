// Which experts stay, and into which of them the others go.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/changed_model.h"
#include "eval/compress/measure.h"
#include "eval/compress/pairs.h"

namespace signalbox::eval {

enum class KeepBy : uint8_t { reap, frequency, output_norm, ablation };
inline constexpr const char* score_names[] = {"reap", "frequency", "output_norm", "ablation"};

// A set of experts that becomes one.
struct MergeGroup {
  std::vector<int32_t> experts;  // the one that stays, then the others ascending
  std::vector<double> weights;   // of each in the mean: tokens that select it, as shares of their sum
};

struct LayerPlan {
  int32_t layer = 0;
  std::vector<int32_t> keep;       // ascending
  std::vector<MergeGroup> groups;  // merging: those of several experts, by the one that stays
};

struct Plan {
  std::string name;              // "plan", "random", "frequency"
  int64_t keep = 0;              // experts of each layer
  std::optional<uint64_t> seed;  // of a random one
  bool merges = false;
  std::vector<LayerPlan> layers;
};

// What plans are made of. All lists go by layers with a router.
struct PlanInputs {
  const Model* model = nullptr;
  const std::vector<LayerMeasures>* measures = nullptr;
  const std::vector<LayerPairs>* pairs = nullptr;
  std::map<int32_t, std::vector<int32_t>> kept_always;  // by layer: the super experts
  bool merges = false;
};

// What can be refused of a size before anything is measured. Throws Error naming --keep: fewer experts than are active
// or more than there are; pruning a router that limits groups, a number that its groups cannot have evenly, or of which
// the groups kept are too small for the active experts.
void check_keep(const Model& model, int64_t keep, bool merges);

// The experts of the highest scores, [layer][expert], ties to the lower id; undefined ones come last. Pruning a router
// that limits groups keeps as many experts of every group. Merging, each other expert goes to the one that stays with
// which its merge_score is the highest (where no weights were compared: use_score), super experts left out.
// Throws Error naming --keep where the super experts do not fit, or merging has no expert to merge into.
Plan best_plan(const PlanInputs& inputs, std::string name, int64_t keep,
               const std::vector<std::vector<double>>& scores);
// Drawn by seed: which stay, and, merging, where the others go. Super experts stay here too.
Plan random_plan(const PlanInputs& inputs, int64_t keep, uint64_t seed);

// How many experts a share keeps: rounded up, at least `n_active`.
int64_t kept_of_share(double share, int64_t n_experts, int64_t n_active);

// {"LAYER": {"keep": [...], "merge": [[stays, others...], ...], "merge_weights": [...]}}; the last with merges only.
json::Value layers_json(const Plan& plan);

struct ApplyOptions {
  // How the checkpoint stores a tensor (loaders/model/rewrite.h): new values are rounded to it.
  std::function<DType(const TensorId&)> stored_dtype;
  int threads = 1;
  std::string isa = "auto";
  std::function<void(int64_t done, int64_t total)> on_merged;  // groups
};

// The model under the plan. Pruned: without the experts' tensors, rows of the router and biases. Merged: the router is
// whole, and all experts of a group have the mean of their tensors, weighted by use, after each was aligned with the
// one that stays and brought to its scale.
ChangedModel apply_plan(const Model& model, const Weights& weights, const Plan& plan, const ApplyOptions& options);

}  // namespace signalbox::eval
