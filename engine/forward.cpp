#include "engine/forward.h"

#include <algorithm>
#include <cmath>

namespace signalbox {

namespace {

// Buffers of the workspace, by what they hold. Two names never share memory.
enum Buffer : int {
  residual,
  normed,
  block_out,
  query,
  key,
  value,
  attended,
  query_low,
  latent,
  query_latent,
  attended_latent,
  ffn_hidden,
  router_logits,
  expert_hidden,
  expert_out,
  shared_hidden,
  shared_out,
  shared_gate,
  logit_input,
  logits,
  n_buffers
};

template <class... Ts>
struct overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
overloaded(Ts...) -> overloaded<Ts...>;

}  // namespace

ModelShape probe_shape(const Model& model) {
  ModelShape shape;
  shape.d_model = model.d_model;
  shape.n_vocab = model.n_vocab;
  for (const Layer& layer : model.layers) {
    LayerShape described;
    if (const Moe* moe = layer.moe()) {
      described = {true, moe->router.n_experts, moe->router.n_active, moe->d_ff, moe->d_ff_shared > 0};
    } else {
      described.d_ff = std::get<Dense>(layer.ffn).d_ff;
    }
    shape.layers.push_back(described);
  }
  return shape;
}

void Batch::clear() {
  slots.clear();
  tokens.clear();
  positions.clear();
  sequences.clear();
  kv_rows.clear();
  phase.clear();
  spans.clear();
  logit_rows.clear();
}

void Batch::append(KvSlots& kv, const BoundEdits* edits, int64_t sample, std::span<const int32_t> ids,
                   std::span<const uint32_t> span_bits, int64_t n_given, int64_t n_logits) {
  const int64_t start = kv.length(), count = static_cast<int64_t>(ids.size());
  kv.extend(count);
  const int32_t sequence = static_cast<int32_t>(slots.size());
  slots.push_back({&kv, edits, sample, n_tokens(), count});
  for (int64_t i = 0; i < count; ++i) {
    if (i >= count - n_logits) logit_rows.push_back(static_cast<int32_t>(n_tokens()));
    tokens.push_back(ids[i]);
    positions.push_back(static_cast<int32_t>(start + i));
    sequences.push_back(sequence);
    kv_rows.push_back(kv.row(start + i));
    phase.push_back(start + i >= n_given);
    spans.push_back(span_bits.empty() ? 0 : span_bits[i]);
  }
}

// Memory of the forward, grown to the largest batch seen. Host arrays are what the CPU backend reads in place.
struct Forward::Workspace {
  struct Block {
    std::shared_ptr<void> memory;
    int64_t floats = 0;
  };
  Block blocks[n_buffers];
  Tensor x;  // the residual stream

  std::vector<int32_t> block_tables;
  int64_t max_blocks = 0;

  std::vector<float> cos, sin;
  int64_t rope_positions = 0;
  RopeTable rope;

  // Router outputs and inputs.
  std::vector<int32_t> ids, original_ids;
  std::vector<float> weights, margin, scores, shared_scale;
  std::vector<uint8_t> banned;
  RouteFault fault;
  std::vector<RouterProgram> programs;
  std::vector<uint8_t> active;  // [n_tokens, n_edits]
  std::vector<uint64_t> record_hash;
  std::vector<uint32_t> samples;
  int32_t n_edits = 0;
  bool any_edits = false, any_router_edits = false;
  bool route_ready = false;  // margin and ids are those of the current layer
  std::vector<RowRange> ranges;
};

Forward::Forward(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots)
    : backend_(backend),
      model_(model),
      weights_(weights),
      max_slots_(std::max(max_slots, model.n_active())),
      workspace_(std::make_shared<Workspace>()) {}

Tensor Forward::buffer(int index, int64_t rows, int64_t cols) {
  Workspace::Block& block = workspace_->blocks[index];
  if (block.floats < rows * cols) {
    block.memory.reset();
    block.memory = backend_.allocate(static_cast<size_t>(rows * cols) * sizeof(float));
    block.floats = rows * cols;
  }
  return Tensor(static_cast<float*>(block.memory.get()), rows, cols);
}

void Forward::prepare_rope(int64_t n_positions) {
  Workspace& w = *workspace_;
  const int64_t half = static_cast<int64_t>(model_.rope.inv_freq.size());
  if (n_positions > w.rope_positions) {
    int64_t grown = std::max<int64_t>(256, w.rope_positions);
    while (grown < n_positions) grown *= 2;
    w.cos.resize(grown * half);
    w.sin.resize(grown * half);
    for (int64_t p = w.rope_positions; p < grown; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        // The angle is rounded to f32 as reference implementations do; its cosine is then exact to f32.
        const float angle = static_cast<float>(p) * model_.rope.inv_freq[i];
        w.cos[p * half + i] = static_cast<float>(std::cos(static_cast<double>(angle))) * model_.rope.magnitude;
        w.sin[p * half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * model_.rope.magnitude;
      }
    }
    w.rope_positions = grown;
  }
  w.rope = {w.cos.data(), w.sin.data(), w.rope_positions, model_.rope.n_dims(), model_.rope.adjacent};
}

void Forward::prepare(const Batch& batch) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens(), n_sequences = static_cast<int64_t>(batch.slots.size());

  w.max_blocks = 1;
  for (const Batch::Slot& slot : batch.slots)
    w.max_blocks = std::max<int64_t>(w.max_blocks, static_cast<int64_t>(slot.kv->blocks().size()));
  w.block_tables.assign(n_sequences * w.max_blocks, 0);
  for (int64_t s = 0; s < n_sequences; ++s)
    std::copy(batch.slots[s].kv->blocks().begin(), batch.slots[s].kv->blocks().end(),
              w.block_tables.begin() + s * w.max_blocks);

  int32_t last = 0;
  for (int32_t position : batch.positions) last = std::max(last, position);
  prepare_rope(last + 1);

  w.any_edits = w.any_router_edits = false;
  w.n_edits = 0;
  w.record_hash.assign(n_sequences, 0);
  w.samples.assign(n_sequences, 0);
  for (int64_t s = 0; s < n_sequences; ++s) {
    const BoundEdits* edits = batch.slots[s].edits;
    if (!edits) continue;
    w.any_edits = true;
    w.any_router_edits = w.any_router_edits || edits->has_router_edits();
    w.n_edits = std::max(w.n_edits, edits->plan().n_edits());
    w.record_hash[s] = edits->record_hash();
    w.samples[s] = edits->sample();
  }
  if (w.any_edits) {
    w.active.assign(n_tokens * w.n_edits, 0);
    for (const Batch::Slot& slot : batch.slots) {
      if (!slot.edits) continue;
      for (int64_t t = slot.first_row; t < slot.first_row + slot.n_rows; ++t)
        slot.edits->active(batch.positions[t], w.active.data() + t * w.n_edits);
    }
  }
  w.fault = RouteFault{};

  if (sink_) {
    w.ranges.clear();
    for (const Batch::Slot& slot : batch.slots)
      w.ranges.push_back({slot.sample, batch.positions[slot.first_row], slot.n_rows, slot.first_row});
  }
}

BatchView Forward::view() const {
  const Workspace& w = *workspace_;
  return {batch_->n_tokens(),     batch_->positions.data(), batch_->sequences.data(),
          batch_->kv_rows.data(), w.block_tables.data(),    w.max_blocks,
          KvPool::block_size};
}

// The one place where points are read and written: a write first, then the read, so that a record holds what the later
// layers saw.
void Forward::point(Point point, int64_t l, Tensor x, int32_t n_slots) {
  if (workspace_->any_edits) edit(point, l, x, n_slots);
  if (sink_ && sink_->wants(point, static_cast<int32_t>(l))) {
    backend_.synchronize();
    sink_->take(point, static_cast<int32_t>(l), x.data, x.cols * n_slots);
  }
}

void Forward::edit(Point point, int64_t l, Tensor x, int32_t n_slots) {
  const Workspace& w = *workspace_;
  const bool per_slot = point_info(point).slots();
  std::vector<int32_t> rows, value_rows;
  for (const Batch::Slot& slot : batch_->slots) {
    if (!slot.edits) continue;
    for (const PointEdit& edit : slot.edits->point_edits(point, static_cast<int32_t>(l))) {
      rows.clear();
      value_rows.clear();
      for (int64_t t = slot.first_row; t < slot.first_row + slot.n_rows; ++t) {
        if (!w.active[t * w.n_edits + edit.edit]) continue;
        if (w.route_ready && w.margin[t] >= edit.margin_below && !std::isinf(edit.margin_below)) continue;
        for (int32_t i = 0; i < n_slots; ++i) {
          const int32_t expert = per_slot ? w.ids[t * max_slots_ + i] : 0;
          if (per_slot && (expert < 0 ||
                           !(edit.all_experts || std::binary_search(edit.experts.begin(), edit.experts.end(), expert))))
            continue;
          rows.push_back(static_cast<int32_t>(t * n_slots + i));
          value_rows.push_back(static_cast<int32_t>(edit.value_row(batch_->positions[t], i, expert)));
        }
      }
      if (rows.empty()) continue;
      const Tensor values(const_cast<float*>(edit.values), edit.n_values, edit.width);  // read only
      backend_.edit_rows(x, rows, values, value_rows, edit.columns, edit.kind == PointEdit::Kind::add, edit.scale);
    }
  }
}

Tensor Forward::run(const Batch& batch, ProbeSink* sink) {
  batch_ = &batch;
  sink_ = sink;
  prepare(batch);
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens();
  if (sink_)
    sink_->begin(
        {n_tokens, w.ranges, batch.tokens.data(), batch.positions.data(), batch.phase.data(), batch.spans.data()});

  w.x = buffer(residual, n_tokens, model_.d_model);
  w.route_ready = false;
  backend_.embed(w.x, weights_.embed, batch.tokens.data());
  point(Point::embed, -1, w.x);
  for (int64_t l = 0; l < model_.n_layers(); ++l) {
    w.route_ready = false;
    point(Point::resid_in, l, w.x);
    attention(l, batch);
    point(Point::resid_mid, l, w.x);
    feed_forward(l, batch);
    point(Point::resid_out, l, w.x);
  }
  w.route_ready = false;

  const bool all_rows = sink_ && (sink_->wants(Point::final_normed, -1) || sink_->wants(Point::logits, -1));
  const int64_t n_logits = static_cast<int64_t>(batch.logit_rows.size());
  Tensor out(nullptr, n_logits, model_.n_vocab);
  if (all_rows || w.any_edits) {
    Tensor h = buffer(normed, n_tokens, model_.d_model);
    backend_.rmsnorm(h, w.x, weights_.final_norm, model_.norm_eps);
    point(Point::final_normed, -1, h);
    if (sink_ && sink_->wants(Point::logits, -1)) {
      Tensor every = buffer(logits, n_tokens + n_logits, model_.n_vocab);
      backend_.matmul(every.first_rows(n_tokens), h, weights_.lm_head, {});
      point(Point::logits, -1, every.first_rows(n_tokens));
      out.data = every.row(n_tokens);
      out.stride = model_.n_vocab;
      if (n_logits > 0) backend_.gather_rows(out, every.first_rows(n_tokens), batch.logit_rows);
    } else if (n_logits > 0) {
      Tensor picked = buffer(logit_input, n_logits, model_.d_model);
      backend_.gather_rows(picked, h, batch.logit_rows);
      out = buffer(logits, n_logits, model_.n_vocab);
      backend_.matmul(out, picked, weights_.lm_head, {});
    }
  } else if (n_logits > 0) {
    Tensor picked = buffer(logit_input, n_logits, model_.d_model);
    backend_.gather_rows(picked, w.x, batch.logit_rows);
    backend_.rmsnorm(picked, picked, weights_.final_norm, model_.norm_eps);
    out = buffer(logits, n_logits, model_.n_vocab);
    backend_.matmul(out, picked, weights_.lm_head, {});
  }
  backend_.synchronize();
  if (sink_) sink_->end();
  if (leaks_ != 0)
    throw Error("routing", "expected no suppressed expert to run, found " + std::to_string(leaks_) + " that did");
  sink_ = nullptr;
  return out;
}

void Forward::attention(int64_t l, const Batch& batch) {
  Workspace& w = *workspace_;
  const Layer& layer = model_.layers[l];
  const LayerWeights& weights = weights_.layers[l];
  backend_.rmsnorm(buffer(normed, batch.n_tokens(), model_.d_model), w.x, weights.attn_norm, model_.norm_eps);
  std::visit(overloaded{[&](const Gqa& a) { gqa(l, a, std::get<GqaWeights>(weights.attention), batch); },
                        [&](const Mla& a) { mla(l, a, std::get<MlaWeights>(weights.attention), batch); }},
             layer.attention);
  Tensor out = buffer(block_out, batch.n_tokens(), model_.d_model);
  point(Point::attn_out, l, out);
  backend_.add(w.x, w.x, out);
}

void Forward::gqa(int64_t l, const Gqa& a, const GqaWeights& weights, const Batch& batch) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens();
  Tensor h = buffer(normed, n_tokens, model_.d_model);
  Tensor q = buffer(query, n_tokens, a.n_heads * a.d_head);
  Tensor k = buffer(key, n_tokens, a.n_kv_heads * a.d_head);
  Tensor v = buffer(value, n_tokens, a.n_kv_heads * a.d_head);
  backend_.matmul(q, h, weights.q, weights.q_bias);
  backend_.matmul(k, h, weights.k, weights.k_bias);
  backend_.matmul(v, h, weights.v, weights.v_bias);
  if (a.qk_norm == Gqa::QkNorm::per_head) {
    backend_.rmsnorm(q.split(a.n_heads), q.split(a.n_heads), weights.q_norm, model_.norm_eps);
    backend_.rmsnorm(k.split(a.n_kv_heads), k.split(a.n_kv_heads), weights.k_norm, model_.norm_eps);
  } else if (a.qk_norm == Gqa::QkNorm::whole) {
    backend_.rmsnorm(q, q, weights.q_norm, model_.norm_eps);
    backend_.rmsnorm(k, k, weights.k_norm, model_.norm_eps);
  }
  if (a.clip > 0) {
    backend_.clamp(q, a.clip);
    backend_.clamp(k, a.clip);
    backend_.clamp(v, a.clip);
  }
  backend_.rope(q, a.n_heads, 0, w.rope, batch.positions.data());
  backend_.rope(k, a.n_kv_heads, 0, w.rope, batch.positions.data());

  const KvCache cache = batch.slots.front().kv->pool().layer(l);
  backend_.store_rows(cache.keys, cache.key_stride, k, batch.kv_rows.data());
  backend_.store_rows(cache.values, cache.value_stride, v, batch.kv_rows.data());
  Tensor core = buffer(attended, n_tokens, a.n_heads * a.d_head);
  backend_.attention(core, q, cache, view(),
                     {a.n_heads, a.n_kv_heads, a.d_head, a.d_head, a.scale, a.window, weights.sinks.data});
  backend_.matmul(buffer(block_out, n_tokens, model_.d_model), core, weights.o, weights.o_bias);
}

void Forward::mla(int64_t l, const Mla& a, const MlaWeights& weights, const Batch& batch) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens(), d_query = a.d_nope + a.d_rope, d_cached = a.d_latent + a.d_rope;
  Tensor h = buffer(normed, n_tokens, model_.d_model);
  Tensor q = buffer(query, n_tokens, a.n_heads * d_query);
  if (a.q_rank > 0) {
    Tensor low = buffer(query_low, n_tokens, a.q_rank);
    backend_.matmul(low, h, weights.q_a, weights.q_a_bias);
    backend_.rmsnorm(low, low, weights.q_a_norm, a.latent_eps);
    backend_.matmul(q, low, weights.q_b, {});
  } else {
    backend_.matmul(q, h, weights.q, {});
  }
  Tensor kv = buffer(latent, n_tokens, d_cached);
  backend_.matmul(kv, h, weights.kv_a, weights.kv_a_bias);
  backend_.rmsnorm(kv.columns(0, a.d_latent), kv.columns(0, a.d_latent), weights.kv_a_norm, a.latent_eps);
  backend_.rope(kv.columns(a.d_latent, a.d_rope), 1, 0, w.rope, batch.positions.data());
  backend_.rope(q, a.n_heads, a.d_nope, w.rope, batch.positions.data());

  const KvCache cache = batch.slots.front().kv->pool().layer(l);
  backend_.store_rows(cache.keys, cache.key_stride, kv, batch.kv_rows.data());
  Tensor absorbed = buffer(query_latent, n_tokens, a.n_heads * d_cached);
  backend_.mla_absorb(absorbed, q, weights.kv_b, a.n_heads, a.d_nope, a.d_rope, a.d_value);
  Tensor attended_latents = buffer(attended_latent, n_tokens, a.n_heads * a.d_latent);
  backend_.attention(attended_latents, absorbed, cache, view(),
                     {a.n_heads, 1, d_cached, a.d_latent, a.scale, 0, nullptr});
  Tensor core = buffer(attended, n_tokens, a.n_heads * a.d_value);
  backend_.mla_expand(core, attended_latents, weights.kv_b, a.n_heads, a.d_nope, a.d_value);
  backend_.matmul(buffer(block_out, n_tokens, model_.d_model), core, weights.o, weights.o_bias);
}

void Forward::feed_forward(int64_t l, const Batch& batch) {
  Workspace& w = *workspace_;
  const LayerWeights& weights = weights_.layers[l];
  const int64_t n_tokens = batch.n_tokens();
  Tensor h = buffer(normed, n_tokens, model_.d_model);
  backend_.rmsnorm(h, w.x, weights.ffn_norm, model_.norm_eps);
  Tensor out = buffer(block_out, n_tokens, model_.d_model);
  if (const Moe* m = model_.layers[l].moe()) {
    moe(l, *m, std::get<MoeWeights>(weights.ffn), batch);
    point(Point::moe_out, l, out);
  } else {
    const auto& dense = std::get<DenseWeights>(weights.ffn);
    Tensor hidden = buffer(ffn_hidden, n_tokens, std::get<Dense>(model_.layers[l].ffn).d_ff);
    backend_.gated_hidden(hidden, h, dense.gate, dense.up, model_.activation);
    backend_.matmul(out, hidden, dense.down, {});
    point(Point::mlp_out, l, out);
  }
  backend_.add(w.x, w.x, out);
}

void Forward::moe(int64_t l, const Moe& moe, const MoeWeights& weights, const Batch& batch) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens(), n_sequences = static_cast<int64_t>(batch.slots.size());
  const int64_t n_experts = moe.router.n_experts;
  const int32_t layer = static_cast<int32_t>(l);
  Tensor h = buffer(normed, n_tokens, model_.d_model);
  Tensor z = buffer(router_logits, n_tokens, n_experts);
  backend_.matmul(z, h, weights.router, weights.router_bias);

  w.ids.resize(n_tokens * max_slots_);
  w.original_ids.resize(n_tokens * max_slots_);
  w.weights.resize(n_tokens * max_slots_);
  w.margin.resize(n_tokens);
  w.scores.resize(n_tokens * n_experts);
  w.shared_scale.resize(n_tokens);
  w.banned.resize(n_tokens * n_experts);
  Route route{max_slots_,      w.ids.data(),    w.weights.data(),      w.original_ids.data(),
              w.margin.data(), w.scores.data(), w.shared_scale.data(), w.banned.data(),
              &w.fault};
  RouteBatch route_batch;
  route_batch.n_tokens = n_tokens;
  route_batch.positions = batch.positions.data();
  route_batch.sequences = batch.sequences.data();
  route_batch.layer = layer;
  if (w.any_router_edits) {
    w.programs.assign(n_sequences, RouterProgram{});
    for (int64_t s = 0; s < n_sequences; ++s)
      if (batch.slots[s].edits) w.programs[s] = batch.slots[s].edits->router(layer);
    route_batch.programs = w.programs.data();
    route_batch.active = w.active.data();
    route_batch.n_edits = w.n_edits;
    route_batch.record_hash = w.record_hash.data();
    route_batch.samples = w.samples.data();
  } else {
    route.original_ids = nullptr;
    route.shared_scale = nullptr;
    route.banned = nullptr;
  }
  backend_.route(route, z, moe.router, weights.selection_bias.data, route_batch);
  if (w.fault.kind != RouteFault::Kind::none) {
    const int32_t t = w.fault.token;
    const Batch::Slot& slot = batch.slots[batch.sequences[t]];
    throw slot.edits
        ? slot.edits->fault_error(w.fault, layer, batch.positions[t])
        : Error("layer " + std::to_string(l) + " router",
                "expected finite logits, found NaN or infinity at position " + std::to_string(batch.positions[t]));
  }
  w.route_ready = true;

  if (sink_) {
    point(Point::router_logits, l, z);
    point(Point::router_scores, l, Tensor(w.scores.data(), n_tokens, n_experts));
    if (sink_->wants(Point::router_ids, layer))
      sink_->take_ids(layer, w.ids.data(), w.any_router_edits ? w.original_ids.data() : w.ids.data(), max_slots_);
    point(Point::router_weights, l, Tensor(w.weights.data(), n_tokens, max_slots_));
    point(Point::router_margin, l, Tensor(w.margin.data(), n_tokens, 1));
  }

  Tensor hidden = buffer(expert_hidden, n_tokens * max_slots_, moe.d_ff);
  backend_.experts_hidden(hidden, h, route, n_tokens, weights.experts(), model_.activation, &leaks_);
  point(Point::expert_hidden, l, hidden, max_slots_);
  Tensor outputs = buffer(expert_out, n_tokens * max_slots_, model_.d_model);
  backend_.experts_out(outputs, hidden, route, n_tokens, weights.experts());
  point(Point::expert_out, l, outputs, max_slots_);

  Tensor shared;
  if (moe.d_ff_shared > 0) {
    shared = buffer(shared_out, n_tokens, model_.d_model);
    Tensor shared_h = buffer(shared_hidden, n_tokens, moe.d_ff_shared);
    backend_.gated_hidden(shared_h, h, weights.shared_gate, weights.shared_up, model_.activation);
    backend_.matmul(shared, shared_h, weights.shared_down, {});
    if (moe.shared_gate) {
      Tensor gate = buffer(shared_gate, n_tokens, 1);
      backend_.matmul(gate, h, weights.shared_scale, {});
      backend_.sigmoid_scale(shared, gate);
    }
    if (w.any_router_edits) backend_.scale_rows(shared, w.shared_scale.data());
    point(Point::shared_out, l, shared);
  }
  backend_.combine(buffer(block_out, n_tokens, model_.d_model), outputs, route, shared);
}

}  // namespace signalbox
