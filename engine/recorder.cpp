#include "engine/recorder.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"

namespace signalbox::engine {

Recorder::Recorder(Backend& backend, const Model& model, const Weights& weights, int32_t n_slots)
    : backend_(backend),
      model_(model),
      weights_of_model_(weights),
      n_slots_(n_slots),
      n_layers_(model.n_layers()),
      moe_layers_(model.moe_layers()),
      ring_(backend, moe_layers_, model.n_experts(), n_slots) {}

void Recorder::begin(const Batch& batch, ProbeSink* sink, bool edits_routes) {
  sink_ = sink;
  by_ring_ = records_routes_ = takes_direct_ = false;
  ring_step_ = 0;
  if (!sink_) return;
  ranges_.clear();
  for (const BatchSequence& sequence : batch.members)
    if (sequence.sample >= 0)  // others are not recorded
      ranges_.push_back({sequence.sample, batch.positions[sequence.first_row], sequence.n_rows, sequence.first_row});
  rows_ = {batch.n_tokens(),   ranges_,           batch.tokens.data(), batch.positions.data(),
           batch.phase.data(), batch.spans.data()};
  by_ring_ = RouteRing::serves(*sink_, moe_layers_, n_layers_);
  if (!moe_layers_.empty()) {
    ring_step_ = ring_.begin(*sink_, batch.n_tokens(), edits_routes);
    records_routes_ = ring_.mask() != 0;
  }
  if (by_ring_) return;
  ring_.flush(*sink_);
  open_ = true;
  sink_->begin(rows_);
  takes_direct_ = std::any_of(moe_layers_.begin(), moe_layers_.end(),
                              [&](int32_t l) { return sink_->wants(Point::expert_direct, l); });
  if (!takes_direct_) return;
  if (!direct_) direct_.emplace(backend_, model_, weights_of_model_);
  n_logits_ = batch.logit_rows.size();
  direct_->begin(batch, n_slots_);
}

void Recorder::end(const int32_t* chosen) {
  if (!sink_) return;
  if (by_ring_) {
    ring_.end(rows_);
  } else {
    if (records_routes_) ring_.take_now(*sink_);
    if (takes_direct_) hand_over_direct(chosen);
    sink_->end();
    open_ = false;
  }
  sink_ = nullptr;
}

void Recorder::hand_over_direct(const int32_t* chosen) {
  std::vector<int32_t> tokens(chosen ? n_logits_ : 0);
  if (!tokens.empty()) backend_.download(tokens.data(), chosen, tokens.size() * sizeof(int32_t));
  direct_->finish(tokens);
  for (const DirectEffects::OfLayer& layer : direct_->layers())
    sink_->take(Point::expert_direct, static_cast<int32_t>(layer.layer), layer.effects.data(), n_slots_);
}

void Recorder::abandon() {
  if (open_) sink_->abandon();
  open_ = false;
  sink_ = nullptr;
}

RouteRecord Recorder::route(int64_t layer, const uint32_t* step) const {
  if (!records_routes_) return {};
  const auto place = std::lower_bound(moe_layers_.begin(), moe_layers_.end(), layer);
  return ring_.record(static_cast<size_t>(place - moe_layers_.begin()), step);
}

void Recorder::take(Point point, int64_t layer, Tensor x, int32_t n_slots) {
  if (wants(point, layer)) sink_->take(point, static_cast<int32_t>(layer), on_host(x), x.cols * n_slots);
}

// What the experts' outputs come to, in slot order: into weighted_, with the ids of the slots in ids_.
void Recorder::weigh(Tensor outputs, const Route& route) {
  const int64_t width = outputs.cols;
  ids_.resize(static_cast<size_t>(outputs.rows));
  weights_.resize(ids_.size());
  backend_.download(ids_.data(), route.ids, ids_.size() * sizeof(int32_t));
  backend_.download(weights_.data(), route.weights, weights_.size() * sizeof(float));
  const float* from = on_host(outputs);
  weighted_.assign(static_cast<size_t>(outputs.rows * width), 0.f);
  for (int64_t slot = 0; slot < outputs.rows; ++slot) {
    const float weight = weights_[static_cast<size_t>(slot)];
    // What an expert of weight 0 made is not looked at.
    if (ids_[static_cast<size_t>(slot)] < 0 || weight == 0) continue;
    float* to = weighted_.data() + slot * width;
    for (int64_t c = 0; c < width; ++c) to[c] = weight * from[slot * width + c];
  }
}

void Recorder::take_contributions(int64_t layer, Tensor outputs, const Route& route) {
  const int32_t l = static_cast<int32_t>(layer);
  const bool wants_norm = wants(Point::expert_norm, l), wants_direct = wants(Point::expert_direct, l),
             wants_rows = wants(Point::expert_contribution, l);
  if (!wants_norm && !wants_direct && !wants_rows && !wants(Point::expert_update_share, l)) return;
  weigh(outputs, route);
  const int64_t n_slots = route.n_slots, width = outputs.cols;
  if (wants_norm) {
    reduced_.resize(ids_.size());
    contribution_norms(weighted_, width, reduced_);
    sink_->take(Point::expert_norm, l, reduced_.data(), n_slots);
  }
  if (wants_direct) direct_->add(layer, weighted_);
  if (!wants_rows) return;
  std::vector<float> contributions(weighted_.size(), 0.f);
  std::vector<int64_t> used;  // slots, by ascending expert
  for (int64_t first = 0; first < outputs.rows; first += n_slots) {
    used.clear();
    for (int64_t slot = first; slot < first + n_slots; ++slot)
      if (ids_[static_cast<size_t>(slot)] >= 0) used.push_back(slot);
    std::sort(used.begin(), used.end(), [&](int64_t a, int64_t b) { return ids_[a] < ids_[b]; });
    for (size_t i = 0; i < used.size(); ++i)
      std::copy_n(weighted_.data() + used[i] * width, width,
                  contributions.data() + (first + static_cast<int64_t>(i)) * width);
  }
  sink_->take(Point::expert_contribution, l, contributions.data(), n_slots * width);
}

void Recorder::take_update(int64_t layer, Tensor update) {
  if (!wants(Point::expert_update_share, layer)) return;
  const float* from = on_host(update);
  reduced_.resize(ids_.size());
  update_shares(weighted_, {from, static_cast<size_t>(update.rows * update.cols)}, update.cols, reduced_);
  sink_->take(Point::expert_update_share, static_cast<int32_t>(layer), reduced_.data(),
              static_cast<int64_t>(ids_.size()) / update.rows);
}

void Recorder::take_stream(Tensor x) {
  if (takes_direct_) direct_->stream({on_host(x), static_cast<size_t>(x.rows * x.cols)});
}

const float* Recorder::on_host(Tensor x) {
  if (backend_.shares_host_memory()) return x.data;
  const size_t width = x.dtype == DType::f32 ? 4 : 2;
  stored_.resize(static_cast<size_t>((x.rows - 1) * x.stride + x.cols) * width);
  backend_.download(stored_.data(), x.data, stored_.size());
  values_.resize(static_cast<size_t>(x.rows * x.cols));
  for (int64_t r = 0; r < x.rows; ++r) {
    const unsigned char* from = stored_.data() + static_cast<size_t>(r * x.stride) * width;
    float* to = values_.data() + r * x.cols;
    if (width == 4) {
      std::memcpy(to, from, static_cast<size_t>(x.cols) * 4);
      continue;
    }
    for (int64_t c = 0; c < x.cols; ++c) {
      uint16_t half;
      std::memcpy(&half, from + 2 * c, 2);
      to[c] = float_of_bf16(half);
    }
  }
  return values_.data();
}

}  // namespace signalbox::engine
