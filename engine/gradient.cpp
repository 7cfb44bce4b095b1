#include "engine/gradient.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "engine/unselected_experts.h"
#include "engine/weight_sums.h"

namespace signalbox::engine {

using enum Activations;

bool has_gradient(Point point) {
  switch (point) {
    case Point::router_logits:
    case Point::router_weights:
    case Point::expert_contribution:
    case Point::attn_pattern:
    case Point::logits: return true;
    default: return point_info(point).writable;
  }
}

// One way back: the adjoints of engine/layers.cpp, each function beside the one it turns round.
class Backward {
 public:
  // `sums`: null where no gradients of weights are wanted.
  Backward(Gradient& gradient, const Batch& batch, ProbeSink& slopes, const Gradient::More& more, WeightSums* sums)
      : backend_(gradient.backend_),
        model_(gradient.model_),
        weights_(gradient.weights_),
        forward_(gradient.forward_),
        buffers_(gradient.forward_.buffers()),
        batch_(batch),
        slopes_(slopes),
        more_(more),
        routing_(gradient.routing_),
        sums_(sums),
        n_tokens_(batch.n_tokens()) {
    if (more.readers) readers_.emplace(backend_, model_, weights_, *more.readers);
  }

  // dM/d of the stream behind the last layer, from that of the logits of batch.logit_rows.
  Tensor head(Tensor d_logits);
  // From dM/d of the stream behind layer l to that before it, in place. The layer's activations are kept.
  void layer(int64_t l, Tensor d);
  void embed(Tensor d) {
    at(Point::embed, -1, d);
    if (sums_) sums_->embed(d);
  }
  // A point of the stream: what was recorded there, then back through what was written.
  void at(Point point, int64_t l, Tensor d, const Route& route = {}, int32_t n_slots = 1) {
    emit(point, l, d, n_slots);
    forward_.writes().pull(point, l, d, route, n_slots);
  }
  Route route(int64_t l) const;

 private:
  Tensor tensor(int64_t rows, int64_t cols) {
    memory_.push_back(backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float))));
    return Tensor(static_cast<float*>(memory_.back().get()), rows, cols);
  }
  Tensor copy(Tensor x) {
    const Tensor to = tensor(x.rows, x.cols);
    backend_.copy(to.data, x.data, static_cast<size_t>(x.rows * x.cols) * sizeof(float));
    return to;
  }
  Tensor kept(Activations what, int64_t l) const {
    const Tensor found = buffers_.kept(what, l);
    if (!found) throw Error("gradient", "expected a layer whose activations are kept, found one without");
    return found;
  }
  void emit(Point point, int64_t l, Tensor d, int32_t n_slots);
  void final_norm(Tensor d_x, Tensor d_normed, Tensor x);
  void emit_contributions(int64_t l, Tensor d, const Route& route);
  void emit_pattern(int64_t l, Tensor d_out, const AttentionParams& params) {
    if (!slopes_.wants(Point::attn_pattern, static_cast<int32_t>(l))) return;
    const Tensor d = tensor(n_tokens_, params.n_heads * forward_.step().n_keys());
    weight_adjoints(backend_).pattern_slopes(d, d_out, forward_.step().cache(l), forward_.step().view(), params);
    emit(Point::attn_pattern, l, d, 1);
  }
  void attention(int64_t l, const Gqa& a, const GqaWeights& weights, Tensor d_h, Tensor d_out);
  void attention(int64_t l, const Mla& a, const MlaWeights& weights, Tensor d_h, Tensor d_out);
  void feed_forward(int64_t l, const Dense& dense, const DenseWeights& weights, Tensor d_h, Tensor d_out);
  void feed_forward(int64_t l, const Moe& moe, const MoeWeights& weights, Tensor d_h, Tensor d_out);
  void shared_expert(int64_t l, const Moe& moe, const MoeWeights& weights, Tensor d_h, Tensor d_out,
                     const Route& route);
  void routing(int64_t l, const Moe& moe, const MoeWeights& weights, const Route& route, Tensor d_out, Tensor d_logits,
               Tensor d_outputs);
  // Of out = x w^T + b, and of what two gated products read, where a weight of them is wanted.
  void sum_product(Role matrix, std::optional<Role> bias, int64_t l, Tensor d_out, Tensor x) {
    if (!sums_) return;
    sums_->matrix(matrix, l, d_out, x);
    if (bias) sums_->bias(*bias, l, d_out);
  }
  void sum_gated(Role gate, Role up, int64_t l, Tensor d_hidden, Tensor x, const Matrix& w_gate, const Matrix& w_up) {
    if (!sums_ || !(sums_->wants_matrix(gate, l) || sums_->wants_matrix(up, l))) return;
    const Tensor d_gate = tensor(n_tokens_, w_gate.rows), d_up = tensor(n_tokens_, w_gate.rows);
    sums_->ops().gated_slopes(d_gate, d_up, d_hidden, x, w_gate, w_up, model_.activation);
    sums_->matrix(gate, l, d_gate, x);
    sums_->matrix(up, l, d_up, x);
  }
  // What one of the readers of the normed stream saw: its own copy where an edit wrote to it.
  Tensor read(Activations copy, int64_t l) const {
    const Tensor own = buffers_.kept(copy, l);
    return own ? own : kept(ffn_normed, l);
  }

  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  Forward& forward_;
  Buffers& buffers_;
  const Batch& batch_;
  ProbeSink& slopes_;
  const Gradient::More& more_;
  RoutingSlopes* routing_;
  std::optional<StreamReaders> readers_;
  WeightSums* sums_;
  int64_t n_tokens_;
  std::vector<std::shared_ptr<void>> memory_;  // of the part at hand
  std::vector<float> host_;
};

void Backward::emit(Point point, int64_t l, Tensor d, int32_t n_slots) {
  if (!slopes_.wants(point, static_cast<int32_t>(l))) return;
  host_.resize(static_cast<size_t>(d.rows * d.cols));
  for (int64_t r = 0; r < (d.contiguous() ? 1 : d.rows); ++r) {
    const int64_t n = d.contiguous() ? d.rows * d.cols : d.cols;
    backend_.download(host_.data() + r * d.cols, d.row(r), static_cast<size_t>(n) * sizeof(float));
  }
  slopes_.take(point, static_cast<int32_t>(l), host_.data(), d.cols * n_slots);
}

// dM/d contribution of a used slot is that of the block's output; slots stand by ascending expert, unused ones last.
void Backward::emit_contributions(int64_t l, Tensor d, const Route& route) {
  if (!slopes_.wants(Point::expert_contribution, static_cast<int32_t>(l))) return;
  std::vector<int32_t> ids(static_cast<size_t>(n_tokens_ * route.n_slots));
  backend_.download(ids.data(), route.ids, ids.size() * sizeof(int32_t));
  std::vector<float> rows(static_cast<size_t>(n_tokens_ * d.cols));
  backend_.download(rows.data(), d.data, rows.size() * sizeof(float));
  host_.assign(static_cast<size_t>(n_tokens_ * route.n_slots * d.cols), 0.f);
  for (int64_t t = 0; t < n_tokens_; ++t) {
    const auto first = ids.begin() + t * route.n_slots;
    const int64_t used = std::count_if(first, first + route.n_slots, [](int32_t id) { return id >= 0; });
    for (int64_t i = 0; i < used; ++i)
      std::copy_n(rows.data() + t * d.cols, d.cols, host_.data() + (t * route.n_slots + i) * d.cols);
  }
  slopes_.take(Point::expert_contribution, static_cast<int32_t>(l), host_.data(), d.cols * route.n_slots);
}

Route Backward::route(int64_t l) const {
  Route route;
  const Tensor ids = kept(route_ids, l);
  route.n_slots = static_cast<int32_t>(ids.cols);
  route.ids = ids.as<int32_t>();
  route.weights = kept(route_weights, l).data;
  route.margin = kept(route_margin, l).data;
  route.shared_scale = buffers_.kept(route_shared_scale, l).data;
  return route;
}

// d_x [rows, d_model] from that of the normed rows of x.
void Backward::final_norm(Tensor d_x, Tensor d_normed, Tensor x) {
  if (!more_.holds_final_divisor) {
    backend_.rmsnorm_adjoint(d_x, d_normed, x, weights_.final_norm, model_.norm_eps, false);
    return;
  }
  const size_t n = static_cast<size_t>(model_.d_model);
  std::vector<float> d(static_cast<size_t>(x.rows) * n), stream(d.size()), gamma(n);
  backend_.download(d.data(), d_normed.data, d.size() * sizeof(float));
  backend_.download(stream.data(), x.data, stream.size() * sizeof(float));
  backend_.download(gamma.data(), weights_.final_norm.data, n * sizeof(float));
  for (size_t r = 0; r < static_cast<size_t>(x.rows); ++r) {
    double squares = 0;
    for (size_t i = 0; i < n; ++i) squares += static_cast<double>(stream[r * n + i]) * stream[r * n + i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(model_.norm_eps));
    for (size_t i = 0; i < n; ++i) d[r * n + i] = static_cast<float>(d[r * n + i] * gamma[i] * inverse);
  }
  backend_.upload(d_x.data, d.data(), d.size() * sizeof(float));
}

Tensor Backward::head(Tensor d_logits) {
  const int64_t d_model = model_.d_model, last = model_.n_layers() - 1;
  const Tensor d = tensor(n_tokens_, d_model);
  const bool whole = static_cast<bool>(buffers_.kept(final_normed, -1)) && !buffers_.kept(resid_picked, -1);
  const Tensor d_rows = tensor(d_logits.rows, d_model);
  if (sums_) {
    const Tensor every = buffers_.kept(final_normed, -1);
    sums_->head(d_logits, every ? every : kept(final_picked, -1), static_cast<bool>(every));
  }
  backend_.matmul_adjoint(d_rows, d_logits, weights_.lm_head, false);
  std::vector<int32_t> from(batch_.logit_rows.size());
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<int32_t>(i);
  const auto spread = [&](Tensor to, Tensor rows) {
    backend_.fill(to.data, 0, static_cast<size_t>(to.rows * to.cols) * sizeof(float));
    backend_.edit_rows(to, batch_.logit_rows, rows, from, {}, false, 1.f);
  };
  if (slopes_.wants(Point::logits, -1)) {
    const Tensor every = tensor(n_tokens_, model_.n_vocab);
    spread(every, d_logits);
    emit(Point::logits, -1, every, 1);
  }
  if (whole || slopes_.wants(Point::final_normed, -1)) {
    const Tensor d_normed = tensor(n_tokens_, d_model);
    spread(d_normed, d_rows);
    at(Point::final_normed, -1, d_normed);
    if (sums_) sums_->norm(Role::final_norm, -1, d_normed, kept(resid_final, -1), model_.norm_eps);
    final_norm(d, d_normed, kept(resid_final, -1));
  } else {
    const Tensor d_picked = tensor(d_rows.rows, d_model);
    if (sums_) sums_->norm(Role::final_norm, -1, d_rows, kept(resid_picked, -1), model_.norm_eps, 1, true);
    final_norm(d_picked, d_rows, kept(resid_picked, -1));
    spread(d, d_picked);
  }
  if (readers_ && more_.readers->wants(Reader::logits, -1)) {
    host_.resize(static_cast<size_t>(d.rows * d.cols));
    backend_.download(host_.data(), d.data, host_.size() * sizeof(float));
    more_.readers->take(Reader::logits, -1, 0, host_);
  }
  at(Point::resid_out, last, d, model_.layers[static_cast<size_t>(last)].moe() ? route(last) : Route());
  return d;
}

void Backward::layer(int64_t l, Tensor d) {
  const auto index = static_cast<size_t>(l);
  const LayerWeights& weights = weights_.layers[index];
  const Layer& layer = model_.layers[index];
  const Tensor d_h = tensor(n_tokens_, model_.d_model);
  const auto of_writes = [&] {
    const Tensor d_out = copy(d);
    if (more_.dropped_layer == l) backend_.fill(d_out.data, 0, static_cast<size_t>(d.rows * d.cols) * sizeof(float));
    return d_out;
  };
  Tensor d_out = of_writes();
  if (const Moe* moe = layer.moe()) {
    feed_forward(l, *moe, std::get<MoeWeights>(weights.ffn), d_h, d_out);
  } else {
    feed_forward(l, std::get<Dense>(layer.ffn), std::get<DenseWeights>(weights.ffn), d_h, d_out);
  }
  if (sums_) sums_->norm(Role::ffn_norm, l, d_h, kept(resid_mid, l), model_.norm_eps);
  backend_.rmsnorm_adjoint(d, d_h, kept(resid_mid, l), weights.ffn_norm, model_.norm_eps, true);
  at(Point::resid_mid, l, d);
  d_out = of_writes();
  at(Point::attn_out, l, d_out);
  if (const Gqa* gqa = std::get_if<Gqa>(&layer.attention)) {
    attention(l, *gqa, std::get<GqaWeights>(weights.attention), d_h, d_out);
  } else {
    attention(l, std::get<Mla>(layer.attention), std::get<MlaWeights>(weights.attention), d_h, d_out);
  }
  if (sums_) sums_->norm(Role::attn_norm, l, d_h, kept(resid_in, l), model_.norm_eps);
  backend_.rmsnorm_adjoint(d, d_h, kept(resid_in, l), weights.attn_norm, model_.norm_eps, true);
  at(Point::resid_in, l, d);
}

void Backward::attention(int64_t l, const Gqa& a, const GqaWeights& weights, Tensor d_h, Tensor d_out) {
  const int64_t d_queries = a.n_heads * a.d_head, d_keys = a.n_kv_heads * a.d_head;
  const Tensor d_core = tensor(n_tokens_, d_queries);
  sum_product(Role::o, Role::o_bias, l, d_out, kept(attended, l));
  backend_.matmul_adjoint(d_core, d_out, weights.o, false);
  at(Point::attn_z, l, d_core);
  const Tensor d_q = tensor(n_tokens_, d_queries), d_k = tensor(n_tokens_, d_keys), d_v = tensor(n_tokens_, d_keys);
  const BatchView& view = forward_.step().view();
  const AttentionParams params{a.n_heads, a.n_kv_heads, a.d_head, a.d_head, a.scale, a.window, weights.sinks.data};
  if (sums_ && weights.sinks && sums_->wants(Role::sinks, l)) {
    const Tensor d_sinks = tensor(n_tokens_, a.n_heads);
    sums_->ops().sink_slopes(d_sinks, d_core, kept(query, l), forward_.step().cache(l), view, params);
    sums_->sinks(l, d_sinks);
  }
  emit_pattern(l, d_core, params);
  backend_.attention_adjoint(d_q, d_k, d_v, d_core, kept(query, l), forward_.step().cache(l), view, params);
  at(Point::attn_q, l, d_q);
  at(Point::attn_k, l, d_k);
  at(Point::attn_v, l, d_v);
  backend_.rope_adjoint(d_q, a.n_heads, 0, forward_.step().rope(), view.positions);
  backend_.rope_adjoint(d_k, a.n_kv_heads, 0, forward_.step().rope(), view.positions);
  const bool norms = a.qk_norm != Gqa::QkNorm::none, per_head = a.qk_norm == Gqa::QkNorm::per_head;
  const auto heads = [&](Tensor x, int64_t n) { return per_head ? x.split(n) : x; };
  const auto back = [&](Tensor d, Activations raw, Vector norm, Role role, int64_t n_heads) {
    if (!norms && a.clip == 0) return;
    const Tensor given = kept(raw, l);
    if (a.clip > 0) {
      Tensor clipped = given;
      if (norms && norm) {
        clipped = tensor(given.rows, given.cols);
        backend_.rmsnorm(heads(clipped, n_heads), heads(given, n_heads), norm, model_.norm_eps);
      }
      backend_.clamp_adjoint(d, clipped, a.clip);
    }
    if (norms && norm) {
      const Tensor rows = heads(d, n_heads);
      if (sums_) sums_->norm(role, l, rows, heads(given, n_heads), model_.norm_eps, per_head ? n_heads : 1);
      backend_.rmsnorm_adjoint(rows, rows, heads(given, n_heads), norm, model_.norm_eps, false);
    }
  };
  back(d_q, query_raw, weights.q_norm, Role::q_norm, a.n_heads);
  back(d_k, key_raw, weights.k_norm, Role::k_norm, a.n_kv_heads);
  back(d_v, value_raw, {}, Role::v, a.n_kv_heads);
  if (readers_) readers_->attention(l, a, weights, kept(resid_in, l), d_q, d_k, d_v);
  const Tensor h = kept(attn_normed, l);
  sum_product(Role::q, Role::q_bias, l, d_q, h);
  sum_product(Role::k, Role::k_bias, l, d_k, h);
  sum_product(Role::v, Role::v_bias, l, d_v, h);
  backend_.matmul_adjoint(d_h, d_q, weights.q, false);
  backend_.matmul_adjoint(d_h, d_k, weights.k, true);
  backend_.matmul_adjoint(d_h, d_v, weights.v, true);
}

void Backward::attention(int64_t l, const Mla& a, const MlaWeights& weights, Tensor d_h, Tensor d_out) {
  const int64_t d_query = a.d_nope + a.d_rope, d_cached = a.d_latent + a.d_rope;
  const Tensor d_core = tensor(n_tokens_, a.n_heads * a.d_value);
  sum_product(Role::o, Role::o_bias, l, d_out, kept(attended, l));
  backend_.matmul_adjoint(d_core, d_out, weights.o, false);
  at(Point::attn_z, l, d_core);
  // Rows of kv_b: of each head those of its keys' part, then those of its values.
  const int64_t kv_rows = a.d_nope + a.d_value;
  if (sums_)
    sums_->heads(Role::kv_b, l, d_core, a.d_value, a.d_value, kept(latent_attended, l), a.d_latent, a.n_heads, a.d_nope,
                 kv_rows);
  const Tensor d_latents = tensor(n_tokens_, a.n_heads * a.d_latent);
  backend_.mla_expand_adjoint(d_latents, d_core, weights.kv_b, a.n_heads, a.d_nope, a.d_value);
  const Tensor d_absorbed = tensor(n_tokens_, a.n_heads * d_cached), d_kv = tensor(n_tokens_, d_cached),
               d_v = tensor(n_tokens_, a.d_latent);
  const BatchView& view = forward_.step().view();
  const RopeTable& rope = forward_.step().rope();
  const AttentionParams params{a.n_heads, 1, d_cached, a.d_latent, a.scale, 0, nullptr};
  emit_pattern(l, d_latents, params);
  backend_.attention_adjoint(d_absorbed, d_kv, d_v, d_latents, kept(query_absorbed, l), forward_.step().cache(l), view,
                             params);
  at(Point::attn_q, l, d_absorbed);
  at(Point::attn_k, l, d_kv);
  at(Point::attn_v, l, d_v);
  if (sums_)
    sums_->heads(Role::kv_b, l, kept(query, l), d_query, a.d_nope, d_absorbed, d_cached, a.n_heads, 0, kv_rows);
  const Tensor d_latent = d_kv.columns(0, a.d_latent), d_key = readers_ ? copy(d_kv) : Tensor();
  backend_.add(d_latent, d_latent, d_v);
  const Tensor d_q = tensor(n_tokens_, a.n_heads * d_query);
  backend_.mla_absorb_adjoint(d_q, d_absorbed, weights.kv_b, a.n_heads, a.d_nope, a.d_rope, a.d_value);
  backend_.rope_adjoint(d_q, a.n_heads, a.d_nope, rope, view.positions);
  if (readers_)
    readers_->attention(l, a, weights, kept(resid_in, l), d_q, d_key, d_v, kept(latent_raw, l),
                        a.q_rank > 0 ? kept(query_low, l) : Tensor(), rope, view.positions);
  backend_.rope_adjoint(d_kv.columns(a.d_latent, a.d_rope), 1, 0, rope, view.positions);
  if (sums_) sums_->norm(Role::kv_a_norm, l, d_latent, kept(latent_raw, l).columns(0, a.d_latent), a.latent_eps);
  backend_.rmsnorm_adjoint(d_latent, d_latent, kept(latent_raw, l).columns(0, a.d_latent), weights.kv_a_norm,
                           a.latent_eps, false);
  const Tensor h = kept(attn_normed, l);
  sum_product(Role::kv_a, Role::kv_a_bias, l, d_kv, h);
  backend_.matmul_adjoint(d_h, d_kv, weights.kv_a, false);
  if (a.q_rank == 0) {
    sum_product(Role::q, {}, l, d_q, h);
    backend_.matmul_adjoint(d_h, d_q, weights.q, true);
    return;
  }
  const Tensor d_low = tensor(n_tokens_, a.q_rank);
  sum_product(Role::q_b, {}, l, d_q, kept(query_low_normed, l));
  backend_.matmul_adjoint(d_low, d_q, weights.q_b, false);
  if (sums_) sums_->norm(Role::q_a_norm, l, d_low, kept(query_low, l), a.latent_eps);
  backend_.rmsnorm_adjoint(d_low, d_low, kept(query_low, l), weights.q_a_norm, a.latent_eps, false);
  sum_product(Role::q_a, Role::q_a_bias, l, d_low, h);
  backend_.matmul_adjoint(d_h, d_low, weights.q_a, true);
}

void Backward::feed_forward(int64_t l, const Dense& dense, const DenseWeights& weights, Tensor d_h, Tensor d_out) {
  at(Point::mlp_out, l, d_out);
  const Tensor d_hidden = tensor(n_tokens_, dense.d_ff);
  sum_product(Role::dense_down, {}, l, d_out, kept(dense_hidden, l));
  backend_.matmul_adjoint(d_hidden, d_out, weights.down, false);
  sum_gated(Role::dense_gate, Role::dense_up, l, d_hidden, kept(ffn_normed, l), weights.gate, weights.up);
  backend_.gated_hidden_adjoint(d_h, d_hidden, kept(ffn_normed, l), weights.gate, weights.up, model_.activation, false);
  if (readers_) readers_->whole(Reader::dense, l, kept(resid_mid, l), d_h);
}

// What is asked of the routing itself, added to what the block's output asks of router logits and experts' outputs.
void Backward::routing(int64_t l, const Moe& moe, const MoeWeights& weights, const Route& route, Tensor d_out,
                       Tensor d_logits, Tensor d_outputs) {
  const Tensor logits = kept(router_logits, l);
  const auto host = [&](Tensor x) {
    std::vector<float> values(static_cast<size_t>(x.rows * x.cols));
    backend_.download(values.data(), x.data, values.size() * sizeof(float));
    return values;
  };
  if (routing_->sees_all_experts())
    add_unselected_experts(backend_, d_logits, d_out, read(experts_read, l), logits, route, weights.experts(),
                           moe.router, model_.activation);
  const bool outputs_too = routing_->wants_outputs();
  std::vector<float> d = host(d_logits), d_of_outputs;
  const std::vector<float> z = host(logits), outputs = outputs_too ? host(kept(expert_out, l)) : std::vector<float>();
  if (outputs_too) d_of_outputs = host(d_outputs);
  std::vector<int32_t> ids(static_cast<size_t>(n_tokens_ * route.n_slots));
  backend_.download(ids.data(), route.ids, ids.size() * sizeof(int32_t));
  routing_->add({static_cast<int32_t>(l), n_tokens_, logits.cols, route.n_slots, model_.d_model, z, ids, outputs}, d,
                d_of_outputs);
  backend_.upload(d_logits.data, d.data(), d.size() * sizeof(float));
  if (outputs_too) backend_.upload(d_outputs.data, d_of_outputs.data(), d_of_outputs.size() * sizeof(float));
}

// d_h: the router's part, then the experts', then the shared expert's.
void Backward::feed_forward(int64_t l, const Moe& moe, const MoeWeights& weights, Tensor d_h, Tensor d_out) {
  const Route route = this->route(l);
  const int64_t n_slots = route.n_slots, n_pairs = n_tokens_ * n_slots;
  const ExpertMatrices experts = weights.experts();
  at(Point::moe_out, l, d_out, route);
  emit_contributions(l, d_out, route);
  const Tensor d_outputs = tensor(n_pairs, model_.d_model), d_weights = tensor(n_tokens_, n_slots);
  backend_.combine_adjoint(d_outputs, d_weights.data, d_out, kept(expert_out, l), route);
  emit(Point::router_weights, l, d_weights, 1);

  const Tensor d_logits = tensor(n_tokens_, moe.router.n_experts);
  backend_.route_adjoint(d_logits, d_weights.data, route, kept(router_logits, l), moe.router,
                         weights.selection_bias.data, forward_.step().route_batch(l));
  if (routing_) routing(l, moe, weights, route, d_out, d_logits, d_outputs);
  emit(Point::router_logits, l, d_logits, 1);
  sum_product(Role::router, Role::router_bias, l, d_logits, read(router_read, l));
  backend_.matmul_adjoint(d_h, d_logits, weights.router, false);
  at(Point::router_in, l, d_h);
  if (readers_) readers_->whole(Reader::router, l, kept(resid_mid, l), d_h);

  at(Point::expert_out, l, d_outputs, route, route.n_slots);
  const Tensor d_hidden = tensor(n_pairs, moe.d_ff);
  if (sums_) {
    sums_->experts(Role::expert_down, l, route, d_outputs, kept(expert_hidden, l), false);
    sums_->expert_biases(Role::expert_down_bias, l, route, d_outputs);
  }
  backend_.experts_out_adjoint(d_hidden, d_outputs, route, n_tokens_, experts);
  at(Point::expert_hidden, l, d_hidden, route, route.n_slots);
  if (readers_) readers_->experts(l, route, kept(resid_mid, l), read(experts_read, l), d_hidden, experts);
  if (sums_ && sums_->wants_gated(l, moe.router.n_experts)) {
    const Tensor d_gate = tensor(n_pairs, moe.d_ff), d_up = tensor(n_pairs, moe.d_ff), x = read(experts_read, l);
    sums_->ops().experts_slopes(d_gate, d_up, d_hidden, x, route, n_tokens_, experts, model_.activation);
    sums_->experts(Role::expert_gate, l, route, d_gate, x, true);
    sums_->experts(Role::expert_up, l, route, d_up, x, true);
    sums_->expert_biases(Role::expert_gate_bias, l, route, d_gate);
    sums_->expert_biases(Role::expert_up_bias, l, route, d_up);
  }
  const Tensor d_read = tensor(n_tokens_, model_.d_model);
  backend_.experts_hidden_adjoint(d_read, d_hidden, read(experts_read, l), route, n_tokens_, experts, model_.activation,
                                  false);
  at(Point::expert_in, l, d_read, route);
  backend_.add(d_h, d_h, d_read);
  if (moe.d_ff_shared > 0) shared_expert(l, moe, weights, d_h, d_out, route);
}

void Backward::shared_expert(int64_t l, const Moe& moe, const MoeWeights& weights, Tensor d_h, Tensor d_out,
                             const Route& route) {
  const Tensor d = copy(d_out), d_gate = tensor(n_tokens_, 1), d_read = tensor(n_tokens_, model_.d_model);
  at(Point::shared_out, l, d, route);
  if (route.shared_scale) backend_.scale_rows(d, route.shared_scale);
  if (moe.shared_gate) backend_.sigmoid_scale_adjoint(d, d_gate, kept(shared_raw, l), kept(shared_gate, l));
  const Tensor d_hidden = tensor(n_tokens_, moe.d_ff_shared), x = read(shared_read, l);
  sum_product(Role::shared_down, {}, l, d, kept(shared_hidden, l));
  backend_.matmul_adjoint(d_hidden, d, weights.shared_down, false);
  sum_gated(Role::shared_gate, Role::shared_up, l, d_hidden, x, weights.shared_gate, weights.shared_up);
  if (moe.shared_gate) sum_product(Role::shared_scale, {}, l, d_gate, x);
  backend_.gated_hidden_adjoint(d_read, d_hidden, x, weights.shared_gate, weights.shared_up, model_.activation, false);
  if (moe.shared_gate) backend_.matmul_adjoint(d_read, d_gate, weights.shared_scale, true);
  at(Point::shared_in, l, d_read, route);
  if (readers_) readers_->whole(Reader::shared, l, kept(resid_mid, l), d_read);
  backend_.add(d_h, d_h, d_read);
}

Gradient::Gradient(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots)
    : backend_(backend),
      model_(model),
      weights_(weights),
      forward_(backend, model, weights, max_slots, Buffers::Policy::keep),
      streams_(forward_) {}

Outputs Gradient::run(const Batch& batch, ProbeSink* values, ProbeSink& slopes, const Objective& objective,
                      const More& more) {
  for (const BatchSequence& sequence : batch.members)
    if (sequence.adapters) throw Error("gradient", "expected adapters that are merged, found some beside the weights");
  std::optional<WeightSums> summed;
  if (more.weights) summed.emplace(backend_, batch, *more.weights);
  WeightSums* const sums = more.weights ? &*summed : nullptr;
  const Outputs outputs =
      more.embedded ? forward_.run_from(batch, 0, more.embedded, values) : forward_.run(batch, values);
  if (values) forward_.flush(*values);
  std::vector<RowRange> ranges;
  for (const BatchSequence& sequence : batch.members)
    ranges.push_back({sequence.sample, batch.positions[static_cast<size_t>(sequence.first_row)], sequence.n_rows,
                      sequence.first_row});
  slopes.begin(
      {batch.n_tokens(), ranges, batch.tokens.data(), batch.positions.data(), batch.phase.data(), batch.spans.data()});
  try {
    const auto d_logits_memory =
        backend_.allocate(std::max<size_t>(4, static_cast<size_t>(outputs.logits.rows * outputs.logits.cols) * 4));
    const Tensor d_logits(static_cast<float*>(d_logits_memory.get()), outputs.logits.rows, outputs.logits.cols);
    objective(outputs.logits, d_logits);
    if (routing_) routing_->begin(batch);
    std::optional<Backward> part;
    part.emplace(*this, batch, slopes, more, sums);
    forward_.writes().begin(batch, forward_.edits());
    const Tensor d_stream = part->head(d_logits);
    const auto memory = backend_.allocate(static_cast<size_t>(d_stream.rows * d_stream.cols) * sizeof(float));
    const Tensor d(static_cast<float*>(memory.get()), d_stream.rows, d_stream.cols);
    backend_.copy(d.data, d_stream.data, static_cast<size_t>(d.rows * d.cols) * sizeof(float));
    for (int64_t l = model_.n_layers() - 1; l >= 0; --l) {
      part.emplace(*this, batch, slopes, more, sums);
      if (l < model_.n_layers() - 1) {
        // The layers above are done with; the one at hand is made again.
        forward_.buffers().release(l + 1);
        forward_.again(batch, l, streams_.at(l));
        part->at(Point::resid_out, l, d, model_.layers[static_cast<size_t>(l)].moe() ? part->route(l) : Route());
      }
      part->layer(l, d);
      if (sums) sums->end_layer();
    }
    part->embed(d);
    part.reset();
    forward_.writes().end();
    slopes.end();
  } catch (...) {
    forward_.writes().end();
    slopes.abandon();
    throw;
  }
  return outputs;
}

}  // namespace signalbox::engine
