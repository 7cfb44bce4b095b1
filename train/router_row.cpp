#include "train/router_row.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "base/error.h"
#include "train/refit.h"

namespace signalbox::train {

namespace {

constexpr int bisections = 40;
constexpr int octaves = 10;  // of alpha, to either side

double spread(const std::vector<double>& values) {
  double sum = 0, square = 0;
  for (const double value : values) {
    sum += value;
    square += value * value;
  }
  const auto n = static_cast<double>(values.size());
  return std::sqrt(std::max(0.0, square / n - sum / n * (sum / n)));
}

double dot(const float* x, const std::vector<double>& row) {
  double sum = 0;
  for (size_t c = 0; c < row.size(); ++c) sum += static_cast<double>(x[c]) * row[c];
  return sum;
}

}  // namespace

RouterCalibration::RouterCalibration(Backend& backend, const Model& model, const MoeWeights& weights, int32_t layer,
                                     int32_t expert, const std::vector<float>& x, ThreadPool& pool)
    : backend_(backend),
      weights_(weights),
      router_(model.layers[static_cast<size_t>(layer)].moe()->router),
      layer_(layer),
      expert_(expert),
      x_(x),
      pool_(pool),
      n_(static_cast<int64_t>(x.size()) / model.d_model),
      d_(model.d_model),
      logits_(static_cast<size_t>(n_ * router_.n_experts)) {
  before_ = use_of(weights);
}

RouterUse RouterCalibration::use_of(const MoeWeights& weights) {
  std::vector<float> logits(logits_.size());
  backend_.matmul(Tensor(logits.data(), n_, router_.n_experts), Tensor(const_cast<float*>(x_.data()), n_, d_),
                  weights.router, weights.router_bias);
  if (&weights == &weights_) logits_ = logits;
  return use(logits);
}

RouterUse RouterCalibration::use(const std::vector<float>& logits) {
  std::vector<float> values = logits, of_slots(static_cast<size_t>(n_ * router_.n_active)),
                     margin(static_cast<size_t>(n_));
  std::vector<int32_t> ids(of_slots.size()), positions(margin.size()), sequences(margin.size());
  uint64_t fault = no_fault;
  Route route;
  route.n_slots = router_.n_active;
  route.ids = ids.data();
  route.weights = of_slots.data();
  route.margin = margin.data();
  route.faults = &fault;
  RouteBatch batch;
  batch.n_tokens = n_;
  batch.positions = positions.data();
  batch.sequences = sequences.data();
  batch.layer = layer_;
  backend_.route(route, Tensor(values.data(), n_, router_.n_experts), {}, {}, nullptr, router_,
                 weights_.selection_bias.data, batch);
  RouterUse out;
  out.tokens = n_;
  double sum = 0;
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] == expert_) {
      ++out.selected;
      sum += of_slots[i];
    }
  if (out.selected > 0) out.weight = sum / static_cast<double>(out.selected);
  return out;
}

RouterUse RouterCalibration::with(double alpha, double beta) {
  std::vector<float> logits = logits_;
  for (int64_t t = 0; t < n_; ++t)
    logits[static_cast<size_t>(t * router_.n_experts + expert_)] =
        static_cast<float>(alpha * varying_[static_cast<size_t>(t)] + beta * u_[static_cast<size_t>(t)]);
  return use(logits);
}

double RouterCalibration::edge(double alpha, int64_t wanted) {
  double lo = 0, hi = 0;
  for (double step = 1; step < 1e6 && with(alpha, hi).selected < wanted; step *= 2) hi += step;
  for (double step = 1; step < 1e6 && with(alpha, lo).selected >= wanted; step *= 2) lo -= step;
  for (int i = 0; i < bisections; ++i) {
    const double middle = (lo + hi) / 2;
    (with(alpha, middle).selected < wanted ? lo : hi) = middle;
  }
  return hi;
}

// In the middle of those that give the share, so that rounding does not turn the nearest token.
double RouterCalibration::shift_for(double alpha) {
  const double first = edge(alpha, before_.selected);
  return before_.selected < n_ ? (first + edge(alpha, before_.selected + 1)) / 2 : first + 1;
}

RouterCalibration::Row RouterCalibration::fitted(const std::vector<double>& row) {
  if (before_.selected == 0)
    throw Error("--router rescale", "expected calibration tokens that select expert " + std::to_string(expert_) +
                                        " of the host's layer " + std::to_string(layer_) + ", found none");
  Row out;
  std::vector<double> constant(static_cast<size_t>(d_));
  u_.assign(static_cast<size_t>(n_), 1);
  if (!router_.bias) {
    Refit refit(d_, 1, pool_);
    refit.add(x_, std::vector<float>(static_cast<size_t>(n_), 1));
    const std::vector<float> v = refit.solve(1e-6, std::vector<float>(static_cast<size_t>(d_)));
    constant.assign(v.begin(), v.end());
    double square = 0;
    for (int64_t t = 0; t < n_; ++t) {
      u_[static_cast<size_t>(t)] = dot(x_.data() + t * d_, constant);
      square += (u_[static_cast<size_t>(t)] - 1) * (u_[static_cast<size_t>(t)] - 1);
    }
    out.offset_error = std::sqrt(square / static_cast<double>(n_));
  }
  varying_.clear();
  std::vector<double> own;
  double mean = 0;
  for (int64_t t = 0; t < n_; ++t) {
    varying_.push_back(dot(x_.data() + t * d_, row));
    mean += varying_.back() / static_cast<double>(n_);
    own.push_back(logits_[static_cast<size_t>(t * router_.n_experts + expert_)]);
  }
  for (int64_t t = 0; t < n_; ++t) varying_[static_cast<size_t>(t)] -= mean * u_[static_cast<size_t>(t)];
  const double of_row = spread(varying_), start = of_row > 0 ? spread(own) / of_row : 1;

  struct Try {
    double octave, beta, miss;
  };
  const auto at = [&](double octave) {
    const double alpha = start * std::exp2(octave), beta = shift_for(alpha);
    return Try{octave, beta, with(alpha, beta).weight - before_.weight};
  };
  const auto near = [&](const Try& one) { return std::fabs(one.miss) <= 1e-3 * std::fabs(before_.weight); };
  // Outwards from where the spread is that of the row before: the first two neighbours between which the miss changes
  // its sign. The best so far where there are none.
  Try best = at(0), low = best, high = best;
  std::optional<std::pair<Try, Try>> bracket;
  for (int i = 1; i <= octaves && !near(best) && !bracket; ++i)
    for (Try* edge : {&low, &high}) {
      const Try next = at(edge == &low ? -i : i);
      if (!bracket && (next.miss < 0) != (edge->miss < 0)) bracket.emplace(*edge, next);
      *edge = next;
      if (std::fabs(next.miss) < std::fabs(best.miss)) best = next;
    }
  for (int i = 0; bracket && i < bisections && !near(best); ++i) {
    const Try middle = at((bracket->first.octave + bracket->second.octave) / 2);
    ((middle.miss < 0) == (bracket->first.miss < 0) ? bracket->first : bracket->second) = middle;
    if (std::fabs(middle.miss) < std::fabs(best.miss)) best = middle;
  }
  out.alpha = start * std::exp2(best.octave);
  out.beta = best.beta;
  out.reached = near(best) && with(out.alpha, out.beta).selected == before_.selected;
  out.row = row;
  const double shift = out.beta - out.alpha * mean;
  for (size_t c = 0; c < out.row.size(); ++c) out.row[c] = out.alpha * row[c] + shift * constant[c];
  if (router_.bias) out.bias = shift;
  return out;
}

}  // namespace signalbox::train
