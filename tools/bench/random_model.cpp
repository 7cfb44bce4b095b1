#include "tools/bench/random_model.h"

#include <algorithm>

#include "base/near_names.h"
#include "base/text.h"
#include "loaders/families/family.h"
#include "loaders/families/real_shapes.h"

namespace signalbox::tools {

namespace {

using Kind = RandomMemory::Kind;

const families::NameRow* stored_as(const families::Family& family, Role role) {
  for (const families::NameRow& row : family.names)
    if (row.role == role) return &row;
  return nullptr;
}

bool is_expert(Role role) { return role == Role::expert_gate || role == Role::expert_up || role == Role::expert_down; }

bool is_norm(Role role) {
  switch (role) {
    case Role::final_norm:
    case Role::attn_norm:
    case Role::ffn_norm:
    case Role::q_norm:
    case Role::k_norm:
    case Role::q_a_norm:
    case Role::kv_a_norm: return true;
    default: return false;
  }
}

int64_t slot_bytes(const BenchShape& shape, const TensorPlace& slot) {
  const int64_t n = slot.rows * slot.cols;
  if (slot.vector) return n * 4;
  return shape.mxfp4 && is_expert(slot.id.role) ? n / 2 + n / 32 : n * 2;
}

}  // namespace

BenchShape bench_shape_of(std::string_view config, std::string name) {
  const families::Reading reading = families::read_config(json::parse(config, name), name);
  BenchShape shape;
  shape.model = reading.model;
  shape.name = std::move(name);
  if (const families::NameRow* gate = stored_as(*reading.family, Role::expert_gate)) {
    shape.mxfp4 = gate->layout == families::Layout::mxfp4;
    shape.interleaved = gate->interleaved;
  }
  return shape;
}

BenchShape bench_shape(std::string_view name) {
  const families::RealShape* found = families::find_real_shape(name);
  if (!found)
    throw Error("--shape",
                wrong_name("a known shape", name, names_of(families::real_shapes(), &families::RealShape::name)));
  return bench_shape_of(found->config, std::string(found->name));
}

std::string bench_shape_names() { return joined(families::real_shapes(), ", ", &families::RealShape::name); }

std::vector<BenchShape> bench_shapes(int64_t most) {
  std::vector<BenchShape> shapes;
  for (const families::RealShape& shape : families::real_shapes()) {
    BenchShape candidate = bench_shape(shape.name);
    if (count_parameters(candidate.model).total <= most) shapes.push_back(std::move(candidate));
  }
  return shapes;
}

void random_tensor(const BenchShape& shape, const TensorPlace& slot, RandomMemory& memory,
                   std::vector<std::shared_ptr<const void>>& owners) {
  const auto take = [&](Kind kind, int64_t bytes) {
    owners.push_back(memory.view(kind, static_cast<size_t>(bytes)));
    return owners.back().get();
  };
  if (slot.vector) {
    if (is_norm(slot.id.role)) {
      auto ones = std::make_shared<std::vector<float>>(static_cast<size_t>(slot.cols), 1.f);
      *slot.vector = {ones->data(), slot.cols};
      owners.push_back(std::move(ones));
    } else {
      *slot.vector = {static_cast<const float*>(take(Kind::biases, slot.cols * 4)), slot.cols};
    }
    return;
  }
  Matrix& m = *slot.matrix;
  m = {};
  m.rows = slot.rows;
  m.cols = m.row_stride = slot.cols;
  const int64_t n = slot.rows * slot.cols;
  if (!is_expert(slot.id.role)) {
    m.dtype = DType::bf16;
    m.data = take(slot.id.role == Role::embed ? Kind::embeddings : Kind::weights, n * 2);
    return;
  }
  m.dtype = shape.mxfp4 ? DType::mxfp4 : DType::bf16;
  const bool pair = shape.interleaved && slot.id.role != Role::expert_down;
  const auto row_bytes = [&](int64_t values) { return shape.mxfp4 ? values / 2 : values * 2; };
  const auto behind = [&](const void* p, int64_t bytes) { return static_cast<const unsigned char*>(p) + bytes; };
  if (pair) {  // up's rows lie between gate's, in memory that gate's slot takes
    m.row_stride = 2 * slot.cols;
    m.scale_stride = shape.mxfp4 ? 2 * (slot.cols / 32) : 0;
  } else if (shape.mxfp4) {
    m.scale_stride = slot.cols / 32;
  }
  if (pair && slot.id.role == Role::expert_up) {
    const size_t at = owners.size() - (shape.mxfp4 ? 2 : 1);
    m.data = behind(owners[at].get(), row_bytes(slot.cols));
    if (shape.mxfp4) m.scales = behind(owners[at + 1].get(), slot.cols / 32);
    return;
  }
  const int64_t matrices = pair ? 2 : 1;
  m.data = take(shape.mxfp4 ? Kind::nibbles : Kind::weights, matrices * row_bytes(n));
  if (shape.mxfp4) m.scales = static_cast<const uint8_t*>(take(Kind::exponents, matrices * (n / 32)));
}

Weights random_weights(const BenchShape& shape, RandomMemory& memory) {
  Weights weights;
  std::vector<std::shared_ptr<const void>> owners;
  for_each_tensor(shape.model, weights, [&](const TensorPlace& slot) { random_tensor(shape, slot, memory, owners); });
  if (shape.model.tied_embeddings) weights.lm_head = weights.embed;
  weights.owners = std::move(owners);
  return weights;
}

int64_t random_weight_bytes(const BenchShape& shape) {
  int64_t bytes = 0;
  Weights scratch;
  for_each_tensor(shape.model, scratch, [&](const TensorPlace& slot) { bytes += slot_bytes(shape, slot); });
  return bytes;
}

int64_t layers_that_fit(const BenchShape& shape, int64_t available) {
  std::vector<int64_t> layers(shape.model.layers.size(), 0);
  int64_t used = 0;
  Weights scratch;
  for_each_tensor(shape.model, scratch, [&](const TensorPlace& slot) {
    (slot.id.layer < 0 ? used : layers[static_cast<size_t>(slot.id.layer)]) += slot_bytes(shape, slot);
  });
  int64_t n = 0;
  for (const int64_t bytes : layers) {
    used += bytes;
    if (used > available) break;
    ++n;
  }
  return n;
}

}  // namespace signalbox::tools
