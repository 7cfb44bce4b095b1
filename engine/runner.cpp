#include "engine/runner.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <list>
#include <utility>

#include "engine/logit_store.h"
#include "engine/run_plan.h"
#include "engine/trunks.h"

namespace signalbox {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Logits of more rows than this many bytes are made in several forwards: a vocabulary of 200,000 takes 0.8 MB a row.
constexpr int64_t max_logit_bytes = 128 << 20;

// Jobs that may wait for a trunk, a reference or memory while later ones go ahead.
constexpr size_t look_ahead = 1024;

struct HashDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// A job, or a trunk, that has been admitted.
struct Running {
  const Job* job;
  size_t place;        // of the job in the list
  int64_t trunk = -1;  // this is a trunk: nothing but its keys and values is wanted
  std::shared_ptr<const BoundEdits> edits;
  KvSlots kv;
  int64_t reserved = 0;   // blocks that this timeline may come to own
  int64_t n_prefill = 0;  // given tokens to run
  int64_t n_run = 0;      // tokens whose forward is done
  std::vector<int32_t> generated;
  std::string text;
  std::unique_ptr<TokenStream> stream;
  std::unique_ptr<XXH3_state_t, HashDeleter> hash;
  Result result;
  bool finished = false;  // nothing more to choose; the last token may still have to be run
  Clock::time_point admitted = Clock::now(), prefilled = admitted;
  int64_t rows = 0, n_logits = 0;  // of the current batch

  Running(const Job& job, size_t place, int64_t n_prefill, KvSlots kv)
      : job(&job), place(place), kv(std::move(kv)), n_prefill(n_prefill), hash(XXH3_createState()) {
    XXH3_64bits_reset(hash.get());
    n_run = this->kv.length();
    result.index = job.index;
  }
  int64_t n_given() const { return job->n_given(); }
  bool prefilling() const { return n_run < n_prefill; }
  double prefill_seconds() const { return std::chrono::duration<double>(prefilled - admitted).count(); }
};

// What is kept of a job for those that refer to it.
struct Kept {
  std::vector<int64_t> rows;  // of the store
  std::vector<double> logprobs;
  uint64_t logits_hash = 0;
  int64_t n_followers = 0;  // not yet done
  bool done = false;
};

class Run {
 public:
  Run(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
      ProbeSink* sink)
      : forward_(forward),
        jobs_(jobs),
        options_(options),
        events_(events),
        sink_(sink),
        plan_(plan_run(jobs, sink != nullptr)),
        trunks_(forward, jobs, plan_, options.batch, options.max_kv_blocks),
        kept_(jobs.size()),
        pending_(plan_.order.begin(), plan_.order.end()),
        store_(forward.model().n_vocab, options.max_kept_bytes),
        comparer_(forward.backend(), store_, forward.model().n_vocab) {
    for (size_t i = 0; i < jobs_.size(); ++i) kept_[i].n_followers = plan_.jobs[i].n_followers;
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

  // ---- admission

  void admit() {
    admit_some(look_ahead);
    while (running_.empty() && !pending_.empty()) {
      if (admit_some(pending_.size())) continue;
      // All wait for each other: trunks hold the memory that others need.
      if (!trunks_.give_up())
        throw Error("KV cache",
                    "expected room for the next job, found " + std::to_string(trunks_.n_unreserved()) + " blocks");
    }
  }

  // Looks at the first n jobs that wait. True: one has been admitted or done, or a trunk started.
  bool admit_some(size_t n) {
    bool progress = false;
    scarce_ = false;
    for (auto job = pending_.begin();
         job != pending_.end() && n > 0 && static_cast<int64_t>(running_.size()) < options_.batch; --n) {
      const size_t n_running = running_.size();
      const bool admitted = try_admit(*job);
      progress = progress || admitted || running_.size() > n_running;
      job = admitted ? pending_.erase(job) : std::next(job);
    }
    return progress;
  }

  bool try_admit(size_t i) {
    const Job& job = jobs_[i];
    const PlannedJob& planned = plan_.jobs[i];
    if (planned.reference >= 0 && static_cast<size_t>(planned.reference) != i &&
        !kept_[static_cast<size_t>(planned.reference)].done)
      return false;
    if (planned.copies || planned.n_rows == 0) {
      take_over(i);
      return true;
    }
    Trunks::State* trunk = trunks_.open(
        planned.trunk, !scarce_, [&](int64_t t, KvSlots kv) { start_trunk(t, std::move(kv)); }, scarce_);
    if (trunk && trunk->phase != Trunks::Phase::ready) return false;
    // Others may go ahead of one that waits for memory where they work off a trunk, which gives memory back.
    if (scarce_ && !trunk) return false;
    const int64_t shared = trunk ? planned.shared : 0, needed = trunks_.job_blocks(job, shared);
    if (!trunks_.reserve(needed)) {
      scarce_ = true;
      return false;
    }
    running_.emplace_back(job, i, planned.n_rows, trunk ? trunk->kv->fork(shared) : KvSlots(trunks_.pool()));
    Running& run = running_.back();
    run.edits = bind(job);
    run.reserved = needed;
    if (trunk) run.result.prefill_seconds = std::exchange(trunk->seconds, 0);
    if (options_.tokenizer) run.stream = options_.tokenizer->stream(true);
    return true;
  }

  void start_trunk(int64_t t, KvSlots kv) {
    const Trunk& trunk = plan_.trunks[static_cast<size_t>(t)];
    const Job& job = jobs_[trunk.job];
    running_.emplace_back(job, trunk.job, trunk.length, std::move(kv));
    running_.back().trunk = t;
    if (trunk.edited) running_.back().edits = bind(job);
  }

  // The results of a job that needs no forward.
  void take_over(size_t i) {
    const PlannedJob& planned = plan_.jobs[i];
    Result result;
    result.index = jobs_[i].index;
    result.finish_reason = "length";
    result.logits_hash = XXH3_64bits(nullptr, 0);
    if (planned.copies) {
      const Kept& reference = kept_[static_cast<size_t>(planned.reference)];
      result.logprobs = reference.logprobs;
      result.logits_hash = reference.logits_hash;
      agree_with_itself(result);
    }
    done(i, std::move(result));
  }

  static void agree_with_itself(Result& result) {
    result.divergence.assign(result.logprobs.size(), 0);
    result.same_top.assign(result.logprobs.size(), 1);
  }

  // ---- steps

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
        int64_t count = std::min(run.n_prefill - run.n_run, prefill_budget);
        const bool scores = run.trunk < 0 && run.job->score();
        const PlannedJob& planned = plan_.jobs[run.place];
        if (scores) {
          const int64_t before = std::max<int64_t>(0, planned.first_logits - run.n_run);
          count = std::min(count, before + logit_budget);
          // A recording has rows behind the last whose logits are wanted; a step's logits are those of its last rows.
          const int64_t end = planned.first_logits + planned.n_logits;
          if (run.n_run < end) count = std::min(count, end - run.n_run);
        }
        if (count <= 0) continue;
        ids = std::span(run.job->prompt->tokens).subspan(run.n_run, count);
        if (!run.job->prompt->spans.empty()) spans = std::span(run.job->prompt->spans).subspan(run.n_run, count);
        prefill_budget -= count;
        const int64_t end = run.n_run + count;
        if (scores) {
          if (end <= planned.first_logits + planned.n_logits)
            run.n_logits = std::max<int64_t>(0, end - std::max(run.n_run, planned.first_logits));
        } else if (run.trunk < 0 && end == n_given && run.job->max_new() > 0) {
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
    hash_logits();  // of the step before, while the device computes this one
    const Outputs outputs = forward_.finish();
    if (!outputs.failures.empty()) throw outputs.failures.front().error;
    keep_logits(outputs.logits, members);
    compare(outputs.logits, members);
    int64_t row = 0;
    for (Running* run : members) {
      consume(*run, outputs, row);
      row += run->n_logits;
    }
    n_done_ += batch_.n_tokens();
    if (events_.on_progress) events_.on_progress(n_done_);
    for (auto run = running_.begin(); run != running_.end();) {
      if (complete(*run)) {
        if (run->trunk >= 0) {
          trunks_.keep(run->trunk, std::move(run->kv), run->prefill_seconds());
        } else {
          hash_logits();
          run->kv.rewind(0);
          trunks_.give_back(run->reserved);
          finish(*run);
        }
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
      const Generate* generate = run->job->generate();
      for (int64_t i = 0; i < run->n_logits; ++i) {
        SampleParams params;
        if (generate) params.sampling = generate->sampling;
        params.sample = run->job->sample;
        params.record_hash = run->job->prompt->record_hash;
        params.position = static_cast<int32_t>(run->n_given() + static_cast<int64_t>(run->generated.size()));
        batch_.sampling.push_back(params);
        const size_t target = static_cast<size_t>(run->n_run + run->rows - run->n_logits + i) + 1;
        batch_.targets.push_back(!generate && target < given.size() ? given[target] : -1);
        (generate ? any_choice : any_score) = true;
      }
    }
    if (!any_choice) batch_.sampling.clear();
    if (!any_score) batch_.targets.clear();
  }

  // Copies the logits to the host beside the next step: their hash is still wanted, and what other jobs compare with.
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
      const PlannedJob& planned = plan_.jobs[run->place];
      auto& rows = kept_[run->place].rows;
      if (planned.rows_wanted && static_cast<int64_t>(rows.size()) < planned.n_scored)
        rows.push_back(store_.add(reinterpret_cast<const float*>(row)));
      row += row_bytes;
    }
    kept_rows_.clear();
  }

  // The row of logits at which the run's part of this step begins, counted from the first that scores a token.
  int64_t first_scored(const Running& run) const {
    return run.n_run + run.rows - run.n_logits - plan_.jobs[run.place].first_logits;
  }

  // Before consume().
  void compare(Tensor logits, const std::vector<Running*>& members) {
    std::vector<LogitComparer::Piece> pieces;
    int64_t row = 0;
    for (Running* run : members) {
      const PlannedJob& planned = plan_.jobs[run->place];
      const int64_t first = std::exchange(row, row + run->n_logits);
      if (run->n_logits == 0 || planned.reference < 0 || static_cast<size_t>(planned.reference) == run->place) continue;
      const auto& rows = kept_[static_cast<size_t>(planned.reference)].rows;
      const int64_t at = first_scored(*run), n = std::min(run->n_logits, planned.n_scored - at);
      if (n > 0)
        pieces.push_back({first, std::span(rows).subspan(static_cast<size_t>(at), static_cast<size_t>(n)),
                          &run->result.divergence, &run->result.same_top});
    }
    if (!pieces.empty()) comparer_.compare(logits, pieces);
  }

  void consume(Running& run, const Outputs& outputs, int64_t row) {
    const int64_t scored = first_scored(run), n_scored = plan_.jobs[run.place].n_scored;
    const bool began = run.prefilling();
    run.n_run += run.rows;
    if (began && !run.prefilling()) run.prefilled = Clock::now();
    for (int64_t i = 0; i < run.n_logits; ++i) {
      if (run.job->generate()) {
        choose(run, outputs.tokens[static_cast<size_t>(row + i)]);
      } else if (scored + i < n_scored) {
        run.result.logprobs.push_back(outputs.log_probs[static_cast<size_t>(row + i)]);
      }
    }
  }

  void choose(Running& run, int32_t id) {
    if (id < 0)
      throw Error("logits",
                  "expected finite numbers, found NaN or none that is finite (record \"" + run.job->prompt->id + "\")");
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
    if (run.result.finish_reason.empty() && static_cast<int64_t>(run.generated.size()) >= run.job->max_new())
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
    if (run.trunk >= 0 || run.job->max_new() == 0) return true;
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
    result.prefill_seconds += run.prefill_seconds();
    result.decode_seconds = seconds_since(run.prefilled);
    if (plan_.jobs[run.place].reference == static_cast<int64_t>(run.place)) agree_with_itself(result);
    done(run.place, std::move(result));
  }

  // A job has its results.
  void done(size_t i, Result result) {
    const PlannedJob& planned = plan_.jobs[i];
    Kept& own = kept_[i];
    own.done = true;
    if (own.n_followers > 0) {
      own.logprobs = result.logprobs;
      own.logits_hash = result.logits_hash;
    }
    trunks_.release(planned.trunk);
    if (planned.reference >= 0 && static_cast<size_t>(planned.reference) != i) {
      Kept& reference = kept_[static_cast<size_t>(planned.reference)];
      if (--reference.n_followers == 0) {
        for (const int64_t row : reference.rows) store_.release(row);
        reference.rows = {};
        reference.logprobs = {};
      }
    }
    if (events_.on_done) events_.on_done(std::move(result));
  }

  Forward& forward_;
  const std::vector<Job>& jobs_;
  const RunOptions& options_;
  const RunEvents& events_;
  ProbeSink* sink_;
  const RunPlan plan_;
  Trunks trunks_;              // before all that hold blocks of its pool
  std::vector<Kept> kept_;     // [job]
  std::list<size_t> pending_;  // jobs not yet admitted
  LogitStore store_;
  LogitComparer comparer_;
  std::list<Running> running_;
  Batch batch_;
  std::shared_ptr<void> kept_logits_;  // of the last step, for its hash
  size_t kept_bytes_ = 0;
  uint64_t kept_ticket_ = 0;
  std::vector<Running*> kept_rows_;  // whose row it is
  bool scarce_ = false;              // a job before those that are looked at waits for memory
  int64_t n_done_ = 0;
};

}  // namespace

bool run_jobs(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, const RunEvents& events,
              ProbeSink* sink) {
  return Run(forward, jobs, options, events, sink).go();
}

}  // namespace signalbox
