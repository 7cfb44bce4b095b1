// Routing profiles of whole generations: how often each expert was used by one trajectory.
//
//   u_i(x) = (1 / |S(x)|) * sum over t in S(x) of [expert i is selected at t],   S(x) = generated tokens of trajectory
//   x
//
// A profile is a share per token, so trajectories of different lengths can be compared; lengths are kept beside it.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/prompt_hash.h"

namespace signalbox::eval {

class TraceSet;

// One generated sample of a derived record (eval/data/programs.h).
struct Trajectory {
  std::string base, regime;  // the base record's id, the record's condition
  std::string unit;          // what is resampled whole: the pair, else the base
  int64_t sample = 0;        // number among the trajectories of (base, regime)
  int64_t n_tokens = 0;      // generated, the end token included
  std::optional<double> difficulty;
  uint64_t wording = 0;         // hash of the record's prompt, messages or tokens; 0: not known
  std::vector<uint32_t> count;  // [layers, experts] generated tokens that selected the expert
  std::vector<float> weight;    // [layers, experts] mean applied weight over all generated tokens; 0 where not selected
  double share(size_t row) const { return static_cast<double>(count[row]) / static_cast<double>(n_tokens); }
};

struct RoutingProfiles {
  std::vector<int32_t> layers;
  int32_t n_experts = 0;
  std::vector<Trajectory> trajectories;  // in the order of the traces
  std::vector<std::string> empty;        // ids of samples without generated tokens: left out
  PromptList prompts;                    // of the records with a trajectory
  size_t n_rows() const { return layers.size() * static_cast<size_t>(n_experts); }
};

// Profiles of all samples. The base of a record is its key `base`, else its `pair`. Throws Error naming the line of
// records.jsonl: no condition, neither base nor pair, a `difficulty` that is no number or differs within a base; and
// where no sample has generated tokens.
RoutingProfiles read_profiles(const TraceSet& traces);

// DIR/profiles.safetensors: share and weight F32 [S, L, E], tokens and samples I64 [S], layers I32 [L]; metadata
// `bases` and `regimes` are JSON lists of S names.
void write_profiles(const RoutingProfiles& profiles, const std::filesystem::path& file);

// The same as a table without the rows of zero: base, regime, sample, layer, expert, tokens (that selected it), share,
// mean_weight.
void write_profiles_csv(const RoutingProfiles& profiles, const std::filesystem::path& file);

}  // namespace signalbox::eval
