#include "eval/direction/controls.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

// n standard normal numbers (Box and Muller).
std::vector<double> normals(size_t n, uint64_t seed, uint32_t stratum, int64_t replicate) {
  std::vector<uint32_t> bits(n + n % 2);
  ResamplingDraws(seed, Resampling::bootstrap, stratum).fill(replicate, bits);
  std::vector<double> out;
  for (size_t i = 0; i < bits.size(); i += 2) {
    const double radius = std::sqrt(-2 * std::log((bits[i] + 0.5) / 4294967296.0)),
                 angle = 2 * std::numbers::pi * (bits[i + 1] + 0.5) / 4294967296.0;
    out.push_back(radius * std::cos(angle));
    out.push_back(radius * std::sin(angle));
  }
  out.resize(n);
  return out;
}

}  // namespace

DirectionControls::DirectionControls(Estimator estimator, const StreamMeans& streams, std::vector<int> labels,
                                     std::vector<int64_t> examples, uint64_t seed)
    : estimator_(estimator),
      streams_(streams),
      labels_(std::move(labels)),
      examples_(std::move(examples)),
      all_(labels_.size()),
      seed_(seed) {
  std::iota(all_.begin(), all_.end(), size_t{0});
}

std::vector<double> DirectionControls::draw(DirectionControl kind, int64_t replicate, int64_t layer) const {
  const auto d = static_cast<size_t>(streams_.d);
  if (kind == DirectionControl::isotropic) return normals(d, seed_, 11, replicate * streams_.n_layers + layer);
  if (kind == DirectionControl::permuted)
    return estimate_direction(estimator_, streams_, layer, all_, relabelled(labels_, examples_, seed_, replicate),
                              examples_);
  const std::vector<double> g = normals(all_.size(), seed_, 12, replicate);
  std::array<std::vector<double>, 2> means = {std::vector<double>(d), std::vector<double>(d)};
  std::array<double, 2> sizes = {0, 0};
  for (const size_t i : all_) {
    const size_t side = labels_[i] > 0;
    for (size_t c = 0; c < d; ++c) means[side][c] += double{streams_.row(i, layer)[c]};
    ++sizes[side];
  }
  std::vector<double> out(d);
  const double root = std::sqrt(std::max(1.0, static_cast<double>(all_.size()) - 2));
  for (const size_t i : all_) {
    const size_t side = labels_[i] > 0;
    for (size_t c = 0; c < d; ++c)
      out[c] += g[i] / root * (double{streams_.row(i, layer)[c]} - means[side][c] / sizes[side]);
  }
  return out;
}

std::vector<double> scaled(std::vector<double> v, double length) {
  const double now = std::sqrt(dot(v, std::span<const double>(v)));
  if (now == 0) return v;
  for (double& x : v) x *= length / now;
  return v;
}

}  // namespace signalbox::eval
