// Runs many jobs by continuous batching: sequences of different lengths, prompts and edits share each forward.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/forward.h"
#include "engine/text.h"
#include "kernels/sampling.h"

namespace signalbox {

// The given tokens of a record, shared by its samples.
struct Prompt {
  std::string id;
  std::vector<int32_t> tokens;
  std::vector<uint32_t> spans;  // [tokens] bit i = the token belongs to span i; empty = no spans
};

// One timeline to run: a sample of a record under one list of edits.
struct Job {
  int64_t index = 0;  // its place in the output and in the trace
  std::shared_ptr<const Prompt> prompt;
  std::shared_ptr<const EditPlan> plan;  // null: no edits; bound to the sequence when the job starts
  std::vector<SpanTokens> spans;         // token ranges that the plan's conditions may ask for
  uint64_t record_hash = 0;
  uint32_t sample = 0;
  int64_t max_new = 0;  // tokens to generate at most
  Sampling sampling;
  bool score = false;  // log p of the given tokens is wanted; max_new is 0
  // score: of given tokens from this index on (at least 1: the first token is not predicted). Logits before it are not
  // made. 0: of all tokens, and logits of all rows are made and hashed, the last one's too.
  int64_t score_from = 0;
  // Given tokens that this job begins with and has in common with other jobs: those with the same stem share its keys
  // and values. Null: `prompt` itself.
  std::shared_ptr<const Prompt> stem;
  // score: the `index` of another scoring job of this run, or of this one, with the same score_from and number of given
  // tokens, to whose logits this job's are compared. The indices of all jobs differ then.
  std::optional<int64_t> reference;
};

// What a job's edits depend on.
SequenceInfo sequence_info(const Job& job);

struct Result {
  int64_t index = 0;
  std::vector<int32_t> tokens;  // generated, with the end token that stopped it
  std::string text;             // without special tokens, the end token and the stop string
  std::string finish_reason;    // "eos", "stop" or "length"
  // score: [i] = log p of given token max(score_from, 1) + i, natural log
  std::vector<double> logprobs;
  // score with a reference, as long as logprobs: KL(reference || this) over the whole vocabulary in nats, and 1 where
  // both have the same most probable token
  std::vector<double> divergence;
  std::vector<uint8_t> same_top;
  // XXH3-64 of the f32 logits, little-endian: those chosen from; score: of all rows, or of those that predict the given
  // tokens from score_from > 0 on
  uint64_t logits_hash = 0;
  // Given tokens (those shared with others count for the first of them); the rest.
  double prefill_seconds = 0, decode_seconds = 0;
};

struct RunOptions {
  int64_t batch = 8;    // sequences at once
  int64_t chunk = 512;  // given tokens a forward
  std::vector<int32_t> stop_tokens;
  std::vector<std::string> stop_strings;
  bool ignore_eos = false;
  const Tokenizer* tokenizer = nullptr;  // null: no text, and no stop strings
  const std::atomic<bool>* interrupted = nullptr;
  // Blocks of keys and values at most (KvPool); fewer where the device has less room.
  int64_t max_kv_blocks = std::numeric_limits<int64_t>::max();
  // Logits that jobs refer to and that are kept in memory; more go to a temporary file.
  size_t max_kept_bytes = size_t{256} << 20;
};

// What a run tells while it goes on. Any may be empty. Called from the thread that runs.
struct RunEvents {
  // A new token and the text that became final with it.
  std::function<void(const Job&, int32_t token, const std::string& text)> on_token;
  std::function<void(Result)> on_done;                   // in order of completion
  std::function<void(int64_t done_tokens)> on_progress;  // tokens run so far
};

// Tokens that run_jobs will run at most, where sharing is taken into account and no end token comes early. `recorded`:
// with a sink. Where memory is too scarce for sharing it runs more.
int64_t planned_tokens(const std::vector<Job>& jobs, bool recorded = false);

// Runs the jobs. Jobs with the same stem share its keys and values up to the first position where an edit of theirs can
// act, and jobs under one plan also those that the edits made, where they are the same for all (not while a sink
// records: every row of every job is then run). Results do not depend on batch, chunk or sharing. Jobs whose edits act
// on nothing take over what their unedited reference found. Jobs run in an order of their own.
// Returns false when interrupted. Throws Error as Forward::run does, and for jobs that do not fit together.
bool run_jobs(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
              ProbeSink* sink);

}  // namespace signalbox
