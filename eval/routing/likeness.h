// Two routings of the same tokens, compared token by token and layer by layer: what scores, faithfulness and diff
// share.
//
// One convention for empty routes: where neither of the two uses an expert there is nothing to compare. Such a (token,
// layer) pair is left out of every mean, and a mean without any pair is undefined (nullopt).
#pragma once
#include <cstdint>
#include <optional>
#include <span>

#include "base/namespaces.h"

namespace signalbox::eval {

// One token's route at one layer: the expert of each slot, -1 = an unused slot, and their applied weights.
struct TokenRoute {
  std::span<const int32_t> ids;    // [n_slots]
  std::span<const float> weights;  // of the same shape, or empty
};

// What two routes of one token at one layer have in common. The order of slots does not count, and the two may differ
// in their numbers of slots.
struct RoutePair {
  int64_t mine = 0, baseline = 0;  // experts used
  int64_t common = 0;              // experts that both use
  double least = 0, most = 0;      // sums of min(w_a, w_b) and of max(w_a, w_b) over experts; 0 without weights

  bool empty() const { return mine == 0 && baseline == 0; }
  bool same_experts() const { return common == mine && common == baseline; }
  // NaN where undefined, as in means below.
  double jaccard() const;
  double jaccard_weighted() const;
  double instability() const;
};
RoutePair compare_routes(const TokenRoute& mine, const TokenRoute& baseline);

// The mean of values that are defined: NaN is left out.
class DefinedMean {
 public:
  void add(double value);
  int64_t n() const { return n_; }
  std::optional<double> mean() const;

 private:
  double sum_ = 0;
  int64_t n_ = 0;
};

// The routes of one sample.
struct Routes {
  int64_t n_tokens = 0, n_layers = 0, n_slots = 0;
  std::span<const int32_t> ids;    // [n_tokens, n_layers, n_slots]; -1 = an unused slot
  std::span<const float> weights;  // of the same shape, or empty

  TokenRoute at(int64_t token, int64_t layer) const;
};

// All compare the positions that both have, min(n_tokens), and are means over the (token, layer) pairs in which at
// least one of the two uses an expert; nullopt where there is none. Throw Error when the numbers of layers differ or an
// array has not its shape.

// |A and B| / |A or B| of the two sets of experts, 0 .. 1.
std::optional<double> route_jaccard(const Routes& mine, const Routes& baseline);
// sum min(w_a, w_b) / sum max(w_a, w_b) over experts. nullopt without weights. Pairs whose weights sum to 0 are left
// out.
std::optional<double> route_jaccard_weighted(const Routes& mine, const Routes& baseline);
// The share of pairs whose two sets differ, 0 .. 1.
std::optional<double> route_flips(const Routes& mine, const Routes& baseline);
// The share of the baseline's experts that are not in the other set: (k - |A and B|) / k, the instability per slot.
// Pairs in which the baseline uses no expert are left out.
std::optional<double> route_instability(const Routes& mine, const Routes& baseline);

}  // namespace signalbox::eval
