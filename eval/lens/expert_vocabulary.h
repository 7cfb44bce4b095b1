// Which tokens an expert raises when it is chosen: the mean of its direct contributions to the logits.
//
// Over the tokens t that select expert e, with c = weight times output as applied and r the divisor of the final norm
// at t (engine/lens.h), the mean of what it gives to the logit of token v, centred over the vocabulary V:
//
//   mean_t [ W_U[v] (gamma * c_t / r_t) - mean_u W_U[u] (gamma * c_t / r_t) ]
//     = W_U[v] (gamma * m) - mean_u W_U[u] (gamma * m)      with m = mean_t c_t / r_t,
//
// for it is linear in c / r. So a run keeps m alone, d_model numbers an expert in double, and the head is multiplied
// once for each expert and not once for each token: exact, and as large as the experts and not as experts times
// vocabulary. r is known at the end of a step, so a step keeps its tokens' contributions until then.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "base/thread_pool.h"
#include "engine/lens.h"
#include "engine/session.h"
#include "eval/data/chosen_tokens.h"
#include "eval/lens/chosen_rows.h"
#include "eval/lens/token_reader.h"
#include "probes/sink.h"

namespace signalbox::eval {

// The sums of a run.
class ExpertMeans final : public ProbeSink {
 public:
  // `layers`: absolute, ascending, each with a router. All but `layers` outlive this.
  ExpertMeans(const Session& session, const std::vector<Job>& jobs, const ChosenTokens& chosen,
              std::vector<int32_t> layers);

  struct OfLayer {
    int32_t layer = 0;
    std::vector<int64_t> n;    // [n_experts] tokens that selected it
    std::vector<double> sums;  // [n_experts, d_model] of c / r over them
  };
  const std::vector<OfLayer>& layers() const { return layers_; }
  size_t token_bytes() const { return token_bytes_; }  // in the memory of a step

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;

 private:
  int64_t index_of(int32_t layer) const;  // in layers_; -1: not one of them
  const ChosenTokens& chosen_;
  Lens lens_;
  std::vector<OfLayer> layers_;
  size_t d_model_, n_slots_, token_bytes_;
  int32_t last_layer_;
  // Of the step at hand.
  std::vector<ChosenRow> rows_;
  std::vector<double> divisors_;                   // [rows_]
  std::vector<std::vector<float>> contributions_;  // of each layer [rows_, n_slots, d_model], by ascending expert
  std::vector<std::vector<int32_t>> experts_;      // of each layer [rows_, n_slots], ascending; -1: unused
  std::vector<float> stream_;
};

// What an expert gives to a token, centred, on average.
struct ExpertToken {
  int32_t layer = 0, expert = 0;
  int64_t n = 0;
  TokenReading token;  // logit: the mean; rank: among the vocabulary
};
// What a token gets of an expert; rank 1: of all experts this one raises it most.
struct TokenExpert {
  int32_t token = 0, rank = 0;
  int32_t layer = 0, expert = 0;
  double mean = 0;
  int64_t n = 0;
};

struct ExpertVocabulary {
  std::vector<ExpertToken> experts;  // by layer, expert, and then as the reader gives tokens
  std::vector<TokenExpert> tokens;   // by token (in the reader's order, or ascending), rank
};

struct ExpertVocabularyOptions {
  int64_t top = 10;             // tokens of each expert and experts of each token
  std::vector<int32_t> tokens;  // only these; empty: all
  int64_t min_count = 1;        // experts that fewer tokens selected are left out
  int threads = 1;
  std::function<void(int64_t done)> on_progress;  // of n_experts_to_read()
};

int64_t n_experts_to_read(const ExpertMeans& means, int64_t min_count);

// Throws UsageError as TokenReader does, Error where no expert is left.
ExpertVocabulary expert_vocabulary(const Session& session, const ExpertMeans& means,
                                   const ExpertVocabularyOptions& options);

}  // namespace signalbox::eval
