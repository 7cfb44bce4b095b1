#include "engine/runner.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <list>
#include <map>

namespace signalbox {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Logits of more rows than this many bytes are made in several forwards: a vocabulary of 200,000 takes 0.8 MB a row.
constexpr int64_t max_logit_bytes = 128 << 20;

struct HashDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// A job that has been admitted.
struct Running {
  const Job* job;
  std::shared_ptr<const BoundEdits> edits;
  KvSlots kv;
  int64_t reserved = 0;  // blocks that this timeline may come to own
  int64_t n_run = 0;     // tokens whose forward is done
  std::vector<int32_t> generated;
  std::string text;
  std::unique_ptr<TokenStream> stream;
  std::unique_ptr<XXH3_state_t, HashDeleter> hash;
  Result result;
  bool finished = false;  // nothing more to choose; the last token may still have to be run
  Clock::time_point admitted = Clock::now(), prefilled;
  int64_t rows = 0, n_logits = 0;  // of the current batch

  Running(const Job& job, KvSlots kv) : job(&job), kv(std::move(kv)), hash(XXH3_createState()) {
    XXH3_64bits_reset(hash.get());
    n_run = this->kv.length();
    result.index = job.index;
  }
  int64_t n_given() const { return static_cast<int64_t>(job->prompt->tokens.size()); }
  bool prefilling() const { return n_run < n_given(); }
};

// Jobs on one prompt: `stem` is the shared beginning, kept until the last of them has forked from it.
struct Group {
  int64_t shared = 0;     // positions that all jobs of the group have in common
  int64_t waiting = 0;    // jobs not yet admitted
  bool measured = false;  // shared has been set
  bool started = false;
  std::unique_ptr<KvSlots> stem;
};

class Run {
 public:
  Run(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
      ProbeSink* sink)
      : forward_(forward), jobs_(jobs), options_(options), events_(events), sink_(sink) {
    std::vector<int64_t> needs;
    for (const Job& job : jobs_) {
      if (job.prompt->tokens.empty()) throw Error("record \"" + job.prompt->id + "\"", "expected tokens, found none");
      needs.push_back(blocks_needed(job));
      ++groups_[job.prompt.get()].waiting;
    }
    for (const Job& job : jobs_) {
      Group& group = groups_[job.prompt.get()];
      if (group.waiting < 2 || job.score || sink_) continue;
      int64_t free_until = static_cast<int64_t>(job.prompt->tokens.size()) - 1;
      if (const auto edits = bind(job)) free_until = std::min(free_until, edits->first_position());
      group.shared = group.measured ? std::min(group.shared, free_until) : free_until;
      group.measured = true;
    }
    // Room for the largest jobs that can run together, and their stems.
    std::sort(needs.rbegin(), needs.rend());
    int64_t n_blocks = 0;
    for (size_t i = 0; i < needs.size() && i < static_cast<size_t>(options_.batch); ++i) n_blocks += 2 * needs[i];
    n_blocks = std::min(n_blocks, affordable_blocks(needs.empty() ? 0 : needs.front()));
    // A stem stands beside the jobs that it serves.
    if (!needs.empty() && n_blocks < 2 * needs.front())
      for (auto& [prompt, group] : groups_) group.shared = 0;
    pool_ = std::make_unique<KvPool>(forward_.backend(), forward_.model(), std::max<int64_t>(n_blocks, 1));
    unreserved_ = pool_->n_blocks();
  }

  bool go() {
    while (true) {
      if (options_.interrupted && options_.interrupted->load(std::memory_order_relaxed)) {
        if (sink_) forward_.flush(*sink_);
        return false;
      }
      admit();
      if (running_.empty()) {
        if (sink_) forward_.flush(*sink_);
        return true;
      }
      step();
    }
  }

 private:
  static std::shared_ptr<const BoundEdits> bind(const Job& job) {
    return job.plan && !job.plan->empty() ? job.plan->bind(sequence_info(job)) : nullptr;
  }

  static int64_t blocks_needed(const Job& job) {
    // One more than the positions need: the block that a fork copies before it writes.
    return KvPool::blocks_for(static_cast<int64_t>(job.prompt->tokens.size()) + job.max_new) + 1;
  }

  // Blocks that the device has room for beside what a forward works in; Error when the longest job does not fit.
  int64_t affordable_blocks(int64_t longest) const {
    const size_t free = forward_.backend().free_bytes();
    if (free == SIZE_MAX) return INT64_MAX;
    const int64_t block = KvPool::block_bytes(forward_.model(), forward_.backend().kv_dtype());
    const int64_t blocks = static_cast<int64_t>(free / 10 * 8) / block;
    if (blocks < longest)
      throw Error(forward_.backend().name() + " memory",
                  "expected room for the keys and values of " + std::to_string(longest * KvPool::block_size) +
                      " positions, found room for " + std::to_string(blocks * KvPool::block_size));
    return blocks;
  }

  void admit() {
    while (next_ < jobs_.size() && static_cast<int64_t>(running_.size()) < options_.batch) {
      const Job& job = jobs_[next_];
      Group& group = groups_[job.prompt.get()];
      const int64_t needed = blocks_needed(job);
      if (needed > unreserved_) {
        if (running_.empty())
          throw Error("KV cache",
                      "expected room for " + std::to_string(needed) + " blocks, found " + std::to_string(unreserved_));
        return;
      }
      const bool shares = group.shared > 0 && (group.started || group.waiting > 1);
      if (shares && group.started && !group.stem) return;  // its first job is still making the stem
      KvSlots kv = shares && group.stem ? group.stem->fork(group.shared) : KvSlots(*pool_);
      running_.emplace_back(job, std::move(kv));
      running_.back().edits = bind(job);
      running_.back().reserved = needed;
      if (options_.tokenizer) running_.back().stream = options_.tokenizer->stream(true);
      unreserved_ -= needed;
      if (!group.started && shares) unreserved_ -= stem_blocks(group);
      group.started = true;
      if (--group.waiting == 0) drop_stem(group, shares);
      ++next_;
    }
  }

  static int64_t stem_blocks(const Group& group) { return KvPool::blocks_for(group.shared); }
  void drop_stem(Group& group, bool shares) {
    if (!shares) return;
    group.stem.reset();
    unreserved_ += stem_blocks(group);
  }

  void step() {
    batch_.clear();
    int64_t logit_budget = std::max<int64_t>(1, max_logit_bytes / (forward_.model().n_vocab * 4));
    // A recorded run makes the logits of every row.
    const bool all_logits = sink_ && sink_->wants(Point::logits, -1);
    int64_t prefill_budget = all_logits ? std::min(options_.chunk, logit_budget) : options_.chunk;
    std::vector<Running*> members;
    for (Running& run : running_) {
      const int64_t n_given = run.n_given();
      std::span<const int32_t> ids;
      std::span<const uint32_t> spans;
      run.n_logits = 0;
      if (run.prefilling()) {
        int64_t count = std::min(n_given - run.n_run, prefill_budget);
        if (run.job->score) count = std::min(count, logit_budget);
        // The stem must end exactly where the group's jobs part.
        const Group& group = groups_[run.job->prompt.get()];
        if (group.waiting > 0 && group.shared > run.n_run) count = std::min(count, group.shared - run.n_run);
        if (count <= 0) continue;
        ids = std::span(run.job->prompt->tokens).subspan(run.n_run, count);
        if (!run.job->prompt->spans.empty()) spans = std::span(run.job->prompt->spans).subspan(run.n_run, count);
        prefill_budget -= count;
        if (run.job->score) {
          run.n_logits = count;
        } else if (run.n_run + count == n_given && run.job->max_new > 0) {
          run.n_logits = 1;
        }
        logit_budget -= run.n_logits;
      } else {
        ids = std::span(run.generated).last(1);
        run.n_logits = run.finished ? 0 : 1;
      }
      run.rows = static_cast<int64_t>(ids.size());
      batch_.append(run.kv, run.edits.get(), run.job->index, ids, spans, n_given, run.n_logits);
      members.push_back(&run);
    }

    ask(members);
    forward_.launch(batch_, sink_);
    hash_logits();   // of the step before, while the device computes this one
    const Outputs outputs = forward_.finish();
    keep_logits(outputs.logits, members);
    int64_t row = 0;
    for (Running* run : members) {
      consume(*run, outputs, row);
      row += run->n_logits;
    }
    n_done_ += batch_.n_tokens();
    if (events_.on_progress) events_.on_progress(n_done_);
    for (auto run = running_.begin(); run != running_.end();) {
      if (complete(*run)) {
        hash_logits();
        finish(*run);
        unreserved_ += run->reserved;
        run = running_.erase(run);
      } else {
        ++run;
      }
    }
  }

  // Says in the batch what becomes of each row of logits.
  void ask(const std::vector<Running*>& members) {
    bool any_choice = false, any_score = false;
    for (const Running* run : members) {
      const auto& given = run->job->prompt->tokens;
      const Sampling& sampling = run->job->sampling;
      for (int64_t i = 0; i < run->n_logits; ++i) {
        SampleParams params;
        params.temperature = sampling.temperature;
        params.top_p = sampling.top_p;
        params.top_k = sampling.top_k;
        params.seed = sampling.seed;
        params.sample = run->job->sample;
        params.record_hash = run->job->record_hash;
        params.position = static_cast<int32_t>(run->n_given() + static_cast<int64_t>(run->generated.size()));
        batch_.sampling.push_back(params);
        const size_t target = static_cast<size_t>(run->n_run + run->rows - run->n_logits + i) + 1;
        batch_.targets.push_back(run->job->score && target < given.size() ? given[target] : -1);
        (run->job->score ? any_score : any_choice) = true;
      }
    }
    if (!any_choice) batch_.sampling.clear();
    if (!any_score) batch_.targets.clear();
  }

  // Copies the logits to the host beside the next step: only their hash is still wanted.
  void keep_logits(Tensor logits, const std::vector<Running*>& members) {
    kept_rows_.clear();
    for (Running* run : members)
      for (int64_t i = 0; i < run->n_logits; ++i) kept_rows_.push_back(run);
    if (kept_rows_.empty()) return;
    const size_t bytes = static_cast<size_t>(logits.rows * logits.cols) * sizeof(float);
    if (kept_bytes_ < bytes) {
      kept_bytes_ = std::max(bytes, 2 * kept_bytes_);
      kept_logits_ = forward_.backend().allocate_host(kept_bytes_);
    }
    kept_ticket_ = forward_.backend().download_later(kept_logits_.get(), logits.data, bytes);
  }

  void hash_logits() {
    if (kept_rows_.empty()) return;
    forward_.backend().wait(kept_ticket_);
    const size_t row_bytes = static_cast<size_t>(forward_.model().n_vocab) * sizeof(float);
    const auto* row = static_cast<const unsigned char*>(kept_logits_.get());
    for (Running* run : kept_rows_) {
      XXH3_64bits_update(run->hash.get(), row, row_bytes);
      row += row_bytes;
    }
    kept_rows_.clear();
  }

  void consume(Running& run, const Outputs& outputs, int64_t row) {
    const int64_t first = run.n_run;
    run.n_run += run.rows;
    Group& group = groups_[run.job->prompt.get()];
    if (group.waiting > 0 && group.shared > 0 && !group.stem && run.n_run == group.shared)
      group.stem = std::make_unique<KvSlots>(run.kv.fork(group.shared));
    if (!run.prefilling() && first < run.n_given()) run.prefilled = Clock::now();

    for (int64_t i = 0; i < run.n_logits; ++i) {
      if (!run.job->score) {
        choose(run, outputs.tokens[static_cast<size_t>(row + i)]);
      } else if (first + i + 1 < run.n_given()) {
        run.result.logprobs.push_back(outputs.log_probs[static_cast<size_t>(row + i)]);
      }
    }
  }

  void choose(Running& run, int32_t id) {
    if (id < 0)
      throw Error("logits", "expected finite numbers, found NaN or none that is finite (record \"" +
                                run.job->prompt->id + "\")");
    run.generated.push_back(id);
    std::string fresh;
    const bool ends = !options_.ignore_eos && std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), id) !=
                                                  options_.stop_tokens.end();
    if (ends) {
      run.result.finish_reason = "eos";
    } else if (run.stream) {
      fresh = run.stream->push(id);
      append_text(run, fresh);
    }
    if (run.result.finish_reason.empty() && static_cast<int64_t>(run.generated.size()) >= run.job->max_new)
      run.result.finish_reason = "length";
    run.finished = !run.result.finish_reason.empty();
    if (run.finished && run.stream && run.result.finish_reason != "stop") append_text(run, run.stream->finish());
    if (events_.on_token) events_.on_token(*run.job, id, fresh);
  }

  // Adds decoded text and looks for the first stop string; cuts the text there.
  void append_text(Running& run, const std::string& fresh) {
    if (fresh.empty()) return;
    size_t longest = 0;
    for (const std::string& stop : options_.stop_strings) longest = std::max(longest, stop.size());
    const size_t from = run.text.size() >= longest ? run.text.size() - longest : 0;
    run.text += fresh;
    size_t cut = std::string::npos;
    for (const std::string& stop : options_.stop_strings) cut = std::min(cut, run.text.find(stop, from));
    if (cut == std::string::npos) return;
    run.text.resize(cut);
    run.result.finish_reason = "stop";
  }

  bool complete(const Running& run) const {
    if (run.prefilling()) return false;
    if (run.job->max_new == 0) return true;
    if (!run.finished) return false;
    // A trace has a row for every token, so the last one is run too.
    return !sink_ || run.n_run == run.n_given() + static_cast<int64_t>(run.generated.size());
  }

  void finish(Running& run) {
    Result result = std::move(run.result);
    result.tokens = std::move(run.generated);
    result.text = std::move(run.text);
    if (result.finish_reason.empty()) result.finish_reason = "length";
    result.logits_hash = XXH3_64bits_digest(run.hash.get());
    result.prefill_seconds = std::chrono::duration<double>(run.prefilled - run.admitted).count();
    result.decode_seconds = seconds_since(run.prefilled);
    if (events_.on_done) events_.on_done(std::move(result));
  }

  Forward& forward_;
  const std::vector<Job>& jobs_;
  const RunOptions& options_;
  const RunEvents& events_;
  ProbeSink* sink_;
  std::unique_ptr<KvPool> pool_;  // before everything that holds blocks of it
  std::map<const Prompt*, Group> groups_;
  std::list<Running> running_;
  Batch batch_;
  std::shared_ptr<void> kept_logits_;   // of the last step, for its hash
  size_t kept_bytes_ = 0;
  uint64_t kept_ticket_ = 0;
  std::vector<Running*> kept_rows_;     // whose row it is
  size_t next_ = 0;
  int64_t unreserved_ = 0, n_done_ = 0;
};

}  // namespace

SequenceInfo sequence_info(const Job& job) {
  return {job.prompt->id, job.sample, static_cast<int64_t>(job.prompt->tokens.size()), job.spans};
}

bool run_jobs(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
              ProbeSink* sink) {
  return Run(forward, jobs, options, events, sink).go();
}

}  // namespace signalbox
