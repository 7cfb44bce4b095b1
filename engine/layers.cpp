#include "engine/layers.h"

namespace signalbox::engine::layers {

namespace {

using enum Activations;

template <class... Ts>
struct overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
overloaded(Ts...) -> overloaded<Ts...>;

// x + delta, with the points in between, and its norm.
struct Normed {
  Tensor x;  // [n_tokens, d_model]
  Tensor h;  // [n_tokens, d_model] operand
};
struct NormNames {
  Activations x, h;
  int64_t layer;  // -1: the final norm
};
Normed add_and_norm(const Pass& pass, const Stream& in, std::span<const PointAt> points, Vector weight,
                    NormNames names) {
  const Tensor x = pass.buffers.successor(names.x, names.layer, in.x);
  const Tensor h = pass.buffers.operand(names.h, names.layer, x.rows, x.cols);
  bool stops = false;
  for (const PointAt& at : points) stops = stops || pass.stops_at(at.point, at.layer);
  if (in.delta && !stops) {
    pass.backend.add_rmsnorm(x, in.delta, h, weight, pass.model.norm_eps);
    return {x, h};
  }
  if (in.delta) pass.backend.add(x, x, in.delta);
  for (const PointAt& at : points) pass.at(at.point, at.layer, x, at.point == Point::resid_out ? in.route : Route());
  pass.backend.rmsnorm(h, x, weight, pass.model.norm_eps);
  return {x, h};
}

// The points of what attention reads, in the order in which it does: the queries, then the tokens' keys and values
// where they lie in the cache; and the pattern that these make.
void at_heads(const Pass& pass, int64_t l, Tensor q, const KvCache& cache, const AttentionParams& params) {
  pass.at(Point::attn_q, l, q);
  const auto at_cached = [&](Point point, void* data, int64_t stride, int64_t width) {
    const Tensor rows(static_cast<float*>(data), pass.step.n_cache_rows(), params.n_kv_heads * width, stride,
                      cache.dtype);
    if (pass.writes.any()) pass.writes.write_cached(point, l, rows);
    if (!pass.recorder.wants(point, l)) return;
    const Tensor found = pass.buffers.cached(cache_rows, l, q.rows, rows.cols);
    pass.backend.gather_rows(found, rows, pass.step.view().kv_rows);
    pass.recorder.take(point, l, found, 1);
  };
  at_cached(Point::attn_k, cache.keys, cache.key_stride, params.d_key);
  at_cached(Point::attn_v, cache.values, cache.value_stride, params.d_value);
  if (!pass.recorder.wants(Point::attn_pattern, l)) return;
  const Tensor pattern = pass.buffers.tensor(attn_pattern, l, q.rows, params.n_heads * pass.step.n_keys());
  pass.backend.attention_pattern(pattern, q, cache, pass.step.view(), params);
  pass.recorder.take(Point::attn_pattern, l, pattern, 1);
}

Tensor gqa(const Pass& pass, int64_t l, const Gqa& a, const GqaWeights& weights, Tensor h) {
  Backend& backend = pass.backend;
  Buffers& buffers = pass.buffers;
  const int64_t n_tokens = h.rows;
  const Tensor q = buffers.tensor(query, l, n_tokens, a.n_heads * a.d_head);
  const Tensor k = buffers.tensor(key, l, n_tokens, a.n_kv_heads * a.d_head);
  const Tensor v = buffers.tensor(value, l, n_tokens, a.n_kv_heads * a.d_head);
  const Product projections[] = {
      {q, &weights.q, weights.q_bias}, {k, &weights.k, weights.k_bias}, {v, &weights.v, weights.v_bias}};
  backend.matmul_many(h, projections);
  if (pass.low_rank.any()) {
    pass.low_rank.add(Role::q, l, q, h);
    pass.low_rank.add(Role::k, l, k, h);
    pass.low_rank.add(Role::v, l, v, h);
  }
  const bool norms = a.qk_norm != Gqa::QkNorm::none;
  if (norms || a.clip > 0) {
    buffers.remember(query_raw, l, q);
    buffers.remember(key_raw, l, k);
    buffers.remember(value_raw, l, v);
  }
  Backend::HeadsArgs heads{a.n_heads, a.n_kv_heads, a.d_head, {}, {}, pass.model.norm_eps, a.clip, pass.step.rope()};
  if (norms) {
    heads.q_norm = weights.q_norm;
    heads.k_norm = weights.k_norm;
  }
  const KvCache cache = pass.step.cache(l);
  backend.prepare_heads(q, k, v, heads, cache, pass.step.view());
  const AttentionParams params{a.n_heads, a.n_kv_heads, a.d_head, a.d_head, a.scale, a.window, weights.sinks.data};
  at_heads(pass, l, q, cache, params);
  const Tensor core = buffers.operand(attended, l, n_tokens, a.n_heads * a.d_head);
  backend.attention(core, q, cache, pass.step.view(), params);
  pass.at(Point::attn_z, l, core);
  const Tensor out = buffers.tensor(attn_out, l, n_tokens, pass.model.d_model);
  backend.matmul(out, core, weights.o, weights.o_bias);
  pass.low_rank.add(Role::o, l, out, core);
  return out;
}

Tensor mla(const Pass& pass, int64_t l, const Mla& a, const MlaWeights& weights, Tensor h) {
  Backend& backend = pass.backend;
  Buffers& buffers = pass.buffers;
  const int64_t n_tokens = h.rows, d_query = a.d_nope + a.d_rope, d_cached = a.d_latent + a.d_rope;
  const Tensor q = buffers.tensor(query, l, n_tokens, a.n_heads * d_query);
  const Tensor kv = buffers.tensor(latent, l, n_tokens, d_cached);
  if (a.q_rank > 0) {
    const Tensor low = buffers.tensor(query_low, l, n_tokens, a.q_rank);
    const Tensor normed_low = buffers.operand(query_low_normed, l, n_tokens, a.q_rank);
    const Product projections[] = {{low, &weights.q_a, weights.q_a_bias}, {kv, &weights.kv_a, weights.kv_a_bias}};
    backend.matmul_many(h, projections);
    pass.low_rank.add(Role::q_a, l, low, h);
    backend.rmsnorm(normed_low, low, weights.q_a_norm, a.latent_eps);
    backend.matmul(q, normed_low, weights.q_b, {});
    pass.low_rank.add(Role::q_b, l, q, normed_low);
  } else {
    const Product projections[] = {{q, &weights.q, {}}, {kv, &weights.kv_a, weights.kv_a_bias}};
    backend.matmul_many(h, projections);
    pass.low_rank.add(Role::q, l, q, h);
  }
  pass.low_rank.add(Role::kv_a, l, kv, h);
  buffers.remember(latent_raw, l, kv);
  const KvCache cache = pass.step.cache(l);
  const BatchView& view = pass.step.view();
  backend.prepare_latent(q, kv, {a.n_heads, a.d_nope, a.d_latent, weights.kv_a_norm, a.latent_eps, pass.step.rope()},
                         cache, view);
  const Tensor absorbed = buffers.tensor(query_absorbed, l, n_tokens, a.n_heads * d_cached);
  backend.mla_absorb(absorbed, q, weights.kv_b, a.n_heads, a.d_nope, a.d_rope, a.d_value);
  pass.low_rank.absorb(l, absorbed, q, a.n_heads, a.d_nope, a.d_rope, a.d_value);
  if (cache.values != cache.keys) {  // KvPool::separate_values
    const Tensor found = buffers.cached(cache_rows, l, n_tokens, d_cached);
    const Tensor keys(static_cast<float*>(cache.keys), pass.step.n_cache_rows(), d_cached, cache.key_stride,
                      cache.dtype);
    backend.gather_rows(found, keys, view.kv_rows);
    backend.store_rows(cache.values, cache.value_stride, found, view.kv_rows);
  }
  const AttentionParams params{a.n_heads, 1, d_cached, a.d_latent, a.scale, 0, nullptr};
  at_heads(pass, l, absorbed, cache, params);
  const Tensor latents = buffers.operand(latent_attended, l, n_tokens, a.n_heads * a.d_latent);
  backend.attention(latents, absorbed, cache, view, params);
  const Tensor core = buffers.operand(attended, l, n_tokens, a.n_heads * a.d_value);
  backend.mla_expand(core, latents, weights.kv_b, a.n_heads, a.d_nope, a.d_value);
  pass.low_rank.expand(l, core, latents, a.n_heads, a.d_nope, a.d_value);
  pass.at(Point::attn_z, l, core);
  const Tensor out = buffers.tensor(attn_out, l, n_tokens, pass.model.d_model);
  backend.matmul(out, core, weights.o, weights.o_bias);
  pass.low_rank.add(Role::o, l, out, core);
  return out;
}

// h as one of its readers sees it: h itself, or under an edit of that reader's point a copy that the edit has written
// to.
Tensor reader(const Pass& pass, Point point, int64_t l, Tensor h, Activations copy, const Route& route = {}) {
  if (!pass.writes.at(point, l)) {
    pass.recorder.take(point, l, h, 1);
    return h;
  }
  const Tensor own = pass.buffers.operand(copy, l, h.rows, h.cols);
  pass.backend.copy(own.data, h.data, static_cast<size_t>(h.rows * h.stride) * dtype_size(h.dtype));
  pass.at(point, l, own, route);
  return own;
}

Route route(const Pass& pass, int64_t l, const Moe& moe, const MoeWeights& weights, Tensor h) {
  Buffers& buffers = pass.buffers;
  const int64_t n_tokens = h.rows, n_experts = moe.router.n_experts;
  Route route;
  route.n_slots = pass.n_slots;
  route.ids = buffers.array<int32_t>(route_ids, l, n_tokens, pass.n_slots);
  route.weights = buffers.array<float>(route_weights, l, n_tokens, pass.n_slots);
  route.margin = buffers.array<float>(route_margin, l, n_tokens, 1);
  if (pass.recorder.records_routes() || buffers.keeps()) {
    route.scores = buffers.array<float>(router_scores, l, n_tokens, n_experts);
    if (moe.router.limits_groups()) route.group_margin = buffers.array<float>(route_group_margin, l, n_tokens, 1);
  }
  route.faults = pass.step.faults();
  route.record = pass.recorder.route(l, pass.step.ring_step());
  if (pass.step.edits_routes()) {
    route.edits = pass.step.token_edits();
    route.original_ids = buffers.array<int32_t>(route_original, l, n_tokens, pass.n_slots);
    route.shared_scale = buffers.array<float>(route_shared_scale, l, n_tokens, 1);
    route.banned = buffers.array<uint8_t>(route_banned, l, n_tokens, n_experts);
  }
  const Tensor logits = buffers.tensor(router_logits, l, n_tokens, n_experts);
  Tensor read = h;
  if (pass.low_rank.changes(Role::router, l)) {
    pass.backend.matmul(logits, h, weights.router, weights.router_bias);
    pass.low_rank.add(Role::router, l, logits, h);
    read = {};  // the logits stand there already
  }
  pass.backend.route(route, logits, read, weights.router, weights.router_bias.data, moe.router,
                     weights.selection_bias.data, pass.step.route_batch(l));
  return route;
}

// What every token uses, whatever its route; absent where the layer has no shared expert.
Tensor shared_expert(const Pass& pass, int64_t l, const Moe& moe, const MoeWeights& weights, Tensor h,
                     const Route& route) {
  if (moe.d_ff_shared == 0) return {};
  Backend& backend = pass.backend;
  Buffers& buffers = pass.buffers;
  const Tensor read = reader(pass, Point::shared_in, l, h, shared_read, route);
  const Tensor hidden = buffers.operand(shared_hidden, l, h.rows, moe.d_ff_shared);
  const Tensor out = buffers.tensor(shared_out, l, h.rows, pass.model.d_model);
  backend.gated_hidden(hidden, read, weights.shared_gate, weights.shared_up, pass.model.activation);
  pass.low_rank.gated(Role::shared_gate, Role::shared_up, l, hidden, read, weights.shared_gate, weights.shared_up,
                      pass.model.activation);
  backend.matmul(out, hidden, weights.shared_down, {});
  pass.low_rank.add(Role::shared_down, l, out, hidden);
  if (moe.shared_gate || route.shared_scale) buffers.remember(shared_raw, l, out);
  if (moe.shared_gate) {
    const Tensor gate = buffers.tensor(shared_gate, l, h.rows, 1);
    backend.matmul(gate, read, weights.shared_scale, {});
    pass.low_rank.add(Role::shared_scale, l, gate, read);
    backend.sigmoid_scale(out, gate);
  }
  if (route.shared_scale) backend.scale_rows(out, route.shared_scale);
  pass.at(Point::shared_out, l, out, route);
  return out;
}

FeedForward moe(const Pass& pass, int64_t l, const Moe& moe, const MoeWeights& weights, Tensor h) {
  Backend& backend = pass.backend;
  Buffers& buffers = pass.buffers;
  const int64_t n_tokens = h.rows;
  const Route route = layers::route(pass, l, moe, weights, reader(pass, Point::router_in, l, h, router_read));
  const ExpertMatrices experts = weights.experts();
  const Tensor hidden = buffers.operand(expert_hidden, l, n_tokens * route.n_slots, moe.d_ff);
  const Tensor read = reader(pass, Point::expert_in, l, h, experts_read, route);
  backend.experts_hidden(hidden, read, route, n_tokens, experts, pass.model.activation, pass.step.leaks());
  pass.low_rank.experts_hidden(l, hidden, read, route, experts, pass.model.activation);
  pass.at(Point::expert_hidden, l, hidden, route, route.n_slots);
  const Tensor outputs = buffers.tensor(expert_out, l, n_tokens * route.n_slots, pass.model.d_model);
  backend.experts_out(outputs, hidden, route, n_tokens, experts);
  pass.low_rank.experts_out(l, outputs, hidden, route);
  pass.at(Point::expert_out, l, outputs, route, route.n_slots);
  pass.recorder.take_contributions(l, outputs, route);
  const Tensor shared = shared_expert(pass, l, moe, weights, h, route);
  const Tensor out = buffers.tensor(ffn_out, l, n_tokens, pass.model.d_model);
  backend.combine(out, outputs, route, shared);
  pass.at(Point::moe_out, l, out, route);
  pass.recorder.take_update(l, out);
  return {out, route};
}

FeedForward dense(const Pass& pass, int64_t l, const Dense& dense, const DenseWeights& weights, Tensor h) {
  const Tensor hidden = pass.buffers.operand(dense_hidden, l, h.rows, dense.d_ff);
  pass.backend.gated_hidden(hidden, h, weights.gate, weights.up, pass.model.activation);
  pass.low_rank.gated(Role::dense_gate, Role::dense_up, l, hidden, h, weights.gate, weights.up, pass.model.activation);
  const Tensor out = pass.buffers.tensor(ffn_out, l, h.rows, pass.model.d_model);
  pass.backend.matmul(out, hidden, weights.down, {});
  pass.low_rank.add(Role::dense_down, l, out, hidden);
  pass.at(Point::mlp_out, l, out);
  return {out, {}};
}

// The logits of the step's logit_rows into `out`; those of every row where they are recorded.
void project(const Pass& pass, Stream in, Tensor out) {
  Backend& backend = pass.backend;
  Buffers& buffers = pass.buffers;
  const int64_t n_tokens = in.x.rows, n_logits = pass.step.n_logits();
  const PointAt last{Point::resid_out, static_cast<int32_t>(pass.model.n_layers()) - 1};
  const bool records_logits = pass.recorder.wants(Point::logits, -1);
  if (!pass.stops_at(Point::final_normed, -1) && !records_logits && n_logits < n_tokens) {
    // Only rows whose logits are wanted are normed.
    const Tensor x = buffers.successor(resid_final, -1, in.x);
    if (in.delta) backend.add(x, x, in.delta);
    if (!in.passed) pass.at(Point::resid_out, last.layer, x, in.route);
    pass.recorder.take_stream(x);
    if (n_logits == 0) return;
    const Tensor picked = buffers.tensor(resid_picked, -1, n_logits, pass.model.d_model);
    backend.gather_rows(picked, x, pass.step.logit_rows());
    const Tensor h = buffers.operand(final_picked, -1, n_logits, pass.model.d_model);
    backend.rmsnorm(h, picked, pass.weights.final_norm, pass.model.norm_eps);
    backend.matmul(out, h, pass.weights.lm_head, {});
    pass.low_rank.add_of_rows(Role::lm_head, out, h, std::span(pass.step.logit_rows(), static_cast<size_t>(n_logits)));
    return;
  }
  const std::span<const PointAt> points(&last, in.passed ? 0 : 1);
  const auto [x, h] = add_and_norm(pass, in, points, pass.weights.final_norm, {resid_final, final_normed, -1});
  pass.recorder.take_stream(x);
  pass.at(Point::final_normed, -1, h);
  if (records_logits) {
    const Tensor every = buffers.tensor(every_logits, -1, n_tokens, pass.model.n_vocab);
    backend.matmul(every, h, pass.weights.lm_head, {});
    pass.low_rank.add(Role::lm_head, -1, every, h);
    pass.at(Point::logits, -1, every);
    if (n_logits > 0) backend.gather_rows(out, every, pass.step.logit_rows());
  } else if (n_logits == n_tokens) {
    backend.matmul(out, h, pass.weights.lm_head, {});
    pass.low_rank.add(Role::lm_head, -1, out, h);
  } else if (n_logits > 0) {
    const Tensor picked = buffers.operand(final_picked, -1, n_logits, pass.model.d_model);
    backend.gather_rows(picked, h, pass.step.logit_rows());
    backend.matmul(out, picked, pass.weights.lm_head, {});
    pass.low_rank.add_of_rows(Role::lm_head, out, picked,
                              std::span(pass.step.logit_rows(), static_cast<size_t>(n_logits)));
  }
}

}  // namespace

Stream embed(const Pass& pass) {
  const Tensor x = pass.buffers.tensor(embedded, -1, pass.step.n_tokens(), pass.model.d_model);
  pass.backend.embed(x, pass.weights.embed, pass.step.tokens());
  pass.low_rank.add_embedded(x, std::span(pass.step.tokens(), static_cast<size_t>(pass.step.n_tokens())));
  pass.at(Point::embed, -1, x);
  return {x, {}, {}, false};
}

Tensor attention(const Pass& pass, int64_t l, Tensor h) {
  const LayerWeights& weights = pass.weights.layers[l];
  const Tensor out =
      std::visit(overloaded{[&](const Gqa& a) { return gqa(pass, l, a, std::get<GqaWeights>(weights.attention), h); },
                            [&](const Mla& a) { return mla(pass, l, a, std::get<MlaWeights>(weights.attention), h); }},
                 pass.model.layers[l].attention);
  pass.at(Point::attn_out, l, out);
  return out;
}

FeedForward feed_forward(const Pass& pass, int64_t l, Tensor h) {
  const LayerWeights& weights = pass.weights.layers[l];
  return std::visit(
      overloaded{[&](const Dense& d) { return dense(pass, l, d, std::get<DenseWeights>(weights.ffn), h); },
                 [&](const Moe& m) { return moe(pass, l, m, std::get<MoeWeights>(weights.ffn), h); }},
      pass.model.layers[l].ffn);
}

Stream layer(const Pass& pass, int64_t l, Stream in) {
  const LayerWeights& weights = pass.weights.layers[l];
  const int32_t index = static_cast<int32_t>(l);
  const PointAt before[] = {{Point::resid_out, index - 1}, {Point::resid_in, index}};
  const auto [x, h] = add_and_norm(pass, in,
                                   std::span(before).last(in.passed ? 0
                                                          : l > 0   ? 2
                                                                    : 1),
                                   weights.attn_norm, {resid_in, attn_normed, l});
  const Stream middle{x, attention(pass, l, h), {}, false};
  const PointAt between[] = {{Point::resid_mid, index}};
  const Normed mid = add_and_norm(pass, middle, between, weights.ffn_norm, {resid_mid, ffn_normed, l});
  const FeedForward made = feed_forward(pass, l, mid.h);
  return {mid.x, made.out, made.route, false};
}

void head(const Pass& pass, Stream in, Tensor out) {
  project(pass, in, out);
  if (pass.step.sampling()) pass.backend.sample(pass.step.chosen(), out, pass.step.sampling());
  if (pass.step.targets()) pass.backend.log_probs(pass.step.log_probs(), out, pass.step.targets());
}

}  // namespace signalbox::engine::layers
