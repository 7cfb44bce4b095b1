// From values to weight files: which stored tensors a model has in a style, and their bytes.
#pragma once
#include <filesystem>
#include <functional>

#include "base/namespaces.h"
#include "loaders/synthetic/values.h"

namespace signalbox::loaders::synthetic {

struct Stored {
  uint64_t bytes = 0;
  int files = 0;
};

// Writes model.safetensors, or the shards and their index, into `directory`.
Stored write_weights(const Spec& spec, const Values& values, const std::filesystem::path& directory,
                     const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace signalbox::loaders::synthetic
