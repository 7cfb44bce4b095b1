#include "eval/compress/measure.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

constexpr int unit_bits = 60;

__int128 in_units(double value) {
  if (!(std::fabs(value) < 0x1p60))
    throw Error("expert.out", "expected lengths below 2^60, found " + std::to_string(value));
  return static_cast<__int128>(std::ldexp(value, unit_bits));
}

}  // namespace

void ExpertSums::add(double weight, double length, double largest) {
  ++tokens_;
  weighted_ += in_units(weight * length);
  lengths_ += in_units(length);
  weights_ += in_units(weight);
  largest_ = std::max(largest_, largest);
}

double ExpertSums::mean(__int128 sum) const {
  return tokens_ > 0 ? std::ldexp(static_cast<double>(sum), -unit_bits) / static_cast<double>(tokens_) : no_number;
}

double LayerMeasures::overlap(int32_t a, int32_t b) const {
  const int64_t common = both[static_cast<size_t>(std::min(a, b)) * n_experts + std::max(a, b)];
  const int64_t either = experts[a].tokens() + experts[b].tokens() - common;
  return either > 0 ? static_cast<double>(common) / static_cast<double>(either) : 0;
}

ExpertMeasure::ExpertMeasure(const ModelShape& shape, const std::map<int64_t, std::vector<int64_t>>& sampled,
                             int threads)
    : pool_(threads), d_model_(shape.d_model) {
  for (const auto& [sample, rows] : sampled)
    for (const int64_t row : rows) numbers_[{sample, row}] = n_sampled_++;
  for (size_t l = 0; l < shape.layers.size(); ++l) {
    if (shape.layers[l].n_experts == 0) continue;
    LayerMeasures& layer = layers_.emplace_back();
    layer.layer = static_cast<int32_t>(l);
    layer.n_experts = shape.layers[l].n_experts;
    layer.n_active = shape.layers[l].n_active;
    layer.experts.resize(static_cast<size_t>(layer.n_experts));
    layer.both.assign(static_cast<size_t>(layer.n_experts) * layer.n_experts, 0);
    layer.inputs.assign(static_cast<size_t>(n_sampled_ * d_model_), 0);
  }
  pending_.resize(layers_.size());
}

size_t ExpertMeasure::place(int32_t layer) const {
  for (size_t i = 0; i < layers_.size(); ++i)
    if (layers_[i].layer == layer) return i;
  throw Error("layer " + std::to_string(layer), "expected a layer with a router, found another");
}

bool ExpertMeasure::wants(Point point, int32_t layer) const {
  if (point != Point::router_ids && point != Point::router_weights && point != Point::expert_out &&
      !(point == Point::expert_in && n_sampled_ > 0))
    return false;
  return std::any_of(layers_.begin(), layers_.end(), [&](const LayerMeasures& l) { return l.layer == layer; });
}

void ExpertMeasure::begin(const StepRows& rows) {
  n_rows_ = rows.n_rows;
  counted_.assign(static_cast<size_t>(rows.n_rows), 0);
  wanted_.clear();
  for (const RowRange& range : rows.ranges)
    for (int64_t r = 0; r < range.n_rows; ++r) {
      ++counted_[static_cast<size_t>(range.batch_row + r)];
      if (const auto found = numbers_.find({range.sample, range.first_row + r}); found != numbers_.end())
        wanted_.emplace_back(range.batch_row + r, found->second);
    }
}

void ExpertMeasure::take(Point point, int32_t layer, const float* data, int64_t width) {
  const size_t at = place(layer);
  Pending& pending = pending_[at];
  if (point == Point::router_weights) {
    pending.weights.assign(data, data + n_rows_ * width);
  } else if (point == Point::expert_in) {
    for (const auto& [row, number] : wanted_)
      std::copy_n(data + row * d_model_, d_model_, &layers_[at].inputs[static_cast<size_t>(number * d_model_)]);
  } else if (point == Point::expert_out) {
    const int64_t n = n_rows_ * (width / d_model_);
    pending.lengths.resize(static_cast<size_t>(n));
    pending.largest.resize(static_cast<size_t>(n));
    const int64_t slots = width / d_model_;
    pool_.parallel_for(n_rows_, [&](int64_t row, int) {
      for (int64_t i = row * slots; i < (row + 1) * slots; ++i) {
        const float* out = data + i * d_model_;
        double square = 0, largest = 0;
        for (int64_t c = 0; c < d_model_; ++c) {
          const double value = out[c];
          square += value * value;
          largest = std::max(largest, std::fabs(value));
        }
        pending.lengths[static_cast<size_t>(i)] = std::sqrt(square);
        pending.largest[static_cast<size_t>(i)] = largest;
      }
    });
  }
}

void ExpertMeasure::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  Pending& pending = pending_[place(layer)];
  pending.n_slots = n_slots;
  pending.ids.assign(ids, ids + n_rows_ * n_slots);
}

void ExpertMeasure::end() {
  for (size_t l = 0; l < layers_.size(); ++l) {
    LayerMeasures& layer = layers_[l];
    const Pending& pending = pending_[l];
    for (int64_t row = 0; row < n_rows_; ++row) {
      const int32_t times = counted_[static_cast<size_t>(row)];
      n_tokens_ += l == 0 ? times : 0;
      if (times == 0) continue;
      const auto first = static_cast<size_t>(row * pending.n_slots);
      for (size_t slot = first; slot < first + static_cast<size_t>(pending.n_slots); ++slot) {
        const int32_t e = pending.ids[slot];
        if (e < 0) continue;
        for (int32_t n = 0; n < times; ++n)
          layer.experts[e].add(pending.weights[slot], pending.lengths[slot], pending.largest[slot]);
        for (size_t other = first; other < slot; ++other)
          if (const int32_t o = pending.ids[other]; o >= 0)
            layer.both[static_cast<size_t>(std::min(e, o)) * layer.n_experts + std::max(e, o)] += times;
      }
    }
  }
}

std::map<int32_t, std::vector<int32_t>> super_experts(const std::vector<LayerMeasures>& layers) {
  std::vector<double> all;
  for (const LayerMeasures& layer : layers)
    for (const ExpertSums& expert : layer.experts) all.push_back(expert.tokens() > 0 ? expert.max_activation() : 0);
  std::map<int32_t, std::vector<int32_t>> found;
  if (all.empty()) return found;
  std::sort(all.begin(), all.end());
  const double limit = std::max(quantile(all, 0.995), all.back() / 10);
  for (size_t l = 0; l < layers.size() * 3 / 4; ++l)
    for (size_t e = 0; e < layers[l].experts.size(); ++e)
      if (layers[l].experts[e].tokens() > 0 && layers[l].experts[e].max_activation() > limit)
        found[layers[l].layer].push_back(static_cast<int32_t>(e));
  return found;
}

}  // namespace signalbox::eval
