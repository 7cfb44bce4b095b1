#include "engine/forward.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/device_edits.h"
#include "engine/route_ring.h"
#include "engine/step_inputs.h"

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
  query_low_normed,
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
  picked_residual,
  logit_input,
  all_logits,
  logits_even,
  logits_odd,
  route_ids,
  route_original,
  route_weights,
  route_margin,
  route_scores,
  route_shared_scale,
  route_banned,
  rope_cos,
  rope_sin,
  n_buffers
};

template <class... Ts>
struct overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
overloaded(Ts...) -> overloaded<Ts...>;

// Work on so few tokens is captured and replayed: its cost is that of launching it.
constexpr int64_t max_captured_tokens = 64;

constexpr size_t max_roomy_bytes = size_t{256} << 20;

int64_t power_of_two(int64_t n, int64_t least) {
  return std::max(least, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1)))));
}

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
  sampling.clear();
  targets.clear();
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

// Memory of the forward, grown to the largest batch seen.
struct Forward::Workspace {
  Workspace(Backend& backend, const Model& model, int32_t n_slots)
      : inputs(backend),
        moe_layers(model.moe_layers()),
        edits(backend, moe_layers),
        ring(backend, moe_layers, model.n_experts(), n_slots) {}

  struct Block {
    std::shared_ptr<void> memory;
    size_t bytes = 0;
  };
  Block blocks[n_buffers];
  Tensor x;  // the residual stream
  RopeTable rope;
  int64_t rope_positions = 0;
  std::vector<float> cos, sin;

  // This step's inputs, in memory of the device.
  StepInputs inputs;
  int64_t token_capacity = 0, sequence_capacity = 0, max_blocks = 0, max_keys = 0;
  BatchView view;
  const int32_t *tokens = nullptr, *logit_rows = nullptr, *targets = nullptr;
  const SampleParams* sampling = nullptr;
  const uint32_t* step = nullptr;
  RouteBatch route_batch;                   // but for its layer and programs
  const RouterProgram* programs = nullptr;  // [moe layer][sequence_capacity]
  // Written by the step and read back at its end, in one transfer: leaks and the fault of each sequence, chosen tokens,
  // log p.
  size_t status_at = 0, status_bytes = 0, chosen_at = 0, log_probs_at = 0;
  std::shared_ptr<void> status_host;
  size_t status_host_bytes = 0;

  std::vector<int32_t> moe_layers;
  DeviceEdits edits;
  RouteRing ring;
  bool ring_only = false;  // the sink wants nothing but routes
  bool records = false;    // routes go to the ring

  std::vector<uint8_t> active;  // [n_tokens, edit_capacity]
  int32_t edit_capacity = 0;
  bool any_point_edits = false, any_router_edits = false;
  // Of the layer that runs, where an edit or a point looks at them.
  bool route_there = false, route_copied = false;
  std::vector<int32_t> host_ids;
  std::vector<float> host_margin;
  std::vector<RowRange> ranges;
  std::vector<unsigned char> raw;
  std::vector<float> host_values;
  bool odd = false;  // which of the two buffers of logits this step uses
  Tensor logits;
  uint64_t leaks = 0;
};

Forward::Forward(Backend& backend, const Model& model, const Weights& weights, int32_t max_slots)
    : backend_(backend),
      model_(model),
      weights_(weights),
      max_slots_(std::max(max_slots, model.n_active())),
      workspace_(std::make_shared<Workspace>(backend, model, max_slots_)) {}

Forward::~Forward() { backend_.forget_graphs(); }  // they name memory of the workspace

// At least `bytes`; where the block has to move, `roomy`, which is no less.
void* Forward::memory(int index, size_t bytes, size_t roomy) {
  Workspace::Block& block = workspace_->blocks[index];
  if (block.bytes < bytes || !block.memory) {
    backend_.forget_graphs();
    block.memory.reset();
    block.bytes = 0;
    block.memory = backend_.allocate(roomy);
    block.bytes = roomy;
  }
  return block.memory.get();
}

// n values of this step's tokens, with room for as many tokens as the next power of two: prompts that grow little by
// little move nothing. The logits of a long chunk are too large for that.
template <class T>
T* Forward::array(int index, int64_t n) {
  const Workspace& w = *workspace_;
  const size_t bytes = static_cast<size_t>(n) * sizeof(T);
  const size_t roomy = (bytes / static_cast<size_t>(w.view.n_tokens) + 1) * static_cast<size_t>(w.token_capacity);
  return static_cast<T*>(memory(index, bytes, roomy <= max_roomy_bytes ? std::max(bytes, roomy) : bytes));
}

Tensor Forward::buffer(int index, int64_t rows, int64_t cols) {
  return Tensor(array<float>(index, rows * cols), rows, cols);
}

Tensor Forward::operand(int index, int64_t rows, int64_t cols) {
  if (backend_.operand_dtype() == DType::f32) return buffer(index, rows, cols);
  const int64_t stride = (cols + 7) / 8 * 8;  // rows begin at multiples of 16 bytes
  return Tensor(reinterpret_cast<float*>(array<uint16_t>(index, rows * stride)), rows, cols, stride, DType::bf16);
}

void Forward::prepare_rope(int64_t n_positions) {
  Workspace& w = *workspace_;
  const int64_t half = static_cast<int64_t>(model_.rope.inv_freq.size());
  if (n_positions > w.rope_positions) {
    int64_t grown = std::max<int64_t>(1024, w.rope_positions);
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
    const size_t bytes = w.cos.size() * sizeof(float);
    float* cos = static_cast<float*>(memory(rope_cos, bytes, bytes));
    float* sin = static_cast<float*>(memory(rope_sin, bytes, bytes));
    backend_.upload(cos, w.cos.data(), bytes);
    backend_.upload(sin, w.sin.data(), bytes);
    w.rope = {cos, sin, grown, model_.rope.n_dims(), model_.rope.adjacent};
  }
}

void Forward::prepare(const Batch& batch) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens();
  w.any_point_edits = w.any_router_edits = false;
  int32_t n_edits = 0;
  for (const Batch::Slot& slot : batch.slots) {
    if (!slot.edits) continue;
    w.any_router_edits = w.any_router_edits || slot.edits->has_router_edits();
    w.any_point_edits = w.any_point_edits || slot.edits->plan().has_point_edits();
    n_edits = std::max(n_edits, slot.edits->plan().n_edits());
  }
  w.edit_capacity = static_cast<int32_t>((n_edits + 7) / 8 * 8);
  w.active.assign(n_tokens * w.edit_capacity, 0);
  for (const Batch::Slot& slot : batch.slots) {
    if (!slot.edits) continue;
    for (int64_t t = slot.first_row; t < slot.first_row + slot.n_rows; ++t)
      slot.edits->active(batch.positions[t], w.active.data() + t * w.edit_capacity);
  }

  int32_t last = 0;
  for (int32_t position : batch.positions) last = std::max(last, position);
  prepare_rope(last + 1);
  w.max_keys = power_of_two(last + 1, 256);

  w.ranges.clear();
  for (const Batch::Slot& slot : batch.slots)
    w.ranges.push_back({slot.sample, batch.positions[slot.first_row], slot.n_rows, slot.first_row});
  w.ring_only = sink_ && RouteRing::serves(*sink_, w.moe_layers, model_.n_layers());
  prepare_inputs(batch);
}

// One image of everything that the device needs to know of this step. Its layout depends on capacities alone.
void Forward::prepare_inputs(const Batch& batch) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens(), n_sequences = static_cast<int64_t>(batch.slots.size());
  w.token_capacity = power_of_two(n_tokens, max_captured_tokens);
  w.sequence_capacity = power_of_two(n_sequences, 8);
  int64_t max_blocks = 1;
  for (const Batch::Slot& slot : batch.slots)
    max_blocks = std::max<int64_t>(max_blocks, static_cast<int64_t>(slot.kv->blocks().size()));
  w.max_blocks = power_of_two(max_blocks, 16);

  const bool records = sink_ && !w.moe_layers.empty();
  uint32_t step = 0;
  if (records) step = w.ring.begin(*sink_, n_tokens, w.any_router_edits);
  w.records = records && w.ring.mask() != 0;

  StepInputs& in = w.inputs;
  in.begin();
  w.status_at = in.add<uint64_t>(1 + w.sequence_capacity);
  w.chosen_at = in.add<int32_t>(w.token_capacity);
  w.log_probs_at = in.add<double>(batch.targets.empty() ? 0 : w.token_capacity);
  w.status_bytes = w.log_probs_at + (batch.targets.empty() ? 0 : w.token_capacity * sizeof(double)) - w.status_at;
  std::fill_n(in.host<uint64_t>(w.status_at) + 1, w.sequence_capacity, no_fault);
  const size_t step_at = in.add<uint32_t>(std::span<const uint32_t>(&step, 1), 1);
  auto list = [&](const std::vector<int32_t>& values) {
    return in.add<int32_t>(std::span<const int32_t>(values), w.token_capacity);
  };
  const size_t tokens = list(batch.tokens), positions = list(batch.positions), sequences = list(batch.sequences),
               kv_rows = list(batch.kv_rows), logit_rows = list(batch.logit_rows), targets = list(batch.targets);
  const size_t sampling = in.add<SampleParams>(std::span<const SampleParams>(batch.sampling), w.token_capacity);
  const size_t tables = in.add<int32_t>(w.sequence_capacity * w.max_blocks);
  for (int64_t s = 0; s < n_sequences; ++s)
    std::copy(batch.slots[s].kv->blocks().begin(), batch.slots[s].kv->blocks().end(),
              in.host<int32_t>(tables) + s * w.max_blocks);
  size_t active = 0, hashes = 0, samples = 0, programs = 0;
  if (w.any_router_edits) {
    active = in.add<uint8_t>(std::span<const uint8_t>(w.active), w.token_capacity * w.edit_capacity);
    hashes = in.add<uint64_t>(w.sequence_capacity);
    samples = in.add<uint32_t>(w.sequence_capacity);
    programs = in.add<RouterProgram>(static_cast<int64_t>(w.moe_layers.size()) * w.sequence_capacity);
    std::vector<const BoundEdits*> running;
    for (int64_t s = 0; s < n_sequences; ++s) {
      const BoundEdits* edits = batch.slots[s].edits;
      if (!edits) continue;
      running.push_back(edits);
      in.host<uint64_t>(hashes)[s] = edits->record_hash();
      in.host<uint32_t>(samples)[s] = edits->sample();
      const auto& of_layers = w.edits.programs(*edits);
      for (size_t l = 0; l < of_layers.size(); ++l)
        in.host<RouterProgram>(programs)[static_cast<int64_t>(l) * w.sequence_capacity + s] = of_layers[l];
    }
    w.edits.keep_only(running);
  }
  in.upload();

  w.step = in.device<uint32_t>(step_at);
  w.tokens = in.device<int32_t>(tokens);
  w.logit_rows = in.device<int32_t>(logit_rows);
  w.targets = in.device<int32_t>(targets);
  w.sampling = in.device<SampleParams>(sampling);
  w.view = {n_tokens,
            in.device<int32_t>(positions),
            in.device<int32_t>(sequences),
            in.device<int32_t>(kv_rows),
            in.device<int32_t>(tables),
            w.max_blocks,
            KvPool::block_size,
            w.max_keys};
  w.route_batch = {};
  w.route_batch.n_tokens = n_tokens;
  w.route_batch.positions = w.view.positions;
  w.route_batch.sequences = w.view.sequences;
  w.programs = nullptr;
  if (w.any_router_edits) {
    w.programs = in.device<RouterProgram>(programs);
    w.route_batch.active = in.device<uint8_t>(active);
    w.route_batch.n_edits = w.edit_capacity;
    w.route_batch.record_hash = in.device<uint64_t>(hashes);
    w.route_batch.samples = in.device<uint32_t>(samples);
  }
}

// Everything that decides which ops are enqueued, with which sizes and addresses. Addresses of buffers are not among
// them: they move only where a buffer grows, and then all graphs are forgotten.
std::vector<int64_t> Forward::graph_key(const Batch& batch) const {
  const Workspace& w = *workspace_;
  return {batch.n_tokens(),
          static_cast<int64_t>(batch.slots.size()),
          static_cast<int64_t>(batch.logit_rows.size()),
          static_cast<int64_t>(batch.sampling.size()),
          static_cast<int64_t>(batch.targets.size()),
          w.token_capacity,
          w.sequence_capacity,
          w.max_blocks,
          w.max_keys,
          w.any_router_edits ? w.edit_capacity : -1,
          w.records ? w.ring.mask() : 0,
          w.ring.generation(),
          w.odd,
          reinterpret_cast<int64_t>(batch.slots.front().kv->pool().layer(0).keys),
          reinterpret_cast<int64_t>(this)};
}

const float* Forward::on_host(Tensor x) {
  if (backend_.shares_host_memory()) return x.data;
  Workspace& w = *workspace_;
  const size_t width = x.dtype == DType::f32 ? 4 : 2;
  w.raw.resize(static_cast<size_t>((x.rows - 1) * x.stride + x.cols) * width);
  backend_.download(w.raw.data(), x.data, w.raw.size());
  w.host_values.resize(static_cast<size_t>(x.rows * x.cols));
  for (int64_t r = 0; r < x.rows; ++r) {
    const unsigned char* from = w.raw.data() + static_cast<size_t>(r * x.stride) * width;
    float* to = w.host_values.data() + r * x.cols;
    if (width == 4) {
      std::memcpy(to, from, static_cast<size_t>(x.cols) * 4);
      continue;
    }
    for (int64_t c = 0; c < x.cols; ++c) {
      uint16_t half;
      std::memcpy(&half, from + 2 * c, 2);
      to[c] = std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
    }
  }
  return w.host_values.data();
}

bool Forward::looked_at(Point point, int64_t l) const {
  if (workspace_->any_point_edits) return true;
  return sink_ && !workspace_->ring_only && sink_->wants(point, static_cast<int32_t>(l));
}

// The one place where points are read and written: a write first, then the read, so that a record holds what the later
// layers saw.
void Forward::point(Point point, int64_t l, Tensor x, int32_t n_slots) {
  if (workspace_->any_point_edits) edit(point, l, x, n_slots);
  if (sink_ && !workspace_->ring_only && sink_->wants(point, static_cast<int32_t>(l)))
    sink_->take(point, static_cast<int32_t>(l), on_host(x), x.cols * n_slots);
}

// Ids and margins of the layer that runs.
void Forward::route_on_host(int64_t n_tokens) {
  Workspace& w = *workspace_;
  if (w.route_copied || !w.route_there) return;
  w.host_ids.resize(n_tokens * max_slots_);
  w.host_margin.resize(n_tokens);
  backend_.download(w.host_ids.data(), array<int32_t>(route_ids, n_tokens * max_slots_), w.host_ids.size() * 4);
  backend_.download(w.host_margin.data(), array<float>(route_margin, n_tokens), w.host_margin.size() * 4);
  w.route_copied = true;
}

void Forward::edit(Point point, int64_t l, Tensor x, int32_t n_slots) {
  Workspace& w = *workspace_;
  const bool per_slot = point_info(point).slots();
  std::vector<int32_t> rows, value_rows;
  for (const Batch::Slot& slot : batch_->slots) {
    if (!slot.edits) continue;
    for (const PointEdit& edit : slot.edits->point_edits(point, static_cast<int32_t>(l))) {
      const bool by_margin = w.route_there && !std::isinf(edit.margin_below);
      if (per_slot || by_margin) route_on_host(batch_->n_tokens());
      rows.clear();
      value_rows.clear();
      for (int64_t t = slot.first_row; t < slot.first_row + slot.n_rows; ++t) {
        if (!w.active[t * w.edit_capacity + edit.edit]) continue;
        if (by_margin && w.host_margin[t] >= edit.margin_below) continue;
        for (int32_t i = 0; i < n_slots; ++i) {
          const int32_t expert = per_slot ? w.host_ids[t * max_slots_ + i] : 0;
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

void Forward::launch(const Batch& batch, ProbeSink* sink) {
  batch_ = &batch;
  sink_ = sink;
  prepare(batch);
  Workspace& w = *workspace_;
  w.odd = !w.odd;
  w.logits = Tensor();
  if (!batch.logit_rows.empty())
    w.logits = buffer(w.odd ? logits_odd : logits_even, static_cast<int64_t>(batch.logit_rows.size()), model_.n_vocab);
  const StepRows rows{batch.n_tokens(),       w.ranges,           batch.tokens.data(),
                      batch.positions.data(), batch.phase.data(), batch.spans.data()};
  const bool stops = w.any_point_edits || (sink_ && !w.ring_only);  // for points that the host reads or writes
  if (sink_ && !w.ring_only) {
    w.ring.flush(*sink_);
    sink_->begin(rows);
  }
  if (!stops && batch.n_tokens() <= max_captured_tokens) {
    backend_.replay(graph_key(batch), [&] { enqueue(batch); });
  } else {
    enqueue(batch);
  }
  if (sink_ && w.ring_only) w.ring.end(rows);
  if (sink_ && !w.ring_only) {
    if (w.records) w.ring.take_now(*sink_);
    sink_->end();
  }
}

Outputs Forward::finish() {
  Workspace& w = *workspace_;
  if (w.status_host_bytes < w.status_bytes) {
    w.status_host = backend_.allocate_host(w.status_bytes);
    w.status_host_bytes = w.status_bytes;
  }
  backend_.download(w.status_host.get(), w.inputs.device<unsigned char>(w.status_at), w.status_bytes);
  const auto* bytes = static_cast<const unsigned char*>(w.status_host.get());
  const auto* status = reinterpret_cast<const uint64_t*>(bytes);
  const auto* chosen = reinterpret_cast<const int32_t*>(bytes + (w.chosen_at - w.status_at));
  const auto* log_probs = reinterpret_cast<const double*>(bytes + (w.log_probs_at - w.status_at));
  const Batch& batch = *batch_;
  sink_ = nullptr;
  batch_ = nullptr;
  if (status[0] != 0)
    throw Error("routing", "expected no suppressed expert to run, found " + std::to_string(status[0]) + " that did");
  std::vector<uint64_t> faults;
  for (size_t s = 0; s < batch.slots.size(); ++s)
    if (status[1 + s] != no_fault) faults.push_back(status[1 + s]);
  std::sort(faults.begin(), faults.end());  // the first of the forward comes first
  Outputs outputs = {w.logits, {chosen, batch.sampling.size()}, {log_probs, batch.targets.size()}, {}};
  for (const uint64_t packed : faults) {
    const RouteFault fault = unpack_fault(packed);
    const int32_t sequence = batch.sequences[fault.token], position = batch.positions[fault.token];
    const BoundEdits* edits = batch.slots[sequence].edits;
    outputs.failures.push_back({sequence, edits ? edits->fault_error(fault, fault.layer, position)
                                                : Error("layer " + std::to_string(fault.layer) + " router",
                                                        "expected finite logits, found NaN or infinity at position " +
                                                            std::to_string(position))});
  }
  return outputs;
}

void Forward::flush(ProbeSink& sink) { workspace_->ring.flush(sink); }

Tensor Forward::next_norm(Tensor delta, std::span<const PointAt> points, Vector weight) {
  Workspace& w = *workspace_;
  Tensor h = operand(normed, w.x.rows, model_.d_model);
  bool looked = false;
  for (const PointAt& at : points) looked = looked || looked_at(at.point, at.layer);
  if (delta && !looked) {
    backend_.add_rmsnorm(w.x, delta, h, weight, model_.norm_eps);
    return h;
  }
  if (delta) backend_.add(w.x, w.x, delta);
  for (const PointAt& at : points) point(at.point, at.layer, w.x);
  backend_.rmsnorm(h, w.x, weight, model_.norm_eps);
  return h;
}

void Forward::enqueue(const Batch& batch) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens();
  w.x = buffer(residual, n_tokens, model_.d_model);
  w.route_there = false;
  backend_.embed(w.x, weights_.embed, w.tokens);
  point(Point::embed, -1, w.x);
  Tensor delta;
  std::vector<PointAt> between;
  for (int64_t l = 0; l < model_.n_layers(); ++l) {
    const int32_t layer = static_cast<int32_t>(l);
    between.clear();
    if (l > 0) between.push_back({Point::resid_out, layer - 1});
    between.push_back({Point::resid_in, layer});
    attention(l, next_norm(delta, between, weights_.layers[l].attn_norm));
    delta = buffer(block_out, n_tokens, model_.d_model);
    point(Point::attn_out, l, delta);
    const PointAt mid{Point::resid_mid, layer};
    feed_forward(l, next_norm(delta, {&mid, 1}, weights_.layers[l].ffn_norm));
  }
  head(batch, delta);
}

// The last addition to the residual stream, the final norm, and the logits that somebody wants.
void Forward::head(const Batch& batch, Tensor delta) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = batch.n_tokens(), n_logits = static_cast<int64_t>(batch.logit_rows.size());
  const PointAt last{Point::resid_out, static_cast<int32_t>(model_.n_layers()) - 1};
  const bool records_logits = sink_ && !w.ring_only && sink_->wants(Point::logits, -1);
  const bool every_row = looked_at(Point::final_normed, -1) || records_logits;
  const Tensor out = w.logits;
  if (every_row || n_logits == n_tokens) {
    Tensor h = next_norm(delta, {&last, 1}, weights_.final_norm);
    w.route_there = false;
    point(Point::final_normed, -1, h);
    if (records_logits) {
      Tensor every = buffer(all_logits, n_tokens, model_.n_vocab);
      backend_.matmul(every, h, weights_.lm_head, {});
      point(Point::logits, -1, every);
      if (n_logits > 0) backend_.gather_rows(out, every, w.logit_rows);
    } else if (n_logits == n_tokens) {
      backend_.matmul(out, h, weights_.lm_head, {});
    } else if (n_logits > 0) {
      Tensor picked = operand(logit_input, n_logits, model_.d_model);
      backend_.gather_rows(picked, h, w.logit_rows);
      backend_.matmul(out, picked, weights_.lm_head, {});
    }
  } else {
    backend_.add(w.x, w.x, delta);
    point(Point::resid_out, last.layer, w.x);
    if (n_logits > 0) {
      Tensor picked = buffer(picked_residual, n_logits, model_.d_model);
      backend_.gather_rows(picked, w.x, w.logit_rows);
      Tensor h = operand(logit_input, n_logits, model_.d_model);
      backend_.rmsnorm(h, picked, weights_.final_norm, model_.norm_eps);
      backend_.matmul(out, h, weights_.lm_head, {});
    }
  }
  if (!batch.sampling.empty()) backend_.sample(w.inputs.device<int32_t>(w.chosen_at), out, w.sampling);
  if (!batch.targets.empty()) backend_.log_probs(w.inputs.device<double>(w.log_probs_at), out, w.targets);
}

void Forward::attention(int64_t l, Tensor h) {
  const LayerWeights& weights = weights_.layers[l];
  std::visit(overloaded{[&](const Gqa& a) { gqa(l, a, std::get<GqaWeights>(weights.attention), h); },
                        [&](const Mla& a) { mla(l, a, std::get<MlaWeights>(weights.attention), h); }},
             model_.layers[l].attention);
}

void Forward::gqa(int64_t l, const Gqa& a, const GqaWeights& weights, Tensor h) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = h.rows;
  Tensor q = buffer(query, n_tokens, a.n_heads * a.d_head);
  Tensor k = buffer(key, n_tokens, a.n_kv_heads * a.d_head);
  Tensor v = buffer(value, n_tokens, a.n_kv_heads * a.d_head);
  const Product projections[] = {
      {q, &weights.q, weights.q_bias}, {k, &weights.k, weights.k_bias}, {v, &weights.v, weights.v_bias}};
  backend_.matmul_many(h, projections);
  const KvCache cache = batch_->slots.front().kv->pool().layer(l);
  Backend::HeadsArgs heads{a.n_heads, a.n_kv_heads, a.d_head, {}, {}, model_.norm_eps, a.clip, w.rope};
  if (a.qk_norm != Gqa::QkNorm::none) {
    heads.q_norm = weights.q_norm;
    heads.k_norm = weights.k_norm;
  }
  backend_.prepare_heads(q, k, v, heads, cache, w.view);
  Tensor core = operand(attended, n_tokens, a.n_heads * a.d_head);
  backend_.attention(core, q, cache, w.view,
                     {a.n_heads, a.n_kv_heads, a.d_head, a.d_head, a.scale, a.window, weights.sinks.data});
  backend_.matmul(buffer(block_out, n_tokens, model_.d_model), core, weights.o, weights.o_bias);
}

void Forward::mla(int64_t l, const Mla& a, const MlaWeights& weights, Tensor h) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = h.rows, d_query = a.d_nope + a.d_rope, d_cached = a.d_latent + a.d_rope;
  Tensor q = buffer(query, n_tokens, a.n_heads * d_query);
  Tensor kv = buffer(latent, n_tokens, d_cached);
  if (a.q_rank > 0) {
    Tensor low = buffer(query_low, n_tokens, a.q_rank), normed_low = operand(query_low_normed, n_tokens, a.q_rank);
    const Product projections[] = {{low, &weights.q_a, weights.q_a_bias}, {kv, &weights.kv_a, weights.kv_a_bias}};
    backend_.matmul_many(h, projections);
    backend_.rmsnorm(normed_low, low, weights.q_a_norm, a.latent_eps);
    backend_.matmul(q, normed_low, weights.q_b, {});
  } else {
    const Product projections[] = {{q, &weights.q, {}}, {kv, &weights.kv_a, weights.kv_a_bias}};
    backend_.matmul_many(h, projections);
  }
  const KvCache cache = batch_->slots.front().kv->pool().layer(l);
  backend_.prepare_latent(q, kv, {a.n_heads, a.d_nope, a.d_latent, weights.kv_a_norm, a.latent_eps, w.rope}, cache,
                          w.view);
  Tensor absorbed = buffer(query_latent, n_tokens, a.n_heads * d_cached);
  backend_.mla_absorb(absorbed, q, weights.kv_b, a.n_heads, a.d_nope, a.d_rope, a.d_value);
  Tensor attended_latents = operand(attended_latent, n_tokens, a.n_heads * a.d_latent);
  backend_.attention(attended_latents, absorbed, cache, w.view,
                     {a.n_heads, 1, d_cached, a.d_latent, a.scale, 0, nullptr});
  Tensor core = operand(attended, n_tokens, a.n_heads * a.d_value);
  backend_.mla_expand(core, attended_latents, weights.kv_b, a.n_heads, a.d_nope, a.d_value);
  backend_.matmul(buffer(block_out, n_tokens, model_.d_model), core, weights.o, weights.o_bias);
}

void Forward::feed_forward(int64_t l, Tensor h) {
  Workspace& w = *workspace_;
  const LayerWeights& weights = weights_.layers[l];
  Tensor out = buffer(block_out, h.rows, model_.d_model);
  w.route_there = w.route_copied = false;
  if (const Moe* m = model_.layers[l].moe()) {
    moe(l, *m, std::get<MoeWeights>(weights.ffn), h);
    point(Point::moe_out, l, out);
  } else {
    const auto& dense = std::get<DenseWeights>(weights.ffn);
    Tensor hidden = operand(ffn_hidden, h.rows, std::get<Dense>(model_.layers[l].ffn).d_ff);
    backend_.gated_hidden(hidden, h, dense.gate, dense.up, model_.activation);
    backend_.matmul(out, hidden, dense.down, {});
    point(Point::mlp_out, l, out);
  }
}

void Forward::moe(int64_t l, const Moe& moe, const MoeWeights& weights, Tensor h) {
  Workspace& w = *workspace_;
  const int64_t n_tokens = h.rows, n_experts = moe.router.n_experts;
  const int64_t index = std::lower_bound(w.moe_layers.begin(), w.moe_layers.end(), l) - w.moe_layers.begin();
  Tensor z = buffer(router_logits, n_tokens, n_experts);
  Route route;
  route.n_slots = max_slots_;
  route.ids = array<int32_t>(route_ids, n_tokens * max_slots_);
  route.weights = array<float>(route_weights, n_tokens * max_slots_);
  route.margin = array<float>(route_margin, n_tokens);
  route.scores = w.records ? array<float>(route_scores, n_tokens * n_experts) : nullptr;
  uint64_t* status = w.inputs.device<uint64_t>(w.status_at);
  route.faults = status + 1;
  if (w.records) route.record = w.ring.record(static_cast<size_t>(index), w.step);
  RouteBatch batch = w.route_batch;
  batch.layer = static_cast<int32_t>(l);
  if (w.any_router_edits) {
    batch.programs = w.programs + index * w.sequence_capacity;
    route.original_ids = array<int32_t>(route_original, n_tokens * max_slots_);
    route.shared_scale = array<float>(route_shared_scale, n_tokens);
    route.banned = array<uint8_t>(route_banned, n_tokens * n_experts);
  }
  backend_.route(route, z, h, weights.router, weights.router_bias.data, moe.router, weights.selection_bias.data, batch);
  w.route_there = true;
  w.route_copied = false;

  const ExpertMatrices experts = weights.experts();
  Tensor hidden = operand(expert_hidden, n_tokens * max_slots_, moe.d_ff);
  backend_.experts_hidden(hidden, h, route, n_tokens, experts, model_.activation, status);
  point(Point::expert_hidden, l, hidden, max_slots_);
  Tensor outputs = buffer(expert_out, n_tokens * max_slots_, model_.d_model);
  backend_.experts_out(outputs, hidden, route, n_tokens, experts);
  point(Point::expert_out, l, outputs, max_slots_);

  Tensor shared;
  if (moe.d_ff_shared > 0) {
    shared = buffer(shared_out, n_tokens, model_.d_model);
    Tensor shared_h = operand(shared_hidden, n_tokens, moe.d_ff_shared);
    backend_.gated_hidden(shared_h, h, weights.shared_gate, weights.shared_up, model_.activation);
    backend_.matmul(shared, shared_h, weights.shared_down, {});
    if (moe.shared_gate) {
      Tensor gate = buffer(shared_gate, n_tokens, 1);
      backend_.matmul(gate, h, weights.shared_scale, {});
      backend_.sigmoid_scale(shared, gate);
    }
    if (w.any_router_edits) backend_.scale_rows(shared, route.shared_scale);
    point(Point::shared_out, l, shared);
  }
  backend_.combine(buffer(block_out, n_tokens, model_.d_model), outputs, route, shared);
}

}  // namespace signalbox
