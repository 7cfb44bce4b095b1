#include "loaders/families/family.h"

#include "base/near_names.h"
#include "base/text.h"

namespace signalbox::loaders::families {

namespace {

// Names that Llama gave and all families kept.
const NameRow shared_names[] = {
    {Role::embed, "model.embed_tokens.weight"},
    {Role::final_norm, "model.norm.weight"},
    {Role::lm_head, "lm_head.weight"},
    {Role::attn_norm, "model.layers.{l}.input_layernorm.weight"},
    {Role::ffn_norm, "model.layers.{l}.post_attention_layernorm.weight"},
    {Role::q, "model.layers.{l}.self_attn.q_proj.weight"},
    {Role::k, "model.layers.{l}.self_attn.k_proj.weight"},
    {Role::v, "model.layers.{l}.self_attn.v_proj.weight"},
    {Role::o, "model.layers.{l}.self_attn.o_proj.weight"},
    {Role::q_bias, "model.layers.{l}.self_attn.q_proj.bias"},
    {Role::k_bias, "model.layers.{l}.self_attn.k_proj.bias"},
    {Role::v_bias, "model.layers.{l}.self_attn.v_proj.bias"},
    {Role::o_bias, "model.layers.{l}.self_attn.o_proj.bias"},
    {Role::q_norm, "model.layers.{l}.self_attn.q_norm.weight"},
    {Role::k_norm, "model.layers.{l}.self_attn.k_norm.weight"},
    {Role::dense_gate, "model.layers.{l}.mlp.gate_proj.weight"},
    {Role::dense_up, "model.layers.{l}.mlp.up_proj.weight"},
    {Role::dense_down, "model.layers.{l}.mlp.down_proj.weight"},
    {Role::router, "model.layers.{l}.mlp.gate.weight"},
    {Role::expert_gate, "model.layers.{l}.mlp.experts.{e}.gate_proj.weight"},
    {Role::expert_up, "model.layers.{l}.mlp.experts.{e}.up_proj.weight"},
    {Role::expert_down, "model.layers.{l}.mlp.experts.{e}.down_proj.weight"},
    {Role::expert_gate, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::stacked, 2, 0},
    {Role::expert_up, "model.layers.{l}.mlp.experts.gate_up_proj", Layout::stacked, 2, 1},
    {Role::expert_down, "model.layers.{l}.mlp.experts.down_proj", Layout::stacked},
};

std::string fill(std::string_view pattern, const TensorId& id) {
  std::string name;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.substr(i, 3) == "{l}") {
      name += std::to_string(id.layer);
      i += 2;
    } else if (pattern.substr(i, 3) == "{e}") {
      name += std::to_string(id.expert);
      i += 2;
    } else {
      name += pattern[i];
    }
  }
  return name;
}

}  // namespace

std::span<const NameRow> common_names() { return shared_names; }

std::vector<Source> sources(const Family& family, const TensorId& id) {
  std::vector<Source> found;
  for (const NameRow& row : family.names)
    if (row.role == id.role) found.push_back({fill(row.name, id), &row});
  if (!found.empty()) return found;
  for (const NameRow& row : shared_names)
    if (row.role == id.role) found.push_back({fill(row.name, id), &row});
  return found;
}

std::vector<int64_t> stored_shape(const Source& source, const TensorPlace& slot, int64_t n_experts) {
  const NameRow& row = *source.row;
  const bool vector = slot.vector != nullptr;
  const int64_t outer = (vector ? slot.cols : slot.rows) * row.parts;
  std::vector<int64_t> shape;
  if (row.layout != Layout::plain) shape.push_back(n_experts);
  if (vector) {
    shape.push_back(outer);
  } else if (row.layout == Layout::transposed) {
    shape.insert(shape.end(), {slot.cols, outer});
  } else if (row.layout == Layout::mxfp4) {
    shape.insert(shape.end(), {outer, slot.cols / 32, 16});
  } else {
    shape.insert(shape.end(), {outer, slot.cols});
  }
  return shape;
}

std::span<const Family> all_families() {
  static const Family families[] = {deepseek_v2, mixtral, olmoe, qwen2_moe, qwen3_moe, gpt_oss};
  return families;
}

const Family* find_family(std::string_view model_type) {
  for (const Family& family : all_families())
    if (family.model_type == model_type) return &family;
  return nullptr;
}

Reading read_config(const json::Value& root, const std::string& where) {
  Reading reading;
  reading.format = own_format(root, where);
  const json::Value plain = reading.format == DType::other ? root : without_quantization(root);
  const Config config(plain, where);
  auto type = config.root().find("model_type");
  if (!type) config.root().fail("expected the key \"model_type\", found none");
  reading.family = find_family(type->string());
  if (!reading.family)
    type->fail(wrong_name("a supported model type", type->string(), names_of(all_families(), &Family::model_type)));
  reading.model = reading.family->read(config);
  validate(reading.model);
  return reading;
}

}  // namespace signalbox::loaders::families
