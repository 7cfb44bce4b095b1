#include "engine/changed_model.h"

#include <cstring>
#include <memory>
#include <numeric>
#include <string>

#include "base/error.h"

namespace signalbox::engine {

namespace {

void check_kept(int32_t layer, const std::vector<int32_t>& kept, int32_t n_experts) {
  for (size_t i = 0; i < kept.size(); ++i)
    if (kept[i] < 0 || kept[i] >= n_experts || (i > 0 && kept[i] <= kept[i - 1]))
      throw Error("experts of layer " + std::to_string(layer),
                  "expected ascending ids below " + std::to_string(n_experts) + ", found " + std::to_string(kept[i]));
}

template <class T>
std::vector<T> picked(const std::vector<T>& all, const std::vector<int32_t>& kept) {
  std::vector<T> out;
  if (all.empty()) return out;
  for (const int32_t e : kept) out.push_back(all[static_cast<size_t>(e)]);
  return out;
}

// Rows of a router. It is never a matrix of blocks.
Matrix picked_rows(const Matrix& from, const std::vector<int32_t>& kept, Weights& owner) {
  const size_t size = dtype_size(from.dtype), row_bytes = static_cast<size_t>(from.cols) * size;
  auto bytes = std::make_shared<std::vector<std::byte>>(kept.size() * row_bytes);
  for (size_t i = 0; i < kept.size(); ++i)
    std::memcpy(bytes->data() + i * row_bytes,
                static_cast<const std::byte*>(from.data) + static_cast<size_t>(kept[i] * from.row_stride) * size,
                row_bytes);
  Matrix out = from;
  out.data = bytes->data();
  out.rows = static_cast<int64_t>(kept.size());
  out.row_stride = from.cols;
  owner.owners.push_back(std::move(bytes));
  return out;
}

Vector picked_values(const Vector& from, const std::vector<int32_t>& kept, Weights& owner) {
  if (!from) return from;
  auto values = std::make_shared<std::vector<float>>();
  for (const int32_t e : kept) values->push_back(from.data[e]);
  const Vector out{values->data(), static_cast<int64_t>(values->size())};
  owner.owners.push_back(std::move(values));
  return out;
}

}  // namespace

ChangedModel keep_experts(const Model& model, const Weights& weights, const KeptExperts& kept) {
  ChangedModel changed{model, weights, {}};
  for (const int32_t layer : model.moe_layers()) {
    ExpertChange change;
    change.layer = layer;
    change.kept.resize(static_cast<size_t>(model.layers[layer].moe()->router.n_experts));
    std::iota(change.kept.begin(), change.kept.end(), 0);
    changed.changes.push_back(std::move(change));
  }
  for (const auto& [layer, ids] : kept) {
    ExpertChange* change = nullptr;
    for (ExpertChange& one : changed.changes)
      if (one.layer == layer) change = &one;
    if (!change) throw Error("experts of layer " + std::to_string(layer), "expected a layer with a router, found none");
    Moe& moe = std::get<Moe>(changed.model.layers[layer].ffn);
    check_kept(layer, ids, moe.router.n_experts);
    change->kept = ids;
    moe.router.n_experts = static_cast<int32_t>(ids.size());
    MoeWeights& w = std::get<MoeWeights>(changed.weights.layers[layer].ffn);
    w.router = picked_rows(w.router, ids, changed.weights);
    w.router_bias = picked_values(w.router_bias, ids, changed.weights);
    w.selection_bias = picked_values(w.selection_bias, ids, changed.weights);
    for (auto* list : {&w.gate, &w.up, &w.down}) *list = picked(*list, ids);
    for (auto* list : {&w.gate_bias, &w.up_bias, &w.down_bias}) *list = picked(*list, ids);
  }
  for (ExpertChange& change : changed.changes) {
    change.same_as.resize(change.kept.size());
    std::iota(change.same_as.begin(), change.same_as.end(), 0);
    change.replaced.assign(change.kept.size(), 0);
  }
  validate(changed.model);
  return changed;
}

}  // namespace signalbox::engine
