#include "engine/receivers.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/half.h"
#include "engine/kv_pool.h"

namespace signalbox::engine {

namespace {

// A list in memory of the device, at least one element long.
template <class T>
std::shared_ptr<void> uploaded_list(Backend& backend, std::span<const T> list) {
  auto memory = backend.allocate(std::max<size_t>(1, list.size()) * sizeof(T));
  if (!list.empty()) backend.upload(memory.get(), list.data(), list.size_bytes());
  return memory;
}

Vector bias_of(const Weights& weights, int64_t layer) {
  return std::get<MoeWeights>(weights.layers[static_cast<size_t>(layer)].ffn).router_bias;
}

Vector output_bias_of(const LayerWeights& weights) {
  const GqaWeights* gqa = std::get_if<GqaWeights>(&weights.attention);
  return gqa ? gqa->o_bias : std::get<MlaWeights>(weights.attention).o_bias;
}

}  // namespace

Receivers::Receivers(Backend& backend, const Model& model, const Weights& weights)
    : backend_(backend), model_(model), weights_(weights), rope_(backend, model.rope) {}

int64_t Receivers::rows_of(std::span<const float> values, int64_t width) const {
  const auto n = static_cast<int64_t>(values.size());
  if (n % width != 0)
    throw Error("receivers",
                "expected rows of " + std::to_string(width) + " values, found " + std::to_string(n) + " values");
  return n / width;
}

const Moe& Receivers::moe(int64_t layer) const {
  const Moe* found = model_.layers.at(static_cast<size_t>(layer)).moe();
  if (!found)
    throw Error("receivers", "expected a layer with a router, found layer " + std::to_string(layer) + " without one");
  return *found;
}

Receivers::Memory Receivers::make(int64_t rows, int64_t cols, DType dtype) const {
  Memory made;
  made.block = backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * dtype_size(dtype)));
  made.tensor = Tensor(static_cast<float*>(made.block.get()), rows, cols, cols, dtype);
  return made;
}

Receivers::Memory Receivers::upload(std::span<const float> values, int64_t cols, DType dtype) const {
  Memory made = make(rows_of(values, cols), cols, dtype);
  if (dtype == DType::f32) {
    backend_.upload(made.block.get(), values.data(), values.size_bytes());
    return made;
  }
  std::vector<uint16_t> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), bf16_of_float);
  backend_.upload(made.block.get(), halves.data(), halves.size() * sizeof(uint16_t));
  return made;
}

Receivers::Memory Receivers::normed(std::span<const float> streams, Vector weight) const {
  const Memory x = upload(streams, model_.d_model, DType::f32);
  Memory h = make(x.tensor.rows, model_.d_model, backend_.operand_dtype());
  backend_.rmsnorm(h.tensor, x.tensor, weight, model_.norm_eps);
  return h;
}

std::vector<float> Receivers::host(Tensor tensor) const {
  std::vector<float> out(static_cast<size_t>(tensor.rows * tensor.cols));
  if (tensor.dtype == DType::f32) {
    backend_.download(out.data(), tensor.data, out.size() * sizeof(float));
    return out;
  }
  std::vector<uint16_t> halves(out.size());
  backend_.download(halves.data(), tensor.data, halves.size() * sizeof(uint16_t));
  std::transform(halves.begin(), halves.end(), out.begin(), float_of_bf16);
  return out;
}

std::vector<float> Receivers::host(Vector vector) const {
  std::vector<float> out(static_cast<size_t>(vector.n));
  if (vector) backend_.download(out.data(), vector.data, out.size() * sizeof(float));
  return out;
}

Receivers::Routes Receivers::route(int64_t layer, Tensor logits, Tensor x, const float* bias) {
  const Router& router = moe(layer).router;
  const auto& weights = std::get<MoeWeights>(weights_.layers[static_cast<size_t>(layer)].ffn);
  const int64_t n = logits.rows;
  const auto slots = static_cast<size_t>(n * router.n_active);
  Routes out;
  out.n_slots = router.n_active;
  const auto ids = backend_.allocate(std::max<size_t>(1, slots) * sizeof(int32_t)),
             applied = backend_.allocate(std::max<size_t>(1, slots) * sizeof(float)),
             margin = backend_.allocate(std::max<size_t>(1, static_cast<size_t>(n)) * sizeof(float));
  const uint64_t none = no_fault;
  const auto fault = uploaded_list(backend_, std::span(&none, 1));
  const std::vector<int32_t> zeros(static_cast<size_t>(n));
  const auto places = uploaded_list(backend_, std::span<const int32_t>(zeros));
  Route made;
  made.n_slots = out.n_slots;
  made.ids = static_cast<int32_t*>(ids.get());
  made.weights = static_cast<float*>(applied.get());
  made.margin = static_cast<float*>(margin.get());
  made.faults = static_cast<uint64_t*>(fault.get());
  RouteBatch batch;
  batch.n_tokens = n;
  batch.positions = batch.sequences = static_cast<const int32_t*>(places.get());
  batch.layer = static_cast<int32_t>(layer);
  backend_.route(made, logits, x, weights.router, bias, router, weights.selection_bias.data, batch);
  uint64_t found = no_fault;
  backend_.download(&found, fault.get(), sizeof found);
  if (found != no_fault)
    throw Error("layer " + std::to_string(layer), "expected finite router logits, found NaN or infinity");
  out.logits = host(logits);
  out.ids.resize(slots);
  out.weights.resize(slots);
  out.margin.resize(static_cast<size_t>(n));
  backend_.download(out.ids.data(), ids.get(), slots * sizeof(int32_t));
  backend_.download(out.weights.data(), applied.get(), slots * sizeof(float));
  backend_.download(out.margin.data(), margin.get(), out.margin.size() * sizeof(float));
  return out;
}

Receivers::Routes Receivers::routes(int64_t layer, std::span<const float> streams) {
  const int64_t n_experts = moe(layer).router.n_experts;
  const Memory h = normed(streams, weights_.layers[static_cast<size_t>(layer)].ffn_norm);
  return route(layer, make(h.tensor.rows, n_experts, DType::f32).tensor, h.tensor, bias_of(weights_, layer).data);
}

Receivers::Routes Receivers::routes_of_logits(int64_t layer, std::span<const float> logits) {
  return route(layer, upload(logits, moe(layer).router.n_experts, DType::f32).tensor, {}, nullptr);
}

std::vector<float> Receivers::router_shares(int64_t layer, std::span<const float> parts, double divisor) {
  const int64_t n_experts = moe(layer).router.n_experts;
  const std::vector<float> gamma = host(weights_.layers[static_cast<size_t>(layer)].ffn_norm);
  std::vector<float> read(parts.size());
  for (size_t i = 0; i < read.size(); ++i)
    read[i] =
        static_cast<float>(static_cast<double>(gamma[i % gamma.size()]) * static_cast<double>(parts[i]) / divisor);
  const Memory x = upload(read, model_.d_model, backend_.operand_dtype());
  return route(layer, make(x.tensor.rows, n_experts, DType::f32).tensor, x.tensor, nullptr).logits;
}

std::vector<float> Receivers::router_bias(int64_t layer) const { return host(bias_of(weights_, layer)); }

std::vector<float> Receivers::expert_outputs(int64_t layer, std::span<const float> streams,
                                             std::span<const int32_t> ids, int32_t n_slots) {
  const Moe& of = moe(layer);
  const auto& layer_weights = std::get<MoeWeights>(weights_.layers[static_cast<size_t>(layer)].ffn);
  const int64_t n = rows_of(streams, model_.d_model);
  if (ids.size() != static_cast<size_t>(n * n_slots))
    throw Error("receivers", "expected " + std::to_string(n * n_slots) + " slots for " + std::to_string(n) +
                                 " rows, found " + std::to_string(ids.size()) + " ids");
  const Memory h = normed(streams, weights_.layers[static_cast<size_t>(layer)].ffn_norm);
  const auto ids_memory = uploaded_list(backend_, ids);
  const std::vector<float> ones(ids.size(), 1.0f);
  const auto weights_memory = uploaded_list(backend_, std::span<const float>(ones));
  Route route;
  route.n_slots = n_slots;
  route.ids = static_cast<int32_t*>(ids_memory.get());
  route.weights = static_cast<float*>(weights_memory.get());
  const Memory hidden = make(n * n_slots, of.d_ff, backend_.operand_dtype()),
               outputs = make(n * n_slots, model_.d_model, DType::f32);
  const uint64_t zero = 0;
  const auto leaks = uploaded_list(backend_, std::span(&zero, 1));
  const ExpertMatrices matrices = layer_weights.experts();
  backend_.experts_hidden(hidden.tensor, h.tensor, route, n, matrices, model_.activation,
                          static_cast<uint64_t*>(leaks.get()));
  backend_.experts_out(outputs.tensor, hidden.tensor, route, n, matrices);
  return host(outputs.tensor);
}

std::vector<float> Receivers::experts(int64_t layer, std::span<const float> streams, std::span<const int32_t> ids,
                                      std::span<const float> weights, int32_t n_slots) {
  if (weights.size() != ids.size())
    throw Error("receivers", "expected a weight for each of " + std::to_string(ids.size()) + " slots, found " +
                                 std::to_string(weights.size()));
  std::vector<float> out = expert_outputs(layer, streams, ids, n_slots);
  const auto d = static_cast<size_t>(model_.d_model);
  for (size_t slot = 0; slot < ids.size(); ++slot)
    for (size_t c = 0; c < d; ++c) out[slot * d + c] *= ids[slot] < 0 ? 0.f : weights[slot];
  return out;
}

std::vector<float> Receivers::combined(std::span<const float> outputs, std::span<const int32_t> ids,
                                       std::span<const float> weights, int32_t n_slots, std::span<const float> shared) {
  const int64_t n = rows_of(outputs, model_.d_model * n_slots);
  if (ids.size() != static_cast<size_t>(n * n_slots) || weights.size() != ids.size() ||
      (!shared.empty() && rows_of(shared, model_.d_model) != n))
    throw Error("receivers", "expected " + std::to_string(n * n_slots) + " slots for " + std::to_string(n) +
                                 " rows, found " + std::to_string(ids.size()) + " ids, " +
                                 std::to_string(weights.size()) + " weights and " + std::to_string(shared.size()) +
                                 " values of the shared expert");
  const Memory slots = upload(outputs, model_.d_model, DType::f32), out = make(n, model_.d_model, DType::f32);
  Memory of_shared;
  if (!shared.empty()) of_shared = upload(shared, model_.d_model, DType::f32);
  const auto ids_memory = uploaded_list(backend_, ids);
  const auto weights_memory = uploaded_list(backend_, weights);
  Route route;
  route.n_slots = n_slots;
  route.ids = static_cast<int32_t*>(ids_memory.get());
  route.weights = static_cast<float*>(weights_memory.get());
  backend_.combine(out.tensor, slots.tensor, route, of_shared.tensor);
  return host(out.tensor);
}

std::vector<float> Receivers::shared(int64_t layer, std::span<const float> streams) {
  const Moe& of = moe(layer);
  if (of.d_ff_shared == 0)
    throw Error("receivers", "expected a layer with a shared expert, found layer " + std::to_string(layer));
  const auto& weights = std::get<MoeWeights>(weights_.layers[static_cast<size_t>(layer)].ffn);
  const Memory h = normed(streams, weights_.layers[static_cast<size_t>(layer)].ffn_norm);
  const Memory hidden = make(h.tensor.rows, of.d_ff_shared, backend_.operand_dtype()),
               out = make(h.tensor.rows, model_.d_model, DType::f32);
  backend_.gated_hidden(hidden.tensor, h.tensor, weights.shared_gate, weights.shared_up, model_.activation);
  backend_.matmul(out.tensor, hidden.tensor, weights.shared_down, {});
  if (of.shared_gate) {
    const Memory gate = make(h.tensor.rows, 1, DType::f32);
    backend_.matmul(gate.tensor, h.tensor, weights.shared_scale, {});
    backend_.sigmoid_scale(out.tensor, gate.tensor);
  }
  return host(out.tensor);
}

std::vector<float> Receivers::dense(int64_t layer, std::span<const float> streams) {
  const auto* of = std::get_if<Dense>(&model_.layers.at(static_cast<size_t>(layer)).ffn);
  if (!of) throw Error("receivers", "expected a dense layer, found layer " + std::to_string(layer));
  const auto& weights = std::get<DenseWeights>(weights_.layers[static_cast<size_t>(layer)].ffn);
  const Memory h = normed(streams, weights_.layers[static_cast<size_t>(layer)].ffn_norm);
  const Memory hidden = make(h.tensor.rows, of->d_ff, backend_.operand_dtype()),
               out = make(h.tensor.rows, model_.d_model, DType::f32);
  backend_.gated_hidden(hidden.tensor, h.tensor, weights.gate, weights.up, model_.activation);
  backend_.matmul(out.tensor, hidden.tensor, weights.down, {});
  return host(out.tensor);
}

Receivers::Heads Receivers::heads(int64_t layer, std::span<const float> streams, std::span<const int32_t> positions) {
  const int64_t n = rows_of(streams, model_.d_model);
  if (static_cast<int64_t>(positions.size()) != n)
    throw Error("receivers", "expected a position for each of " + std::to_string(n) + " rows, found " +
                                 std::to_string(positions.size()));
  Heads out;
  if (n == 0) return out;
  rope_.reach(1 + *std::max_element(positions.begin(), positions.end()));
  const LayerWeights& weights = weights_.layers.at(static_cast<size_t>(layer));
  const Memory h = normed(streams, weights.attn_norm);
  const auto places = uploaded_list(backend_, positions);
  const auto* at = static_cast<const int32_t*>(places.get());
  const auto& attention = model_.layers[static_cast<size_t>(layer)].attention;
  if (const Gqa* a = std::get_if<Gqa>(&attention))
    gqa(out, *a, std::get<GqaWeights>(weights.attention), h.tensor, at);
  else
    mla(out, std::get<Mla>(attention), std::get<MlaWeights>(weights.attention), h.tensor, at);
  return out;
}

// The composition of Backend::prepare_heads, without a cache.
void Receivers::gqa(Heads& out, const Gqa& a, const GqaWeights& weights, Tensor h, const int32_t* positions) {
  const Memory q = make(h.rows, a.n_heads * a.d_head, DType::f32),
               k = make(h.rows, a.n_kv_heads * a.d_head, DType::f32),
               v = make(h.rows, a.n_kv_heads * a.d_head, DType::f32);
  const Product projections[] = {{q.tensor, &weights.q, weights.q_bias},
                                 {k.tensor, &weights.k, weights.k_bias},
                                 {v.tensor, &weights.v, weights.v_bias}};
  backend_.matmul_many(h, projections);
  if (a.qk_norm != Gqa::QkNorm::none) {
    const bool per_head = a.qk_norm == Gqa::QkNorm::per_head;
    const Tensor qs = per_head ? q.tensor.split(a.n_heads) : q.tensor,
                 ks = per_head ? k.tensor.split(a.n_kv_heads) : k.tensor;
    backend_.rmsnorm(qs, qs, weights.q_norm, model_.norm_eps);
    backend_.rmsnorm(ks, ks, weights.k_norm, model_.norm_eps);
  }
  if (a.clip > 0)
    for (const Tensor& x : {q.tensor, k.tensor, v.tensor}) backend_.clamp(x, a.clip);
  const RopeTable& table = rope_.reach(1);
  backend_.rope(q.tensor, a.n_heads, 0, table, positions);
  backend_.rope(k.tensor, a.n_kv_heads, 0, table, positions);
  out = {host(q.tensor), host(k.tensor), host(v.tensor)};
}

// Likewise of Backend::prepare_latent, and the absorbed queries.
void Receivers::mla(Heads& out, const Mla& a, const MlaWeights& weights, Tensor h, const int32_t* positions) {
  const int64_t d_cached = a.d_latent + a.d_rope;
  const Memory q = make(h.rows, a.n_heads * (a.d_nope + a.d_rope), DType::f32), kv = make(h.rows, d_cached, DType::f32);
  if (a.q_rank > 0) {
    const Memory low = make(h.rows, a.q_rank, DType::f32),
                 normed_low = make(h.rows, a.q_rank, backend_.operand_dtype());
    const Product projections[] = {{low.tensor, &weights.q_a, weights.q_a_bias},
                                   {kv.tensor, &weights.kv_a, weights.kv_a_bias}};
    backend_.matmul_many(h, projections);
    backend_.rmsnorm(normed_low.tensor, low.tensor, weights.q_a_norm, a.latent_eps);
    backend_.matmul(q.tensor, normed_low.tensor, weights.q_b, {});
  } else {
    const Product projections[] = {{q.tensor, &weights.q, {}}, {kv.tensor, &weights.kv_a, weights.kv_a_bias}};
    backend_.matmul_many(h, projections);
  }
  const RopeTable& table = rope_.reach(1);
  const Tensor latent = kv.tensor.columns(0, a.d_latent);
  backend_.rmsnorm(latent, latent, weights.kv_a_norm, a.latent_eps);
  backend_.rope(kv.tensor.columns(a.d_latent, table.n_dims), 1, 0, table, positions);
  backend_.rope(q.tensor, a.n_heads, a.d_nope, table, positions);
  const Memory absorbed = make(h.rows, a.n_heads * d_cached, DType::f32);
  backend_.mla_absorb(absorbed.tensor, q.tensor, weights.kv_b, a.n_heads, a.d_nope, a.d_rope, a.d_value);
  out.q = host(absorbed.tensor);
  out.k = host(kv.tensor);
  const auto cached = static_cast<size_t>(d_cached), width = static_cast<size_t>(a.d_latent);
  for (size_t r = 0; r < static_cast<size_t>(h.rows); ++r)
    out.v.insert(out.v.end(), out.k.begin() + static_cast<ptrdiff_t>(r * cached),
                 out.k.begin() + static_cast<ptrdiff_t>(r * cached + width));
}

std::vector<float> Receivers::logits(std::span<const float> streams, std::span<const int32_t> tokens) {
  const Memory h = normed(streams, weights_.final_norm);
  const auto d = static_cast<size_t>(model_.d_model), n = static_cast<size_t>(h.tensor.rows);
  std::vector<float> out(n * tokens.size());
  if (out.empty()) return out;
  const auto ids = uploaded_list(backend_, tokens);
  const Memory rows = make(static_cast<int64_t>(tokens.size()), model_.d_model, DType::f32);
  backend_.embed(rows.tensor, weights_.lm_head, static_cast<const int32_t*>(ids.get()));
  const std::vector<float> read = host(rows.tensor), x = host(h.tensor);
  for (size_t r = 0; r < n; ++r)
    for (size_t i = 0; i < tokens.size(); ++i) {
      double sum = 0;
      for (size_t c = 0; c < d; ++c) sum += static_cast<double>(x[r * d + c]) * static_cast<double>(read[i * d + c]);
      out[r * tokens.size() + i] = static_cast<float>(sum);
    }
  return out;
}

std::vector<float> Receivers::expand_latents(int64_t layer, std::span<const float> latents) {
  const auto* a = std::get_if<Mla>(&model_.layers.at(static_cast<size_t>(layer)).attention);
  if (!a) throw Error("receivers", "expected latent attention, found layer " + std::to_string(layer) + " without it");
  const auto& weights = std::get<MlaWeights>(weights_.layers[static_cast<size_t>(layer)].attention);
  const Memory x = upload(latents, a->n_heads * a->d_latent, backend_.operand_dtype()),
               out = make(x.tensor.rows, a->n_heads * a->d_value, backend_.operand_dtype());
  backend_.mla_expand(out.tensor, x.tensor, weights.kv_b, a->n_heads, a->d_nope, a->d_value);
  return host(out.tensor);
}

std::vector<float> Receivers::attended(int64_t layer, const Heads& heads) {
  const auto& attention = model_.layers.at(static_cast<size_t>(layer)).attention;
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const Gqa* gqa = std::get_if<Gqa>(&attention);
  AttentionParams params;
  if (gqa) {
    const auto& own = std::get<GqaWeights>(weights.attention);
    params = {gqa->n_heads, gqa->n_kv_heads, gqa->d_head, gqa->d_head, gqa->scale, gqa->window, own.sinks.data};
  } else {
    const auto& mla = std::get<Mla>(attention);
    params = {mla.n_heads, 1, mla.d_latent + mla.d_rope, mla.d_latent, mla.scale, 0, nullptr};
  }
  const Memory q = upload(heads.q, params.n_heads * params.d_key, DType::f32),
               k = upload(heads.k, params.n_kv_heads * params.d_key, DType::f32),
               v = upload(heads.v, params.n_kv_heads * params.d_value, DType::f32);
  const int64_t n = q.tensor.rows, n_blocks = KvPool::blocks_for(n), n_rows = n_blocks * KvPool::block_size;
  if (k.tensor.rows != n || v.tensor.rows != n)
    throw Error("receivers", "expected as many keys and values as queries, " + std::to_string(n) + ", found " +
                                 std::to_string(k.tensor.rows) + " and " + std::to_string(v.tensor.rows));
  const Memory out = make(n, params.n_heads * params.d_value, backend_.operand_dtype());
  if (n == 0) return {};
  KvCache cache;
  cache.dtype = backend_.kv_dtype();
  const Memory keys = make(n_rows, params.n_kv_heads * params.d_key, cache.dtype),
               values = make(n_rows, params.n_kv_heads * params.d_value, cache.dtype);
  cache.keys = keys.block.get();
  cache.values = values.block.get();
  cache.key_stride = keys.tensor.cols;
  cache.value_stride = values.tensor.cols;
  std::vector<int32_t> places(static_cast<size_t>(n)), blocks(static_cast<size_t>(n_blocks));
  std::iota(places.begin(), places.end(), 0);
  std::iota(blocks.begin(), blocks.end(), 0);
  const std::vector<int32_t> zeros(static_cast<size_t>(n));
  const auto positions = uploaded_list(backend_, std::span<const int32_t>(places)),
             table = uploaded_list(backend_, std::span<const int32_t>(blocks)),
             sequences = uploaded_list(backend_, std::span<const int32_t>(zeros));
  BatchView view;
  view.n_tokens = n;
  view.positions = view.kv_rows = static_cast<const int32_t*>(positions.get());
  view.sequences = static_cast<const int32_t*>(sequences.get());
  view.block_tables = static_cast<const int32_t*>(table.get());
  view.max_blocks = n_blocks;
  view.block_size = KvPool::block_size;
  view.max_keys = n;
  backend_.store_rows(cache.keys, cache.key_stride, k.tensor, view.kv_rows);
  backend_.store_rows(cache.values, cache.value_stride, v.tensor, view.kv_rows);
  backend_.attention(out.tensor, q.tensor, cache, view, params);
  const std::vector<float> z = host(out.tensor);
  return gqa ? z : expand_latents(layer, z);
}

Receivers::AllLogits Receivers::all_logits(std::span<const float> streams) {
  const Memory h = normed(streams, weights_.final_norm);
  Memory out = make(h.tensor.rows, model_.n_vocab, DType::f32);
  backend_.matmul(out.tensor, h.tensor, weights_.lm_head, {});
  return {std::move(out.block), out.tensor};
}

std::vector<float> Receivers::attention_output(int64_t layer, std::span<const float> z, bool with_bias) {
  const LayerWeights& weights = weights_.layers.at(static_cast<size_t>(layer));
  const Matrix& o = std::holds_alternative<GqaWeights>(weights.attention) ? std::get<GqaWeights>(weights.attention).o
                                                                          : std::get<MlaWeights>(weights.attention).o;
  const Memory x = upload(z, o.cols, backend_.operand_dtype());
  const Memory out = make(x.tensor.rows, model_.d_model, DType::f32);
  backend_.matmul(out.tensor, x.tensor, o, with_bias ? output_bias_of(weights) : Vector());
  return host(out.tensor);
}

std::vector<float> Receivers::attention_bias(int64_t layer) const {
  return host(output_bias_of(weights_.layers.at(static_cast<size_t>(layer))));
}

}  // namespace signalbox::engine
