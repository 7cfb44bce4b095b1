// A sequence that takes part in the steps of a scheduler: a job, or a prefix that several jobs start from.
#pragma once
#include <xxhash.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/forward.h"
#include "engine/jobs.h"
#include "engine/run_plan.h"
#include "engine/shared_prefixes.h"
#include "engine/text.h"
#include "engine/watched_jobs.h"

namespace signalbox::engine {

// What is kept of a job for those that refer to it.
struct KeptJob {
  std::vector<int64_t> rows;  // of the store of logits
  std::vector<double> logprobs;
  uint64_t logits_hash = 0;
  int64_t n_followers = 0;  // not yet done
  bool done = false;
  const char* ended = nullptr;  // why there are no results: "failed", "was cancelled"
};

// Jobs that were handed over together.
struct JobGroup {
  std::vector<Job> jobs;
  RunPlan plan;
  GroupWatch watch;
  std::vector<PrefixState> prefixes;  // [plan.prefixes]
  std::vector<KeptJob> kept;          // [jobs]
  int64_t first_id = 0;               // of the scheduler; others follow
  int64_t n_open = 0;                 // jobs that have not ended
};

// Adds what edits did to one token.
void add_edits(EditCounts& counts, const TokenEdits& token);
// Adds tokens and slots of this job's prefix and of what is behind it, `n_later` tokens of that generated ones.
void count_tokens(Result& result, const Job& job, const PlannedJob& planned, int64_t n_later, int64_t slots_a_token);

struct RunningSequence {
  using Clock = std::chrono::steady_clock;

  // `prefix`: this is that prefix, and nothing but its keys and values is wanted; null: it is the job.
  RunningSequence(JobGroup& group, size_t place, PrefixState* prefix, int64_t n_prefill, SequenceCache cache);

  JobGroup& group;
  const size_t place;  // of the job in the group
  PrefixState* const prefix;
  const Job& job;
  const PlannedJob& planned;
  std::shared_ptr<const BoundEdits> edits;
  SequenceCache cache;
  int64_t reserved = 0;   // blocks
  int64_t n_prefill = 0;  // given tokens to run
  int64_t n_run = 0;      // tokens whose forward is done
  std::vector<int32_t> generated;
  std::string text;
  std::unique_ptr<TokenStream> stream;  // null: no text
  Result result;
  bool finished = false;             // nothing more to choose; the last token may still have to be run
  bool ended = false;                // it failed in this step, and only its place is left
  int64_t n_rows = 0, n_logits = 0;  // of the current step
  Clock::time_point admitted = Clock::now(), prefilled = admitted;

  // What edits did to the tokens of this step, before it is consumed: counted where the results depend on the token.
  void take_edits(std::span<const TokenEdits> rows);
  // It begins with the positions of a prefix: what was done to these counts for it.
  void start_from(const PrefixState& state);
  bool prefilling() const { return n_run < n_prefill; }
  bool scores() const { return !prefix && job.score(); }
  double prefill_seconds() const { return std::chrono::duration<double>(prefilled - admitted).count(); }
  // The first row of logits of this step, counted from the first that scores a token.
  int64_t first_scored() const { return n_run + n_rows - n_logits - planned.first_logits; }

  // The given tokens of the next step: at most `rows`, of which at most `logits` have logits. Sets n_rows, n_logits.
  void plan_prefill(int64_t rows, int64_t logits);
  // A row of logits that belongs to it.
  void hash(const void* row, size_t bytes) { XXH3_64bits_update(hash_.get(), row, bytes); }
  // Throws Error for id < 0: logits were not finite.
  static void check_choice(int32_t id, const Job& job);
  // Takes a new token; returns the text that became final with it. Throws what check_choice does.
  std::string choose(int32_t id, const StopRule& stop);
  // Nothing is left to run. `recorded`: a trace has a row for every token, so that the last one is run too.
  bool complete(bool recorded) const;
  // `slots_a_token`: of an unedited route, over all layers.
  Result take_result(int64_t slots_a_token);

 private:
  void append_text(const std::string& fresh, const StopRule& stop);

  struct HashDeleter {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, HashDeleter> hash_;
};

}  // namespace signalbox::engine
