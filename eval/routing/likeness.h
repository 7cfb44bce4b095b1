// Routes of one sample under two interventions, compared token by token and layer by layer.
#pragma once
#include <cstdint>
#include <optional>
#include <span>

namespace signalbox {

// The routes of one sample as a trace has them.
struct Routes {
  int64_t n_tokens = 0, n_layers = 0, n_slots = 0;
  std::span<const int32_t> ids;    // [n_tokens, n_layers, n_slots]; -1 = an unused slot
  std::span<const float> weights;  // of the same shape, or empty
};

// All compare the positions that both have, min(n_tokens); the slots of the two may differ in number. Each value is a
// mean over the (token, layer) pairs in which at least one of the two uses an expert; nullopt where there is none. The
// order of slots does not count. Throws Error when the numbers of layers differ or an array has not its shape.

// |A and B| / |A or B| of the two sets of experts, 0 .. 1.
std::optional<double> route_jaccard(const Routes& mine, const Routes& baseline);
// sum min(w_a, w_b) / sum max(w_a, w_b) over experts. nullopt without weights. Pairs whose weights sum to 0 are left
// out.
std::optional<double> route_jaccard_weighted(const Routes& mine, const Routes& baseline);
// The share of pairs whose two sets differ, 0 .. 1.
std::optional<double> route_flips(const Routes& mine, const Routes& baseline);
// The share of the baseline's experts that are not in the other set: (k - |A and B|) / k, the instability a slot.
std::optional<double> route_instability(const Routes& mine, const Routes& baseline);

}  // namespace signalbox
