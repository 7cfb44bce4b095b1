// What the engine is asked to run, and what it answers.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/namespaces.h"
#include "engine/edit_counts.h"
#include "kernels/sampling.h"
#include "probes/edits.h"

namespace signalbox::engine {

// The given tokens of a record, shared by its samples.
struct Prompt {
  explicit Prompt(std::string id, std::vector<int32_t> tokens = {}, std::vector<uint32_t> spans = {});

  const std::string id;        // the record's
  const uint64_t record_hash;  // of the id, a part of every key of a draw
  std::vector<int32_t> tokens;
  std::vector<uint32_t> spans;  // [tokens] bit i = the token belongs to span i; empty = no spans
};

// When a text ends before max_tokens.
struct StopRule {
  std::vector<int32_t> stop_tokens;       // end tokens
  std::vector<std::string> stop_strings;  // the text is cut before them
  bool ignore_eos = false;                // goes on past end tokens
};

// New tokens behind the given ones. With max_tokens 0 the given tokens are run and nothing is chosen.
struct Generate {
  int64_t max_tokens = 0;
  Sampling sampling;
  std::shared_ptr<const StopRule> stop = nullptr;  // null: that of all jobs
};

// Log p of the given tokens.
struct Score {
  // Of given tokens from this index on (at least 1: the first token is not predicted). Logits before it are not made.
  // 0: of all tokens, and logits of all rows are made and hashed, the last one's too.
  int64_t from = 0;
  // The `index` of another scoring job that is handed over together with this one, or of this one itself, with the same
  // `from` and number of given tokens, to whose logits this job's are compared. The indices of all jobs differ then.
  std::optional<int64_t> reference;
};

class AdapterSum;

// One sequence to run: a sample of a record under one list of edits.
struct Job {
  int64_t index = 0;  // its place in the output and in the trace
  std::shared_ptr<const Prompt> prompt;
  std::shared_ptr<const EditPlan> plan;  // null: no edits; bound to the sequence when the job starts
  std::vector<SpanTokens> spans;         // token ranges that the plan's conditions may ask for
  uint32_t sample = 0;
  // Beside the weights, for this job alone (engine/low_rank.h); null: none. Jobs with the same share what they can.
  std::shared_ptr<const AdapterSum> adapters = nullptr;
  // Given tokens that this job begins with and has in common with other jobs: those with the same prefix share its keys
  // and values. Null: `prompt` itself.
  std::shared_ptr<const Prompt> prefix;
  std::variant<Generate, Score> task;

  const Generate* generate() const { return std::get_if<Generate>(&task); }
  const Score* score() const { return std::get_if<Score>(&task); }
  int64_t n_given() const { return static_cast<int64_t>(prompt->tokens.size()); }
  // Tokens that may be generated.
  int64_t max_new() const { return generate() ? generate()->max_tokens : 0; }
  // Positions that it may come to have.
  int64_t max_positions() const { return n_given() + max_new(); }
};

// What a job's edits depend on.
SequenceInfo sequence_info(const Job& job);

// Throws Error when there is no given token, or more positions are asked for than a model has (max_positions 0: it
// names no limit). The one place where lengths are refused; `where` is the record's place.
void check_length(const std::string& where, int64_t n_given, int64_t max_new, int64_t max_positions);

struct Result {
  int64_t index = 0;
  std::vector<int32_t> tokens;  // generated, with the end token that stopped it
  std::string text;             // without special tokens, the end token and the stop string
  std::string finish_reason;    // "eos", "stop" or "length"
  // Score: [i] = log p of given token max(from, 1) + i, natural log
  std::vector<double> logprobs;
  // Score with a reference, as long as logprobs: KL(reference || this) over the whole vocabulary in nats, and 1 where
  // both have the same most probable token
  std::vector<double> divergence;
  std::vector<uint8_t> same_top;
  // XXH3-64 of the f32 logits, little-endian: those chosen from; Score: of all rows, or of those that predict the given
  // tokens from `from` > 0 on
  uint64_t logits_hash = 0;
  // What the job's edits did to the tokens of its prefix (Job::prefix), and to those behind it. Counted are the tokens
  // whose forward the result depends on, whether or not a recording has more: not the last generated token, nor, of a
  // Score from > 0, the last given one. Sharing changes nothing: what was done to a shared prefix counts for each job.
  EditCounts prefix_edits, later_edits;
  EditCounts edits() const {
    EditCounts sum = prefix_edits;
    return sum += later_edits;
  }
  // Given tokens (those shared with others count for the first of them); the rest.
  double prefill_seconds = 0, decode_seconds = 0;
};

}  // namespace signalbox::engine
