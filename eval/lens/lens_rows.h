// The lens over a run: what each recorded point of the residual stream gives to the logits, token by token, kept on
// disk until it is written.
//
// A point is read by the final norm and the head (engine/lens.h):
//
//   resid_out   W_U (gamma * h / r(h)), the norm's divisor r made of h itself: the logits if the model ended there.
//               logprob: of the softmax over the vocabulary. In the last layer these are the model's own. With
//               translators (eval/lens/translators.h) h is what these make of it, in layers that have one.
//   parts c     W_U (gamma * c / r), r of the stream that leaves the last layer: shares, which add up to the logits.
//               embed, attn.out, mlp.out (dense layers), moe.routed = sum of expert.E (weight times output, as
//               applied), shared.out (after its gate); and edit, in layers where an edit writes to the stream itself
//               (resid_in, resid_mid, resid_out) or to moe.out: what the layer's other parts do not account for. No
//               logprob.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "base/row_spool.h"
#include "base/thread_pool.h"
#include "engine/lens.h"
#include "engine/session.h"
#include "eval/data/chosen_tokens.h"
#include "eval/lens/chosen_rows.h"
#include "eval/lens/lens_layout.h"
#include "eval/lens/token_reader.h"
#include "eval/lens/translators.h"
#include "probes/sink.h"

namespace signalbox::eval {

struct LensOptions {
  std::vector<int32_t> layers;  // absolute, ascending
  bool parts = false;
  int64_t top = 10;                                // tokens of each row, or
  std::vector<int32_t> tokens;                     // these
  std::shared_ptr<const Translators> translators;  // of a tuned lens; null: the logit lens
  int threads = 1;
};

// All readings of one token: for each entry n_read of them.
struct LensToken {
  int64_t record = 0, position = 0;
  std::span<const int64_t> experts;        // [entries] of an entry of an expert; -1: the token has none there
  std::span<const TokenReading> readings;  // [entries * n_read]
};

class LensRows final : public ProbeSink {
 public:
  // For these jobs, whose index is the record's, and which only run given tokens. `dir`: where the spool lies, in a
  // file without a name. All but `options` and `dir` outlive this. Throws UsageError as TokenReader does.
  LensRows(const Session& session, const std::vector<Job>& jobs, const ChosenTokens& chosen, LensOptions options,
           const std::filesystem::path& dir);

  const std::vector<LensEntry>& entries() const { return layout_.entries(); }
  int64_t n_read() const { return reader_.n_read(); }
  const LensOptions& options() const { return options_; }
  size_t token_bytes() const { return token_bytes_; }  // in the spool and in the memory of a step
  // Rows that lens.csv will have at most: a token may have fewer experts than there are slots.
  int64_t most_rows() const { return chosen_.n_tokens() * static_cast<int64_t>(entries().size()) * n_read(); }

  // Every chosen token in the order of records and positions. After the run.
  void read_all(const std::function<void(const LensToken&)>& visit);

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;

 private:
  using Kind = LensEntry::Kind;
  // The head over parts_, into an entry of the step's tokens.
  void read(int64_t entry);
  void take_experts(int32_t layer, const float* data, int64_t width);
  void take_stream(int32_t layer);
  // parts_ is a part of what the layer adds to the stream, or the stream before the first layer.
  void account(Kind kind);
  [[noreturn]] void fail(const ChosenRow& row, int64_t entry) const;

  const std::vector<Job>& jobs_;
  const ChosenTokens& chosen_;
  LensOptions options_;
  TokenReader reader_;
  LensLayout layout_;
  Lens lens_;
  ThreadPool pool_;
  size_t d_model_, n_vocab_;
  int32_t last_layer_;
  bool accounts_ = false;  // some layer has an entry `edit`
  size_t token_bytes_;
  RowSpool spool_;

  // Of the step at hand. Shares are not yet divided by r, which the last layer gives.
  std::vector<ChosenRow> rows_;
  std::vector<TokenReading> readings_;      // [rows_, entries, n_read]
  std::vector<int64_t> experts_;            // [rows_, entries]
  std::vector<float> parts_, logits_;       // [rows_, d_model]; [some of them, n_vocab]
  std::vector<double> divisors_;            // [rows_]
  std::vector<double> before_, accounted_;  // [rows_, d_model]: the stream before the layer, and what parts added
};

}  // namespace signalbox::eval
