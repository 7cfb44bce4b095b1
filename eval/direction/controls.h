// Vectors that a direction has to beat: the same estimate under other labels, draws from the data's covariance, draws
// from all directions alike.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/direction/estimate.h"

namespace signalbox::eval {

enum class DirectionControl : uint8_t { permuted, data, isotropic };
inline constexpr std::array<std::pair<DirectionControl, std::string_view>, 3> control_kinds = {
    {{DirectionControl::permuted, "permuted"},
     {DirectionControl::data, "data"},
     {DirectionControl::isotropic, "isotropic"}}};

// permuted   the direction's own estimator on the same streams, labels as `relabelled` gives them; the same labels in
//            all layers
// data       sum_i g_i (h_i - mean of its condition) / sqrt(n - 2), g standard normal and the same in all layers: N(0,
// S)
//            with the covariance S of the streams within conditions
// isotropic  standard normal in all coordinates
// A function of (seed, kind, draw, layer), [d], of any length: `scaled` gives it the one that is wanted.
class DirectionControls {
 public:
  // `streams`: of the records that gave the direction, [n, layers, d]; they outlive this.
  DirectionControls(Estimator estimator, const StreamMeans& streams, std::vector<int> labels,
                    std::vector<int64_t> examples, uint64_t seed);
  std::vector<double> draw(DirectionControl kind, int64_t replicate, int64_t layer) const;

 private:
  Estimator estimator_;
  const StreamMeans& streams_;
  std::vector<int> labels_;
  std::vector<int64_t> examples_;
  std::vector<size_t> all_;
  uint64_t seed_;
};

// v with this length; as it is where it is 0.
std::vector<double> scaled(std::vector<double> v, double length);

}  // namespace signalbox::eval
