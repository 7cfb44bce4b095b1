// LoRA adapters as PEFT stores them: a directory of adapter_config.json and adapter_model.safetensors.
//
// Names are those of the model's modules in transformers, with "base_model.model." before and ".lora_A.weight" [r, in]
// or ".lora_B.weight" [out, r] behind. Experts have two forms:
// - each its own modules ("...experts.7.gate_proj"), as in transformers 4;
// - one parameter for all ("...experts.gate_up_proj"), as in transformers 5. A is then [n r, in], expert by expert, and
//   B [out, r n] with the EXPERT the faster index: column k n + e is column k of expert e. Parameters of one module
//   nest: the last one's tensors are "...experts.lora_A", the one before has "...experts.base_layer.lora_A", and so on.
// A router, and a shared expert, may be a module or a parameter; the names are the same. Tensors without "lora_" take
// the place of the model's (modules_to_save).
#pragma once
#include <filesystem>

#include "base/namespaces.h"
#include "engine/adapters.h"
#include "loaders/families/family.h"

namespace signalbox::loaders::peft {

// Throws Error naming directory, file, and key or tensor: no such files, what read_config refuses, tensors of no module
// of this model or of another shape, tensors that the configuration's targets (loaders/peft/targets.h) do not name or
// targets that have no tensors, values that are not finite, axes that peft_version must tell and does not.
ModelAdapter read_adapter(const std::filesystem::path& directory, const families::Family& family, const Model& model);

}  // namespace signalbox::loaders::peft
