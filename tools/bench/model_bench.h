// Speed of a whole model: prefill, decode, the routed block, and what recording costs.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/device_weights.h"
#include "engine/session.h"
#include "probes/trace.h"
#include "tools/bench/limits.h"
#include "tools/bench/recording_bench.h"
#include "tools/bench/watched_backend.h"

namespace signalbox::tools {

// Bytes of keys and values that one token reads, which sees n_keys of them.
double kv_bytes(const Model& model, DType dtype, int64_t n_keys);
// Floating-point operations of n_tokens tokens behind `first` others, with logits of n_logits of them.
double forward_flops(const Model& model, int64_t first, int64_t n_tokens, int64_t n_logits);

struct ModelBenchOptions {
  std::vector<int64_t> prefill;    // given tokens of each measurement
  std::vector<int64_t> batches;    // sequences that decode at once, ascending
  int64_t context = 0;             // given tokens before decoding
  int64_t n_new = 0;               // decoded tokens that are timed
  int64_t chunk = 0;               // given tokens a forward; 0: the whole prompt
  int repeats = 3;                 // the fastest of so many,
  double repeat_seconds = 20;      // but no further one where a measurement has taken so long
  bool quiet = false;              // no progress on standard error
  int64_t routed_tokens_most = 0;  // the routed block alone: up to so many tokens; 0: not at all
};

// Times whole runs (engine/runner.h), as the other commands make them; what recording costs by single steps.
class ModelBench {
 public:
  ModelBench(Session& session, const ModelBenchOptions& bench, const MachineLimits& limits, const Budget& budget);

  // Different experts that the tokens of a forward used in a layer, on average; null without routers.
  struct ExpertsRead {
    double counted = 0, even = 0;  // even: expected of tokens that route evenly
    double bytes_even = 0;         // what would be read of all weights and keys then; the others' `bytes` is as counted
  };
  struct Prefill {
    int64_t tokens = 0, chunk = 0;
    int repeats = 0;  // that were made
    double seconds = 0, flops = 0, bytes = 0;
    ExpertsRead experts;
  };
  struct Decode {
    int64_t batch = 0, context = 0;            // context: keys that the middle one of the timed tokens sees
    int repeats = 0;                           // that were made
    double seconds = 0, flops = 0, bytes = 0;  // of one step
    ExpertsRead experts;
  };
  Prefill prefill(int64_t n_tokens);
  Decode decode(int64_t batch);
  // Seconds that a measurement will take at least, going by those that were made.
  double prefill_seconds(int64_t n_tokens) const { return seconds_per_given_ * static_cast<double>(n_tokens); }
  double decode_seconds(int64_t batch) const;
  // What recording each set of points costs in a prefill, and in decoding at a batch: runs that take turns
  // (tools/bench/paired.h).
  PairedCosts recorded_prefill(int64_t n_tokens, const std::vector<std::string>& points,
                               const std::function<bool(int64_t, double)>& go_on);
  PairedCosts recorded_decode(int64_t batch, const std::vector<std::string>& points,
                              const std::function<bool(int64_t, double)>& go_on);
  // The whole routed block at 1, 8, 32, ... tokens, in layers that take turns.
  json::Value routed();
  // What each op of a prefill, or of a step of decoding, takes (profile.cpp): ops are waited for one by one.
  json::Value profile_prefill(int64_t n_tokens);
  json::Value profile_decode(int64_t batch);
  // What a gradient takes (gradient_bench.cpp): forwards over the same tokens, without and with those of all weights
  // that are not quantised (null where their sums do not fit); bytes of activations and of these sums.
  json::Value gradient(int64_t n_tokens);
  // What a trace of ids and weights takes in memory and on disk.
  json::Value trace_memory(int64_t n_tokens);

  // With the share of what the limits allow.
  json::Value to_json(const Prefill& prefill) const;
  json::Value to_json(const Decode& decode) const;

 private:
  // Calls measure() as often as the options, the time that it took and the budget allow; returns how often.
  int repeat(const std::function<void()>& measure) const;
  // The same, and counts the experts that run: on the CPU meanwhile, on a device in one more run.
  struct Counted {
    int repeats = 0;
    int64_t runs = 0;                        // in which experts were counted
    std::map<int64_t, ExpertTotal> experts;  // by the tokens of a forward, over all of these runs
  };
  Counted repeat_counted(const std::function<void()>& measure);
  void set_experts(json::Value& line, const ExpertsRead& experts) const;
  int64_t decode_chunk() const;
  std::vector<Job> make_jobs(int64_t n_sequences, int64_t n_prompt, int64_t n_new) const;
  std::unique_ptr<TraceWriter> make_trace(const std::string& points, const std::string& directory) const;

  Session& session_;
  const ModelBenchOptions bench_;
  const MachineLimits limits_;
  const Budget budget_;
  double seconds_per_given_ = 0;  // of a given token, as last measured
  WatchedBackend watch_;
  Forward forward_;
};

// A table of what ModelBench::profile_prefill or profile_decode found.
std::string profile_text(const json::Value& profile);

// A line about what ModelBench::gradient found.
std::string gradient_text(const json::Value& line);

// Resident memory of this process.
int64_t resident_bytes();

// Where the weights lie on the CPU; the line is empty where they are small.
json::Value load_json(const WeightMemory& memory);
std::string load_text(const WeightMemory& memory);

}  // namespace signalbox::tools
