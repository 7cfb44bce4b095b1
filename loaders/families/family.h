// A family: how one model_type's config.json becomes a Model, and under which names its checkpoints store tensors.
//
// A family is a reader and a table of names. The table is read in both directions: loading asks where a tensor lies,
// the synthetic-model maker asks what to write.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "loaders/families/config.h"

namespace signalbox::loaders::families {

// How the values of a tensor lie in a stored one.
enum class Layout : uint8_t {
  plain,       // [rows, cols], or [n] for a vector
  stacked,     // [n_experts, rows, cols]: all experts in one tensor
  transposed,  // [n_experts, cols, rows]
  mxfp4,       // [n_experts, rows, cols / 32, 16] in NAME_blocks and [n_experts, rows, cols / 32] in NAME_scales
};

// One way of storing the tensors of a role. `{l}` and `{e}` in the name stand for the layer and the expert.
struct NameRow {
  Role role;
  std::string_view name;
  Layout layout = Layout::plain;
  // Gate and up in one tensor: `parts` = 2 roles share the rows; this one has part 0 or 1, as a block (gate rows first)
  // or interleaved (rows part, part + 2, ...).
  int parts = 1, part = 0;
  bool interleaved = false;
};

// Where one tensor lies: a row of the table with its name filled in.
struct Source {
  std::string name;
  const NameRow* row = nullptr;
};

// What config.json says where each layer has one feed-forward block in the place of its experts.
enum class OneBlock : uint8_t {
  expert,   // no dense layers: one expert, which is always chosen with weight 1
  listed,   // dense layers, by mlp_only_layers
  counted,  // dense layers, by first_k_dense_replace
};

struct Family {
  std::string_view model_type;
  Model (*read)(const Config& config);  // refuses what it does not honour
  std::span<const NameRow> names;       // in the place of the common names for their roles
  std::string_view example;             // config.json of a tiny model, for make-model and tests
  OneBlock one_block = OneBlock::expert;
};

// Roles whose names all families share.
std::span<const NameRow> common_names();

// All places where a tensor of this family may lie, in order of preference: as hub checkpoints have it, and last as
// transformers 5 saves it.
std::vector<Source> sources(const Family& family, const TensorId& id);

// The shape that `source` must have for a slot of `rows` x `cols` (vectors: rows = 1) and `n_experts`; for mxfp4 the
// shape of the blocks.
std::vector<int64_t> stored_shape(const Source& source, const TensorPlace& slot, int64_t n_experts);

// All families, and one by config.json's model_type (nullptr if there is none).
std::span<const Family> all_families();
const Family* find_family(std::string_view model_type);

// config.json -> family and Model, validated. Throws Error naming the file and the key.
struct Reading {
  const Family* family = nullptr;
  Model model;
  DType format = DType::other;  // own_format()
};
Reading read_config(const json::Value& config, const std::string& where);

// The format of a checkpoint that the engine quantised itself (loaders/model/quantized.h), whatever its family: int8,
// int4 or mxfp4; other: it did not. Throws Error for a quantization_config of quant_method "signalbox" that it does not
// know.
DType own_format(const json::Value& config, const std::string& where);
// config.json of such a checkpoint, and of one that is not quantised.
json::Value with_own_format(const json::Value& config, DType format);
json::Value without_quantization(const json::Value& config);
// "int8", "int4", "mxfp4"; other: another word.
DType format_of_word(std::string_view word);

// config.json of the model with one block of `width` neurons in the place of each layer's experts, and, in families
// with dense layers, of those that were dense. Weights are then not quantised.
json::Value with_one_block(const Family& family, const json::Value& config, int64_t n_layers, int64_t width);

// The families, one a file.
extern const Family deepseek_v2, mixtral, olmoe, qwen2_moe, qwen3_moe, gpt_oss;

}  // namespace signalbox::loaders::families
