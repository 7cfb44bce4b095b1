// A checkpoint of a model that comes from no other: values by tensor, stored under the family's hub names.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "base/dtype.h"
#include "base/json.h"
#include "base/namespaces.h"
#include "engine/weights.h"

namespace signalbox::loaders {

// Fills `out` [rows * cols] with a tensor's values.
using TensorValues = std::function<void(const TensorPlace& place, std::span<float> out)>;

// Writes model.safetensors and then config.json, without which a directory is no model, into `directory` (which
// exists): the tensors of the model that `config` describes, in `dtype` (f32, f16 or bf16, to nearest). One tensor is
// in memory at a time. `progress` is called with bytes written and bytes in all. Throws Error, also for a value that is
// not finite in the dtype, naming the tensor.
void write_checkpoint(const std::filesystem::path& directory, const json::Value& config, DType dtype,
                      const TensorValues& values, const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace signalbox::loaders
