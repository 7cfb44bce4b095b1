// Runs many jobs by continuous batching: sequences of different lengths, prompts and edits share each forward.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/forward.h"
#include "engine/sampler.h"
#include "engine/text.h"

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
};

// What a job's edits depend on.
SequenceInfo sequence_info(const Job& job);

struct Result {
  int64_t index = 0;
  std::vector<int32_t> tokens;   // generated, with the end token that stopped it
  std::string text;              // without special tokens, the end token and the stop string
  std::string finish_reason;     // "eos", "stop" or "length"
  std::vector<double> logprobs;  // score: [i] = log p of given token i + 1, natural log
  uint64_t logits_hash = 0;      // XXH3-64 of the f32 logits, little-endian: score: all rows; else those chosen from
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
};

// What a run tells while it goes on. Any may be empty. Called from the thread that runs.
struct RunEvents {
  // A new token and the text that became final with it.
  std::function<void(const Job&, int32_t token, const std::string& text)> on_token;
  std::function<void(Result)> on_done;                   // in order of completion
  std::function<void(int64_t done_tokens)> on_progress;  // tokens run so far
};

// Runs the jobs. Jobs that share a Prompt share its keys and values up to the first position where an edit of either
// can act (not while a sink records: every sample's rows are then run). Results do not depend on batch or chunk.
// Returns false when interrupted. Throws Error as Forward::run does.
bool run_jobs(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
              ProbeSink* sink);

}  // namespace signalbox
