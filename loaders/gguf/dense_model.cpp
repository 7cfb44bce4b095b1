#include "loaders/gguf/dense_model.h"

#include <algorithm>
#include <set>
#include <string>

#include "base/error.h"
#include "base/safetensors.h"

namespace signalbox::loaders::gguf {

namespace {

constexpr const char* architecture = "llama";
constexpr int64_t max_size = int64_t{1} << 24;

// Under "llama.", what is read below and what says nothing of the computation.
const std::set<std::string, std::less<>> known_keys = {
    "block_count",          "context_length",         "embedding_length",
    "feed_forward_length",  "attention.head_count",   "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.freq_base",       "rope.dimension_count",   "rope.scaling.type",
    "rope.scaling.factor",  "rope.scaling.finetuned", "rope.scaling.original_context_length",
    "vocab_size",           "expert_count",           "expert_used_count",
};

std::string key(std::string_view name) { return std::string(architecture) + "." + std::string(name); }

// Where the tensors of a role lie; null: in no file of this layout.
const char* name_of(Role role) {
  switch (role) {
    case Role::embed: return "token_embd";
    case Role::final_norm: return "output_norm";
    case Role::lm_head: return "output";
    case Role::attn_norm: return "attn_norm";
    case Role::ffn_norm: return "ffn_norm";
    case Role::q: return "attn_q";
    case Role::k: return "attn_k";
    case Role::v: return "attn_v";
    case Role::o: return "attn_output";
    case Role::dense_gate: return "ffn_gate";
    case Role::dense_up: return "ffn_up";
    case Role::dense_down: return "ffn_down";
    default: return nullptr;
  }
}

std::string tensor_name(Role role, int32_t layer) {
  const std::string name = std::string(name_of(role)) + ".weight";
  return layer < 0 ? name : "blk." + std::to_string(layer) + "." + name;
}

families::DenseShape read_shape(const File& file) {
  if (const std::string& name = file.string("general.architecture"); name != architecture)
    file.fail("general.architecture", std::string("expected \"") + architecture + "\", found \"" + name + "\"");
  const std::string start = key("");
  for (const auto& [name, value] : file.metadata())
    if (name.starts_with(start) && !known_keys.contains(name.substr(start.size())))
      file.fail(name, "expected none of this name, which may change what the model computes, found one");
  if (file.integer(key("expert_count"), 0, max_size, 0) > 0)
    file.fail(key("expert_count"), "expected a dense model, found experts");
  families::DenseShape shape;
  shape.n_layers = file.integer(key("block_count"), 1, 4096);
  shape.d_model = file.integer(key("embedding_length"), 1, max_size);
  shape.d_ff = file.integer(key("feed_forward_length"), 1, max_size);
  shape.max_positions = file.integer(key("context_length"), 1, INT32_MAX);
  shape.n_heads = file.integer(key("attention.head_count"), 1, 4096);
  shape.n_kv_heads = file.integer(key("attention.head_count_kv"), 1, 4096, shape.n_heads);
  if (shape.n_heads % shape.n_kv_heads != 0)
    file.fail(key("attention.head_count_kv"), "expected a divisor of " + std::to_string(shape.n_heads) +
                                                  " heads, found " + std::to_string(shape.n_kv_heads));
  if (!file.has(key("attention.key_length")) && shape.d_model % shape.n_heads != 0)
    file.fail(key("attention.head_count"), "expected a divisor of the embedding length " +
                                               std::to_string(shape.d_model) + ", found " +
                                               std::to_string(shape.n_heads));
  shape.d_head = file.integer(key("attention.key_length"), 2, 4096, shape.d_model / shape.n_heads);
  for (const char* name : {"attention.value_length", "rope.dimension_count"})
    if (const int64_t found = file.integer(key(name), 1, 4096, shape.d_head); found != shape.d_head)
      file.fail(key(name), "expected " + std::to_string(shape.d_head) + " (the dimensions of a head's key), found " +
                               std::to_string(found));
  if (shape.d_head % 2 != 0)
    file.fail(key("attention.head_count"),
              "expected an even number of dimensions a head, found " + std::to_string(shape.d_head));
  shape.norm_eps = file.number(key("attention.layer_norm_rms_epsilon"));
  shape.rope_theta = file.number(key("rope.freq_base"), 10000);
  for (const char* name : {"attention.layer_norm_rms_epsilon", "rope.freq_base"})
    if (file.has(key(name)) && !(file.number(key(name)) > 0)) file.fail(key(name), "expected a number above 0");
  if (file.has(key("rope.scaling.type"))) {
    const std::string& type = file.string(key("rope.scaling.type"));
    if (type == "linear") {
      shape.rope_factor = file.number(key("rope.scaling.factor"));
    } else if (type != "none") {
      file.fail(key("rope.scaling.type"), "expected \"none\" or \"linear\", found \"" + type + "\"");
    }
  }
  for (const auto& [name, id] : {std::pair("bos", &shape.bos), {"eos", &shape.eos}, {"padding", &shape.pad}}) {
    const std::string full = std::string("tokenizer.ggml.") + name + "_token_id";
    if (file.has(full)) *id = file.integer(full, 0, INT32_MAX);
  }
  return shape;
}

}  // namespace

DenseModel::DenseModel(std::shared_ptr<const File> file) : file_(std::move(file)), shape_(read_shape(*file_)) {
  const TensorInfo& embed = tensor(Role::embed, -1);
  shape_.n_vocab = embed.shape.front();
  if (file_->integer(key("vocab_size"), 1, max_size, shape_.n_vocab) != shape_.n_vocab)
    file_->fail(key("vocab_size"), "expected " + std::to_string(shape_.n_vocab) + " (rows of " + embed.name + ")");
  shape_.tied_embeddings = file_->find(tensor_name(Role::lm_head, -1)) == nullptr;
  for (const auto& [name, id] : {std::pair("bos", shape_.bos), {"eos", shape_.eos}, {"padding", shape_.pad}})
    if (id && *id >= shape_.n_vocab)
      file_->fail(std::string("tokenizer.ggml.") + name + "_token_id",
                  "expected an id below " + std::to_string(shape_.n_vocab) + ", found " + std::to_string(*id));
  check_tensors();
}

const TensorInfo& DenseModel::tensor(Role role, int32_t layer) const {
  const std::string name = tensor_name(role, layer);
  if (const TensorInfo* found = file_->find(name)) return *found;
  throw Error(file_->name(), "expected the tensor \"" + name + "\", found none of that name");
}

void DenseModel::check_tensors() const {
  std::set<std::string_view> asked;
  const auto check = [&](Role role, int32_t layer, std::vector<int64_t> shape) {
    const TensorInfo& found = tensor(role, layer);
    if (found.shape != shape)
      throw Error(
          file_->name() + ": tensor \"" + found.name + "\"",
          "expected the shape " + safetensors::shape_text(shape) + ", found " + safetensors::shape_text(found.shape));
    file_->dequantise(found, 0, 0, nullptr);  // refuses a type that is not known
    asked.insert(found.name);
  };
  const int64_t d = shape_.d_model, q = shape_.n_heads * shape_.d_head, kv = shape_.n_kv_heads * shape_.d_head;
  check(Role::embed, -1, {shape_.n_vocab, d});
  check(Role::final_norm, -1, {d});
  if (!shape_.tied_embeddings) check(Role::lm_head, -1, {shape_.n_vocab, d});
  for (int32_t l = 0; l < shape_.n_layers; ++l) {
    check(Role::attn_norm, l, {d});
    check(Role::q, l, {q, d});
    check(Role::k, l, {kv, d});
    check(Role::v, l, {kv, d});
    check(Role::o, l, {d, q});
    check(Role::ffn_norm, l, {d});
    check(Role::dense_gate, l, {shape_.d_ff, d});
    check(Role::dense_up, l, {shape_.d_ff, d});
    check(Role::dense_down, l, {d, shape_.d_ff});
  }
  for (const TensorInfo& found : file_->tensors())
    if (!asked.contains(found.name))
      throw Error(file_->name() + ": tensor \"" + found.name + "\"",
                  "expected only tensors of a dense model of this layout, found one more");
}

void DenseModel::values(const TensorPlace& place, std::span<float> out) const {
  const Role role = place.id.role;
  if (role == Role::q_bias || role == Role::k_bias || role == Role::v_bias) {
    std::fill(out.begin(), out.end(), 0.0f);
    return;
  }
  const TensorInfo& stored = tensor(role, place.id.layer);
  if (role != Role::q && role != Role::k) {
    file_->dequantise(stored, 0, stored.elements(), out.data());
    return;
  }
  const std::vector<float> rows = file_->dequantise(stored);
  const int64_t half = shape_.d_head / 2, cols = place.cols;
  for (int64_t r = 0; r < place.rows; ++r) {
    const int64_t head = r / shape_.d_head, part = r % shape_.d_head / half, i = r % half;
    const float* from = rows.data() + (head * shape_.d_head + 2 * i + part) * cols;
    std::copy(from, from + cols, out.data() + r * cols);
  }
}

}  // namespace signalbox::loaders::gguf
