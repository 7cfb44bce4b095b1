// Fine-tuned experts as files, in the form of Wang et al. (2407.01906): expert_cfg.json says which parts of a model
// train, safetensors beside it hold these tensors whole, under the names that hub checkpoints have.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/changed_model.h"
#include "engine/session.h"
#include "eval/causal/weight_gradients.h"
#include "loaders/families/family.h"
#include "train/expert_choice.h"
#include "train/namespaces.h"

namespace signalbox::train {

inline constexpr const char *expert_config_file = "expert_cfg.json", *expert_weights_file = "experts.safetensors";

// {"experts": {"LAYER": [ids]}, "shared_experts": bool, "non_expert_modules": bool}
struct ExpertConfig {
  ExpertsByLayer experts;           // of layers that are not there: none
  bool shared_experts = false;      // and the shared experts of all layers, their gates included
  bool non_expert_modules = false;  // and all that is no expert: attention, routers, norms, embeddings, dense layers
  bool has(const TensorId& id) const;
};

// Throws Error naming file and key: unknown keys, layers without a router, ids that are none of its experts' or stand
// twice, and a file that names nothing.
ExpertConfig read_expert_config(const std::filesystem::path& file, const Model& model);
std::string expert_config_json(const ExpertConfig& config);

// The weights that it names, of all that can train.
std::vector<WantedWeight> wanted_of(const ExpertConfig& config, const Session& session);

// Writes both files into a directory that must not exist yet. `changed`: the model that has the tensors, matrices in
// the dtype of `stored_dtype`. Returns false, and writes nothing, where the family's hub checkpoints keep all experts
// in one tensor, so that no name stands for one.
bool write_expert_directory(const std::filesystem::path& dir, const ExpertConfig& config,
                            const loaders::families::Family& family, const ChangedModel& changed,
                            const std::function<DType(const TensorId&)>& stored_dtype);

// The files of such a directory: expert_cfg.json, then its safetensors in order. Throws Error where one kind is
// missing.
std::vector<std::filesystem::path> expert_files(const std::filesystem::path& dir);

// The model with the tensors of such a directory in the place of its own, rounded to the dtype that it stores. Throws
// Error naming file and tensor: tensors that the configuration does not name or the model does not have, other shapes,
// tensors of named experts that are missing.
ChangedModel apply_expert_directory(const std::filesystem::path& dir, const loaders::families::Family& family,
                                    const Session& session, const std::function<DType(const TensorId&)>& stored_dtype);

}  // namespace signalbox::train
