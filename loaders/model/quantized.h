// Checkpoints in the engine's own quantised format (docs/quantisation.md): weight matrices as codes and scales
// (base/mxfp4.h, base/int_blocks.h), everything else as the original stores it.
//
// config.json has "quantization_config": {"quant_method": "signalbox", "format": "int8" | "int4" | "mxfp4",
// "block": 32}. A matrix [rows, cols] stands under NAME.codes, I8 [rows, cols] or, two values a byte, U8 [rows,
// cols / 2], and NAME.scales [rows, cols / 32], U8 or, of int4, BF16. NAME is the family's hub name of the tensor, and
// where experts share a tensor there the name with the expert and the part behind it ("...gate_up_proj.3.1").
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/namespaces.h"
#include "engine/weights.h"
#include "loaders/families/family.h"
#include "loaders/model/files.h"

namespace signalbox::loaders {

// The matrices that are quantised where their rows are whole blocks: attention, dense layers, experts, shared experts,
// embedding and head. Routers, and the gate of a shared expert, never.
bool is_quantized(Role role);

// NAME of a matrix, as above.
std::string quantized_name(const families::Family& family, const TensorId& id);

struct QuantizeOptions {
  DType to = DType::int8;
  bool keep_head = false;  // embedding and head stay
  int threads = 1;
};

struct QuantizedCheckpoint {
  int64_t quantized = 0;                // matrices
  std::vector<std::string> odd;         // matrices that stay, their rows being no whole blocks: weight_name
  int64_t bytes = 0, stored_bytes = 0;  // of the tensors; of the files
};

// Writes the model whose values are `weights` [host] into `directory`, which exists: weight files of about 4 GB, the
// files beside them, and last config.json. One matrix is in memory at a time. `progress` is called with bytes read and
// bytes in all. Throws Error: for a checkpoint that is quantised in this format, for a value that is not finite,
// naming the tensor, and where nothing can be quantised.
QuantizedCheckpoint write_quantized(const ModelFiles& files, const std::string& model_type, const Model& model,
                                    const Weights& weights, const QuantizeOptions& options,
                                    const std::filesystem::path& directory,
                                    const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace signalbox::loaders
