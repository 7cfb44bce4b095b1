// LoRA adapters written as PEFT stores them (loaders/peft/read.h).
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/namespaces.h"
#include "engine/adapters.h"
#include "loaders/families/family.h"

namespace signalbox::loaders::peft {

struct WriteSettings {
  int64_t rank = 8;
  double alpha = 8;
  bool rslora = false;
  // Each expert in modules of its own, all of them, those without a pair as zeros; else one parameter for all, which
  // transformers 5 and PEFT from 0.19 read. Of the latter the gate and the up of an expert must have one a.
  bool per_expert = false;
  std::string base_model;
  std::string base_weights = {};  // hash_of_weights of it; empty: not told
};

// Throws Error where the family has no form for an expert by itself, before anything is computed.
void check_form(const families::Family& family, const Model& model, bool per_expert);

// Files of `directory`, which exists: adapter_config.json, then adapter_model.safetensors. `matrices` are in the order
// of the model's tensors, each of settings.rank and of the scale that settings say. Attention and the head are written
// as modules; routers, shared experts and dense layers as parameters, which is what PEFT on transformers 5 looks for.
void write_adapter(const std::filesystem::path& directory, const families::Family& family, const Model& model,
                   std::span<const AdaptedMatrix> matrices, const WriteSettings& settings);

}  // namespace signalbox::loaders::peft
