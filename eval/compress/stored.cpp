#include "eval/compress/stored.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "base/mxfp4.h"
#include "engine/matrix_values.h"
#include "eval/compress/neurons.h"

namespace signalbox::eval {

namespace {

ExpertChange& change_of(ChangedModel& changed, int32_t layer) {
  return *std::find_if(changed.changes.begin(), changed.changes.end(),
                       [&](const ExpertChange& change) { return change.layer == layer; });
}

}  // namespace

Matrix stored_matrix(const std::vector<double>& values, int64_t rows, int64_t cols, DType dtype, TensorOwners& owners) {
  Matrix out{nullptr, dtype, rows, cols, cols, nullptr, 0};
  const auto n = static_cast<size_t>(rows * cols);
  if (dtype == DType::mxfp4) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(n / 2 + n / mxfp4_block);
    uint8_t* scales = bytes->data() + n / 2;
    float block[mxfp4_block];
    for (size_t b = 0; b < n / mxfp4_block; ++b) {
      for (int64_t i = 0; i < mxfp4_block; ++i) block[i] = static_cast<float>(values[b * mxfp4_block + i]);
      scales[b] = mxfp4_of_floats(block, bytes->data() + b * mxfp4_block / 2);
    }
    out.data = bytes->data();
    out.scales = scales;
    out.scale_stride = cols / mxfp4_block;
    owners.push_back(std::move(bytes));
    return out;
  }
  const std::vector<float> singles(values.begin(), values.end());
  return engine::stored_copy(singles.data(), rows, cols, dtype, owners);
}

Vector stored_vector(const std::vector<double>& values, DType dtype, TensorOwners& owners) {
  auto floats = std::make_shared<std::vector<float>>();
  for (const double value : values) floats->push_back(kept_by(dtype, static_cast<float>(value)));
  const Vector out{floats->data(), static_cast<int64_t>(floats->size())};
  owners.push_back(std::move(floats));
  return out;
}

void put_expert(ChangedModel& changed, int32_t layer, int32_t expert, const StoredExpert& with) {
  MoeWeights& w = std::get<MoeWeights>(changed.weights.layers[static_cast<size_t>(layer)].ffn);
  const auto e = static_cast<size_t>(expert);
  w.gate[e] = with.gate;
  w.up[e] = with.up;
  w.down[e] = with.down;
  if (!w.gate_bias.empty()) {
    w.gate_bias[e] = with.gate_bias;
    w.up_bias[e] = with.up_bias;
    w.down_bias[e] = with.down_bias;
  }
  ExpertChange& change = change_of(changed, layer);
  change.same_as[e] = expert;
  change.replaced[e] = 1;
  changed.weights.owners.insert(changed.weights.owners.end(), with.owners.begin(), with.owners.end());
}

void share_expert(ChangedModel& changed, int32_t layer, int32_t expert, int32_t with) {
  MoeWeights& w = std::get<MoeWeights>(changed.weights.layers[static_cast<size_t>(layer)].ffn);
  const auto e = static_cast<size_t>(expert), other = static_cast<size_t>(with);
  for (auto* list : {&w.gate, &w.up, &w.down}) (*list)[e] = (*list)[other];
  for (auto* list : {&w.gate_bias, &w.up_bias, &w.down_bias})
    if (!list->empty()) (*list)[e] = (*list)[other];
  ExpertChange& change = change_of(changed, layer);
  change.same_as[e] = with;
  change.replaced[e] = 1;
}

}  // namespace signalbox::eval
