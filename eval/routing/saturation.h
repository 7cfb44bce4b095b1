// Router saturation: how much of the routes of a later checkpoint an earlier one has already, over the same tokens.
//
// Saturation of a layer = (1/N) sum over tokens of |A(t) and B(t)| / |B(t)|, A(t) and B(t) the sets of experts that the
// earlier and the later checkpoint select (Muennighoff et al. 2024, where both have k).
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/namespaces.h"
#include "eval/statistics/resampling.h"
#include "probes/trace.h"

namespace signalbox::eval {

struct SaturationOptions {
  uint64_t seed = 0;
  int64_t resamples = 1000;
  int threads = 0;  // 0 = all
};

// One layer over the tokens of which B uses an expert. Intervals: 95 % percentile bootstrap over records (samples of
// one id are resampled together); NaN where there is one alone.
struct LayerSaturation {
  int32_t layer = 0;
  int64_t tokens = 0;
  double saturation = 0, jaccard = 0;  // jaccard: mean over the tokens of |A and B| / |A or B|
  Interval saturation_ci, jaccard_ci;
  double chance = 0;  // the saturation where A's route were that of any token, drawn by itself
};

// One expert, over the sets of tokens that select it in A and in B; NaN where undefined.
struct ExpertSaturation {
  int32_t layer = 0, expert = 0;
  int64_t tokens_a = 0, tokens_b = 0, both = 0;
  double saturation = 0, jaccard = 0;  // both / tokens_b; both / (tokens_a + tokens_b - both)
  Interval saturation_ci, jaccard_ci;
};

struct Saturation {
  int64_t records = 0;
  std::vector<LayerSaturation> layers;    // that both recorded
  std::vector<ExpertSaturation> experts;  // every expert of them
};

// `earlier` and `later` are matched sample by sample by id, each as far as its tokens are the same. Throws Error where
// a trace holds no routes, where they differ in their number of experts, have no layer in common, or no token.
Saturation saturation(const TraceReader& earlier, const TraceReader& later, const SaturationOptions& options);

void write_saturation_csv(const std::filesystem::path& file, const std::vector<LayerSaturation>& rows);
void write_expert_saturation_csv(const std::filesystem::path& file, const std::vector<ExpertSaturation>& rows);

}  // namespace signalbox::eval
