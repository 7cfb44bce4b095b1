#include "engine/scheduler_core.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <mutex>
#include <utility>

#include "engine/biased_choice.h"
#include "engine/running_sequence.h"
#include "engine/shared_prefixes.h"
#include "engine/step_logits.h"

namespace signalbox::engine {

namespace {

// Logits of more rows than this many bytes are made in several forwards: a vocabulary of 200,000 takes 0.8 MB per row.
constexpr int64_t max_logit_bytes = 128 << 20;

// Jobs that may wait for a prefix, a reference or memory while later ones go ahead.
constexpr size_t look_ahead = 1024;

}  // namespace

class SchedulerCore::State {
 public:
  State(Forward& forward, SchedulerOptions options, int64_t n_blocks, SchedulerEvents events, ProbeSink* sink)
      : forward_(forward),
        options_(std::move(options)),
        events_(std::move(events)),
        sink_(sink),
        memory_(forward, n_blocks),
        logits_(forward.backend(), forward.model().n_vocab, options_.max_kept_bytes),
        biased_(forward.backend(), forward.model().n_vocab) {
    for (const Layer& layer : forward.model().layers)
      if (const Moe* moe = std::get_if<Moe>(&layer.ffn)) slots_a_token_ += moe->router.n_active;
  }

  ~State() {
    if (sink_) forward_.drop_rows();
  }

  bool recorded() const { return sink_ != nullptr; }

  // ---- what comes from outside

  void check_room(size_t n_jobs) const {
    const auto waiting = static_cast<int64_t>(waiting_.size()), more = static_cast<int64_t>(n_jobs);
    if (more > options_.max_waiting - waiting)
      throw QueueFull("queue", "expected at most " + std::to_string(options_.max_waiting) + " waiting jobs, found " +
                                   std::to_string(waiting) + " and " + std::to_string(more) + " more");
  }

  JobId submit(std::vector<Job> jobs, RunPlan plan, GroupWatch watch) {
    check_room(jobs.size());
    for (const Job& job : jobs) check_fits(job);
    const JobId first = next_id_;
    if (jobs.empty()) return first;
    JobGroup& group = groups_[first];
    group.jobs = std::move(jobs);
    group.plan = std::move(plan);
    group.watch = std::move(watch);
    group.prefixes = prefix_states(group.jobs, group.plan);
    group.kept.resize(group.jobs.size());
    for (size_t i = 0; i < group.jobs.size(); ++i) group.kept[i].n_followers = group.plan.jobs[i].n_followers;
    group.first_id = first;
    group.n_open = static_cast<int64_t>(group.jobs.size());
    next_id_ += group.n_open;
    for (const size_t i : group.plan.order) waiting_.push_back({&group, i});
    return first;
  }

  // Before a plan is made: what comes with one has been checked by its maker (Session::check).
  void check_lengths(const std::vector<Job>& jobs) const {
    for (const Job& job : jobs)
      check_length("record \"" + job.prompt->id + "\"", job.n_given(), job.max_new(), forward_.model().max_positions);
  }

  void cancel(JobId id) {
    std::lock_guard lock(cancel_mutex_);
    to_cancel_.push_back(id);
  }

  bool step() {
    cancel_some();
    clean_up();
    do {
      admit();
      clean_up();
    } while (running_.empty() && !waiting_.empty());
    if (running_.empty()) {
      flush();
      return false;
    }
    const bool moved = run_forward();
    clean_up();
    return moved;
  }

  void flush() {
    if (sink_) forward_.flush(*sink_);
  }

  SchedulerLoad load() const {
    SchedulerLoad load;
    for (const RunningSequence& run : running_) load.n_running += run.prefix == nullptr;
    load.n_waiting = static_cast<int64_t>(waiting_.size());
    load.n_blocks = memory_.pool().n_blocks();
    load.n_free = memory_.pool().n_free();
    load.n_reserved = load.n_blocks - memory_.n_unreserved();
    return load;
  }

 private:
  struct Waiting {
    JobGroup* group;
    size_t place;
  };

  void check_fits(const Job& job) const {
    const std::string where = "record \"" + job.prompt->id + "\"";
    const int64_t held = memory_.pool().n_blocks();
    if (KvPool::blocks_for(job.max_positions()) > held)
      throw Error(where, "expected at most " + std::to_string(held * KvPool::block_size) +
                             " positions, the room for keys and values, found " + std::to_string(job.max_positions()) +
                             " wanted: " + std::to_string(job.n_given()) + " given and up to " +
                             std::to_string(job.max_new()) + " generated tokens");
    if (job.plan && !job.plan->empty() && job.plan->max_slots() > forward_.max_slots())
      throw Error(where, "edits: expected at most " + std::to_string(forward_.max_slots()) +
                             " experts per token, found " + std::to_string(job.plan->max_slots()));
  }

  bool records(const RunningSequence& run) const {
    if (run.prefix) return sink_ && run.group.watch.shared_index >= 0;
    return sink_ && run.group.watch.of(run.place).recorded;
  }

  // Of the sink's rows.
  static int64_t sample_of(const RunningSequence& run) {
    if (!run.prefix || run.group.watch.shared_index < 0) return run.job.index;
    return run.group.watch.shared_index + (run.prefix - run.group.prefixes.data());
  }

  static std::shared_ptr<const BoundEdits> bind(const Job& job) {
    return job.plan && !job.plan->empty() ? job.plan->bind(sequence_info(job)) : nullptr;
  }

  // ---- the end of jobs

  // What a job had of others goes back; its own group is removed later, by clean_up().
  void leave(JobGroup& group, size_t place) {
    const PlannedJob& planned = group.plan.jobs[place];
    if (planned.prefix >= 0) memory_.release(&group.prefixes[static_cast<size_t>(planned.prefix)]);
    if (planned.reference >= 0 && static_cast<size_t>(planned.reference) != place) {
      KeptJob& reference = group.kept[static_cast<size_t>(planned.reference)];
      if (--reference.n_followers == 0) {
        logits_.release(reference.rows);
        reference.logprobs = {};
      }
    }
    --group.n_open;
  }

  void done(JobGroup& group, size_t place, Result result) {
    KeptJob& own = group.kept[place];
    own.done = true;
    if (own.n_followers > 0) {
      own.logprobs = result.logprobs;
      own.logits_hash = result.logits_hash;
    }
    leave(group, place);
    if (events_.on_done) events_.on_done(group.first_id + static_cast<JobId>(place), std::move(result));
  }

  // Without a result.
  void give_up_job(JobGroup& group, size_t place, const char* how) {
    group.kept[place].ended = how;
    logits_.release(group.kept[place].rows);
    leave(group, place);
  }

  void fail_job(JobGroup& group, size_t place, const Error& error, int64_t n_jobs = 1) {
    give_up_job(group, place, "failed");
    if (events_.on_failed)
      events_.on_failed(group.first_id + static_cast<JobId>(place), Failure{group.jobs[place].index, error, n_jobs});
  }

  // What a sequence holds goes back; it stays in the list, marked, until the step is over.
  void stop(RunningSequence& run) {
    logits_.forget(run);
    run.ended = true;
    run.cache.rewind(0);
    if (run.prefix)
      memory_.close(*run.prefix);
    else
      memory_.give_back(run.reserved);
  }

  // Users of a prefix that fails run its tokens themselves, and fail by themselves.
  void fail(RunningSequence& run, const Error& error, int64_t n_jobs = 1) {
    if (run.ended) return;
    stop(run);
    if (!run.prefix) fail_job(run.group, run.place, error, n_jobs);
  }

  void fail_together(const std::vector<RunningSequence*>& runs, const Error& error) {
    const auto n_jobs =
        std::count_if(runs.begin(), runs.end(), [](const RunningSequence* run) { return !run->ended && !run->prefix; });
    for (RunningSequence* run : runs) fail(*run, error, n_jobs);
  }

  void cancel_some() {
    std::vector<JobId> ids;
    {
      std::lock_guard lock(cancel_mutex_);
      ids.swap(to_cancel_);
    }
    for (const JobId id : ids) cancel_now(id);
  }

  void cancel_now(JobId id) {
    auto found = groups_.upper_bound(id);
    if (found == groups_.begin()) return;
    JobGroup& group = (--found)->second;
    const auto place = static_cast<size_t>(id - group.first_id);
    if (place >= group.jobs.size() || group.kept[place].done || group.kept[place].ended) return;
    const auto run = std::find_if(running_.begin(), running_.end(), [&](const RunningSequence& one) {
      return &one.group == &group && one.place == place && !one.prefix;
    });
    if (run != running_.end()) {
      stop(*run);
      running_.erase(run);
    } else {
      waiting_.remove_if([&](const Waiting& one) { return one.group == &group && one.place == place; });
    }
    give_up_job(group, place, "was cancelled");
    if (events_.on_cancelled) events_.on_cancelled(id);
  }

  // Removes sequences that ended, prefixes that nobody wants any more, and groups without jobs.
  void clean_up() {
    for (RunningSequence& run : running_)
      if (run.prefix && !run.ended && run.prefix->n_users == 0) stop(run);
    std::erase_if(running_, [](const RunningSequence& run) { return run.ended; });
    for (auto entry = groups_.begin(); entry != groups_.end();) {
      JobGroup& group = entry->second;
      if (group.n_open > 0) {
        ++entry;
        continue;
      }
      for (KeptJob& kept : group.kept) logits_.release(kept.rows);
      entry = groups_.erase(entry);
    }
  }

  // ---- admission

  void admit() {
    admit_some(look_ahead);
    while (running_.empty() && !waiting_.empty()) {
      if (admit_some(waiting_.size())) continue;
      // All wait for each other: prefixes hold the memory that others need.
      if (!memory_.give_up())
        throw Error("KV cache",
                    "expected room for the next job, found " + std::to_string(memory_.n_unreserved()) + " blocks");
    }
  }

  // Looks at the first n jobs that wait. True: one has left the queue, or a prefix started.
  bool admit_some(size_t n) {
    bool progress = false;
    scarce_ = false;
    for (auto job = waiting_.begin();
         job != waiting_.end() && n > 0 && static_cast<int64_t>(running_.size()) < options_.batch; --n) {
      const size_t n_running = running_.size();
      const bool left = try_admit(*job->group, job->place);
      progress = progress || left || running_.size() > n_running;
      job = left ? waiting_.erase(job) : std::next(job);
    }
    return progress;
  }

  // True: the job runs, or has ended.
  bool try_admit(JobGroup& group, size_t place) {
    const Job& job = group.jobs[place];
    const PlannedJob& planned = group.plan.jobs[place];
    if (planned.reference >= 0 && static_cast<size_t>(planned.reference) != place) {
      const auto r = static_cast<size_t>(planned.reference);
      if (group.kept[r].ended) {
        fail_job(group, place,
                 Error("record \"" + job.prompt->id + "\"", "reference: expected the results of record \"" +
                                                                group.jobs[r].prompt->id + "\", found that it " +
                                                                group.kept[r].ended));
        return true;
      }
      if (!group.kept[r].done) return false;
    }
    if (planned.copies || planned.n_rows == 0) {
      if (group.watch.on_started) group.watch.on_started(place);
      take_over(group, place);
      return true;
    }
    PrefixState* prefix = planned.prefix >= 0 ? &group.prefixes[static_cast<size_t>(planned.prefix)] : nullptr;
    prefix = memory_.open(
        prefix, !scarce_,
        [&](PrefixState& state, SequenceCache cache) { start_prefix(group, state, std::move(cache)); }, scarce_);
    if (prefix && prefix->stage != PrefixState::Stage::ready) return false;
    // Others may go ahead of one that waits for memory where they work off a prefix, which gives memory back.
    if (scarce_ && !prefix) return false;
    const int64_t shared = prefix ? planned.shared : 0, needed = job_blocks(job, shared);
    if (!memory_.reserve(needed)) {
      scarce_ = true;
      return false;
    }
    std::shared_ptr<const BoundEdits> edits;
    try {
      edits = bind(job);
    } catch (const Error& error) {
      memory_.give_back(needed);
      fail_job(group, place, error);
      return true;
    }
    RunningSequence& run = running_.emplace_back(group, place, nullptr, planned.n_rows,
                                                 prefix ? prefix->cache->fork(shared) : SequenceCache(memory_.pool()));
    run.edits = std::move(edits);
    run.reserved = needed;
    if (prefix) run.start_from(*prefix);
    if (prefix) run.result.prefill_seconds = std::exchange(prefix->seconds, 0);
    if (options_.tokenizer) run.stream = options_.tokenizer->stream(true);
    if (prefix && records(run)) tell_shared(group, place, *prefix, shared);
    if (group.watch.on_started) group.watch.on_started(place);
    return true;
  }

  // Rows that the job has of others, those of the first positions first.
  void tell_shared(JobGroup& group, size_t place, const PrefixState& prefix, int64_t end) {
    if (!group.watch.on_shared) return;
    flush();
    if (prefix.parent) tell_shared(group, place, *prefix.parent, std::min(prefix.start, end));
    if (const int64_t begin = prefix.parent ? prefix.start : 0; begin < end)
      group.watch.on_shared(place, group.watch.shared_index + (&prefix - group.prefixes.data()), begin, end);
  }

  void start_prefix(JobGroup& group, PrefixState& state, SequenceCache cache) {
    const SharedPrefix& planned = group.plan.prefixes[static_cast<size_t>(&state - group.prefixes.data())];
    std::shared_ptr<const BoundEdits> edits;
    try {
      if (planned.edited) edits = bind(group.jobs[planned.job]);
    } catch (const Error&) {
      memory_.close(state);  // its users will say why
      return;
    }
    RunningSequence& run = running_.emplace_back(group, planned.job, &state, planned.length, std::move(cache));
    run.edits = std::move(edits);
    if (run.edits && state.parent) {
      state.edits = state.parent->edits;
      state.edits.resize(static_cast<size_t>(state.length));
    }
  }

  // The results of a job that needs no forward.
  void take_over(JobGroup& group, size_t place) {
    const PlannedJob& planned = group.plan.jobs[place];
    Result result;
    result.index = group.jobs[place].index;
    result.finish_reason = "length";
    result.logits_hash = XXH3_64bits(nullptr, 0);
    if (planned.copies) {
      const KeptJob& reference = group.kept[static_cast<size_t>(planned.reference)];
      result.logprobs = reference.logprobs;
      result.logits_hash = reference.logits_hash;
      agree_with_itself(result);
    }
    // No edit acts: a job that copies has none that could, and the others have no token that matters.
    count_tokens(result, group.jobs[place], planned, 0, slots_a_token_);
    done(group, place, std::move(result));
  }

  static void agree_with_itself(Result& result) {
    result.divergence.assign(result.logprobs.size(), 0);
    result.same_top.assign(result.logprobs.size(), 1);
  }

  // ---- steps

  // False: all that run are held.
  bool run_forward() {
    std::vector<RunningSequence*> members;
    fill_batch(members);
    if (members.empty()) {
      settle();
      return false;
    }
    ask(members);
    const bool any_recorded =
        std::any_of(members.begin(), members.end(), [&](const auto* run) { return records(*run); });
    Outputs outputs;
    try {
      forward_.launch(batch_, any_recorded ? sink_ : nullptr);
      settle();  // the logits of the step before, while the device computes this one
      outputs = forward_.finish();
    } catch (const Error& error) {
      fail_together(members, error);
      return true;
    }
    for (const SequenceFailure& failure : outputs.failures)
      fail(*members[static_cast<size_t>(failure.sequence)], failure.error);
    logits_.take(outputs.logits, members);
    logits_.compare(outputs.logits, members);
    int64_t row = 0;
    for (size_t m = 0; m < members.size(); ++m) {
      RunningSequence* run = members[m];
      if (!run->ended && !outputs.edits.empty())
        run->take_edits(outputs.edits.subspan(static_cast<size_t>(batch_.members[m].first_row)));
      if (!run->ended) consume(*run, outputs, row);
      row += run->n_logits;
    }
    n_done_ += batch_.n_tokens();
    if (events_.on_progress) events_.on_progress(n_done_);
    for (RunningSequence& run : running_)
      if (!run.ended && run.complete(records(run))) finish(run);
    return true;
  }

  // The next tokens of every sequence, as far as the step's budgets go.
  void fill_batch(std::vector<RunningSequence*>& members) {
    batch_.clear();
    int64_t logit_budget = std::max<int64_t>(1, max_logit_bytes / (forward_.model().n_vocab * 4));
    // A recorded run makes the logits of every row.
    const bool all_logits = sink_ && sink_->wants(Point::logits, -1);
    const auto held = [](const RunningSequence& run) { return run.group.watch.held && *run.group.watch.held; };
    int64_t prefill_budget = all_logits ? std::min(options_.chunk, logit_budget) : options_.chunk;
    for (RunningSequence& run : running_) {
      run.n_rows = run.n_logits = 0;
      if (held(run)) continue;
      std::span<const int32_t> ids;
      std::span<const uint32_t> spans;
      const Prompt& prompt = *run.job.prompt;
      int32_t follower = Batch::no_token;
      if (run.prefilling()) {
        run.plan_prefill(prefill_budget, logit_budget);
        if (run.n_rows <= 0) continue;
        const auto first = static_cast<size_t>(run.n_run), count = static_cast<size_t>(run.n_rows);
        ids = std::span(prompt.tokens).subspan(first, count);
        if (!prompt.spans.empty()) spans = std::span(prompt.spans).subspan(first, count);
        prefill_budget -= run.n_rows;
        logit_budget -= run.n_logits;
        if (const size_t next = first + count; next < prompt.tokens.size()) follower = prompt.tokens[next];
      } else {
        ids = std::span(run.generated).last(1);
        run.n_rows = 1;
        run.n_logits = run.finished ? 0 : 1;
      }
      if (follower == Batch::no_token && run.job.generate() && run.n_logits > 0) follower = Batch::chosen_token;
      const int64_t sample = !sink_ || records(run) ? sample_of(run) : -1;
      batch_.append(run.cache, run.edits.get(), sample, ids, spans, run.job.n_given(), run.n_logits, follower);
      batch_.members.back().adapters = run.job.adapters.get();
      members.push_back(&run);
    }
  }

  // Says in the batch what becomes of each row of logits.
  void ask(const std::vector<RunningSequence*>& members) {
    bool any_choice = false, any_score = false;
    for (const RunningSequence* run : members) {
      const auto& given = run->job.prompt->tokens;
      const Generate* generate = run->job.generate();
      for (int64_t i = 0; i < run->n_logits; ++i) {
        SampleParams params;
        const auto target = static_cast<size_t>(run->n_run + run->n_rows - run->n_logits + i) + 1;
        if (generate && target >= given.size()) params.sampling = generate->sampling;
        params.sample = run->job.sample;
        params.record_hash = run->job.prompt->record_hash;
        params.position = static_cast<int32_t>(run->job.n_given() + static_cast<int64_t>(run->generated.size()));
        batch_.sampling.push_back(params);
        batch_.targets.push_back(!generate && target < given.size() ? given[target] : -1);
        (generate ? any_choice : any_score) = true;
      }
    }
    if (!any_choice) batch_.sampling.clear();
    if (!any_score) batch_.targets.clear();
  }

  // Without the logits of their last step, no sequence has a result.
  void settle() {
    try {
      logits_.settle();
    } catch (const Error& error) {
      std::vector<RunningSequence*> all;
      for (RunningSequence& run : running_) all.push_back(&run);
      fail_together(all, error);
    }
  }

  void consume(RunningSequence& run, const Outputs& outputs, int64_t row) {
    const int64_t scored = run.first_scored();
    const bool began = run.prefilling();
    run.n_run += run.n_rows;
    if (began && !run.prefilling()) run.prefilled = RunningSequence::Clock::now();
    for (int64_t i = 0; i < run.n_logits; ++i) {
      const auto at = static_cast<size_t>(row + i);
      if (run.job.generate()) {
        choose(run, run.n_run - run.n_logits + i, outputs, at);
        if (run.ended) return;
      } else if (scored + i < run.planned.n_scored) {
        if (!std::isfinite(outputs.log_probs[at]))
          return fail(run, Error("logits", "expected finite numbers, found none for the log p of token " +
                                               std::to_string(run.planned.first_logits + scored + i + 1) +
                                               " (record \"" + run.job.prompt->id + "\")"));
        run.result.logprobs.push_back(outputs.log_probs[at]);
      }
    }
  }

  // `token`: the one whose row of logits it is.
  void choose(RunningSequence& run, int64_t token, const Outputs& outputs, size_t at) {
    int32_t id = outputs.tokens[at];
    std::string fresh;
    try {
      const Generate& generate = *run.job.generate();
      if (token + 1 < run.job.n_given()) {  // only shown
        RunningSequence::check_choice(id, run.job);
        return;
      }
      if (const ChoiceRules* rules = run.group.watch.of(run.place).choice.get(); rules && id >= 0)
        id = ruled(run, *rules, id, outputs.logits.rows_from(static_cast<int64_t>(at), 1), at);
      fresh = run.choose(id, generate.stop ? *generate.stop : options_);
    } catch (const Error& error) {
      return fail(run, error);
    }
    if (events_.on_token) events_.on_token(run.group.first_id + static_cast<JobId>(run.place), run.job, id, fresh);
  }

  // Another token than the sampling's, where the rules say so.
  int32_t ruled(const RunningSequence& run, const ChoiceRules& rules, int32_t id, Tensor row, size_t at) {
    const auto forced = rules.forced.find(run.job.n_given() + static_cast<int64_t>(run.generated.size()));
    if (forced != rules.forced.end()) return forced->second;
    if (rules.bias.empty()) return id;
    return biased_.choose(row, rules.bias, batch_.sampling[at]);
  }

  void finish(RunningSequence& run) {
    if (run.prefix) {
      memory_.keep(*run.prefix, std::move(run.cache), run.prefill_seconds());
      run.ended = true;
      return;
    }
    settle();
    if (!run.group.watch.wishes.empty() && records(run)) flush();
    if (run.ended) return;
    Result result = run.take_result(slots_a_token_);
    if (run.planned.reference == static_cast<int64_t>(run.place)) agree_with_itself(result);
    stop(run);
    done(run.group, run.place, std::move(result));
  }

  Forward& forward_;
  const SchedulerOptions options_;
  const SchedulerEvents events_;
  ProbeSink* const sink_;
  SequenceMemory memory_;  // before all that hold blocks of its pool
  StepLogits logits_;
  BiasedChoice biased_;
  std::map<JobId, JobGroup> groups_;  // by the id of their first job
  std::list<Waiting> waiting_;
  std::list<RunningSequence> running_;
  Batch batch_;
  JobId next_id_ = 1;
  bool scarce_ = false;  // a job before those that are looked at waits for memory
  int64_t n_done_ = 0;
  int64_t slots_a_token_ = 0;  // of unedited routes, over all layers
  std::mutex cancel_mutex_;
  std::vector<JobId> to_cancel_;
};

SchedulerCore::SchedulerCore(Forward& forward, SchedulerOptions options, int64_t n_blocks, SchedulerEvents events,
                             ProbeSink* sink)
    : state_(std::make_unique<State>(forward, std::move(options), n_blocks, std::move(events), sink)) {}

SchedulerCore::~SchedulerCore() = default;

JobId SchedulerCore::submit(std::vector<Job> group, GroupWatch watch) {
  state_->check_room(group.size());
  state_->check_lengths(group);
  bool recorded = false;
  for (size_t i = 0; i < group.size(); ++i) recorded = recorded || watch.of(i).recorded;
  RunPlan plan = plan_watched(group, recorded && state_->recorded(), watch);
  return state_->submit(std::move(group), std::move(plan), std::move(watch));
}

JobId SchedulerCore::submit(std::vector<Job> group, RunPlan plan, GroupWatch watch) {
  return state_->submit(std::move(group), std::move(plan), std::move(watch));
}

void SchedulerCore::cancel(JobId id) { state_->cancel(id); }
bool SchedulerCore::step() { return state_->step(); }
void SchedulerCore::flush() { state_->flush(); }
SchedulerLoad SchedulerCore::load() const { return state_->load(); }

}  // namespace signalbox::engine
