// What the experts do on records: how often they are selected, how much they add, with whom.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "base/thread_pool.h"
#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox::eval {

// One expert over all tokens. Sums are whole multiples of 2^-60, so that they do not depend on the order of tokens.
class ExpertSums {
 public:
  void add(double weight, double length, double largest);
  int64_t tokens() const { return tokens_; }
  // Means over the tokens that select it; NaN without one.
  double reap() const { return mean(weighted_); }                               // applied weight times |f(x)|
  double output_norm() const { return mean(lengths_); }                         // |f(x)|
  double mean_weight() const { return mean(weights_); }                         // applied weight
  double max_activation() const { return tokens_ > 0 ? largest_ : no_number; }  // largest |f(x)_i|

 private:
  double mean(__int128 sum) const;
  int64_t tokens_ = 0;
  __int128 weighted_ = 0, lengths_ = 0, weights_ = 0;
  double largest_ = 0;
};

struct LayerMeasures {
  int32_t layer = 0;
  int32_t n_experts = 0, n_active = 0;
  std::vector<ExpertSums> experts;  // [n_experts]
  std::vector<int64_t> both;        // [n_experts, n_experts] tokens that select a and b; a < b filled
  std::vector<float> inputs;        // [sampled tokens, d_model] what the experts read

  // Tokens that select both, of those that select either; 0 where nobody selects either.
  double overlap(int32_t a, int32_t b) const;
};

// A sink for a run of the records. Takes routes and experts' outputs of every token, and of the sampled tokens what the
// experts read. Memory: n_experts^2 counts a layer, the sampled inputs, and a batch's norms.
class ExpertMeasure final : public ProbeSink {
 public:
  // `sampled`: by sample (a job's index) the rows of it, ascending, whose inputs are kept; they are numbered in order
  // of sample and row.
  ExpertMeasure(const ModelShape& shape, const std::map<int64_t, std::vector<int64_t>>& sampled, int threads);

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;

  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_sampled() const { return n_sampled_; }
  const std::vector<LayerMeasures>& layers() const { return layers_; }

 private:
  // Of one layer, until the batch ends.
  struct Pending {
    int64_t n_slots = 0;
    std::vector<int32_t> ids;              // [rows, n_slots]
    std::vector<float> weights;            // [rows, n_slots]
    std::vector<double> lengths, largest;  // [rows, n_slots]
  };
  size_t place(int32_t layer) const;

  ThreadPool pool_;
  int64_t d_model_ = 0, n_tokens_ = 0, n_sampled_ = 0, n_rows_ = 0;
  std::map<std::pair<int64_t, int64_t>, int64_t> numbers_;  // (sample, row) -> place among the sampled tokens
  std::vector<int32_t> counted_;                            // [rows of the batch] samples that have it
  std::vector<std::pair<int64_t, int64_t>> wanted_;         // (batch row, place) of the batch's sampled tokens
  std::vector<LayerMeasures> layers_;
  std::vector<Pending> pending_;
};

// Experts that must not go: the largest |f(x)_i| of few experts is far above all others', and the model falls apart
// without them. Those above both the 99.5th percentile (linear between neighbours) of all experts' max_activation and a
// tenth of the largest, in the first three quarters of the layers with a router (rounded down).
// Source: the definition of "Unveiling Super Experts in Mixture-of-Experts LLMs", as REAP's code has it.
std::map<int32_t, std::vector<int32_t>> super_experts(const std::vector<LayerMeasures>& layers);

}  // namespace signalbox::eval
