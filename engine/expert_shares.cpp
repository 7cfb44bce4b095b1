#include "engine/expert_shares.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace signalbox::engine {

namespace {

constexpr int64_t lanes = 8;  // partial sums: independent of each other, so that a compiler may take them at once

template <class A, class B>
double dot(const A* a, const B* b, int64_t n) {
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane)
      sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (; i < n; ++i) sums[i % lanes] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

void contribution_norms(std::span<const float> contributions, int64_t width, std::span<float> out) {
  for (size_t slot = 0; slot < out.size(); ++slot) {
    const float* c = contributions.data() + static_cast<int64_t>(slot) * width;
    out[slot] = static_cast<float>(std::sqrt(dot(c, c, width)));
  }
}

void update_shares(std::span<const float> contributions, std::span<const float> updates, int64_t width,
                   std::span<float> out) {
  const int64_t n_tokens = static_cast<int64_t>(updates.size()) / width;
  const int64_t n_slots = n_tokens == 0 ? 0 : static_cast<int64_t>(out.size()) / n_tokens;
  for (int64_t t = 0; t < n_tokens; ++t) {
    const float* update = updates.data() + t * width;
    const double square = dot(update, update, width);
    for (int64_t slot = t * n_slots; slot < (t + 1) * n_slots; ++slot)
      out[static_cast<size_t>(slot)] =
          square == 0 ? 0 : static_cast<float>(dot(contributions.data() + slot * width, update, width) / square);
  }
}

DirectEffects::DirectEffects(Backend& backend, const Model& model, const Weights& weights)
    : lens_(backend, model, weights) {}

void DirectEffects::begin(const Batch& batch, int64_t n_slots) {
  batch_ = &batch;
  n_slots_ = n_slots;
  known_.clear();
  choosing_.clear();
  layers_.clear();
  divisors_.clear();
  std::vector<int32_t> tokens;
  for (int64_t row = 0; row < batch.n_tokens(); ++row) {
    const int32_t follower = batch.followers[static_cast<size_t>(row)];
    if (follower == Batch::chosen_token) choosing_.push_back(row);
    if (follower < 0) continue;
    known_.push_back(row);
    tokens.push_back(follower);
  }
  readers_.resize(tokens.size() * static_cast<size_t>(lens_.d_model()));
  lens_.readers(tokens, readers_);
}

void DirectEffects::add(int64_t layer, std::span<const float> contributions) {
  const int64_t d = lens_.d_model();
  OfLayer& own = layers_.emplace_back();
  own.layer = layer;
  own.dots.assign(static_cast<size_t>(batch_->n_tokens() * n_slots_), std::numeric_limits<double>::quiet_NaN());
  for (size_t i = 0; i < known_.size(); ++i)
    for (int64_t slot = known_[i] * n_slots_; slot < (known_[i] + 1) * n_slots_; ++slot)
      own.dots[static_cast<size_t>(slot)] =
          dot(contributions.data() + slot * d, readers_.data() + static_cast<int64_t>(i) * d, d);
  for (const int64_t row : choosing_) {
    const auto begin = contributions.begin() + row * n_slots_ * d;
    own.kept.insert(own.kept.end(), begin, begin + n_slots_ * d);
  }
}

void DirectEffects::finish(std::span<const int32_t> chosen) {
  const int64_t d = lens_.d_model();
  // Of the rows that choose: those whose token is known now.
  std::vector<int32_t> tokens;
  std::vector<size_t> places;  // among choosing_
  for (size_t i = 0; i < choosing_.size(); ++i) {
    const auto& rows = batch_->logit_rows;
    const auto at = std::lower_bound(rows.begin(), rows.end(), static_cast<int32_t>(choosing_[i]));
    if (at == rows.end() || *at != choosing_[i] || chosen.empty()) continue;
    const int32_t token = chosen[static_cast<size_t>(at - rows.begin())];
    if (token < 0) continue;  // no logit was finite
    places.push_back(i);
    tokens.push_back(token);
  }
  readers_.resize(tokens.size() * static_cast<size_t>(d));
  lens_.readers(tokens, readers_);
  for (OfLayer& own : layers_) {
    for (size_t j = 0; j < places.size(); ++j)
      for (int64_t k = 0; k < n_slots_; ++k)
        own.dots[static_cast<size_t>(choosing_[places[j]] * n_slots_ + k)] =
            dot(own.kept.data() + (static_cast<int64_t>(places[j]) * n_slots_ + k) * d,
                readers_.data() + static_cast<int64_t>(j) * d, d);
    own.effects.resize(own.dots.size());
    for (size_t slot = 0; slot < own.dots.size(); ++slot)
      own.effects[slot] = static_cast<float>(own.dots[slot] / divisors_[slot / static_cast<size_t>(n_slots_)]);
    own.kept = {};
  }
}

}  // namespace signalbox::engine
