#include "engine/run_plan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>

namespace signalbox::engine {

namespace {

std::string record_of(const Job& job) { return "record \"" + job.prompt->id + "\""; }

bool refers(const Job& job) { return job.score() && job.score()->reference; }

std::string shape_of(const Job& job) {
  if (!job.score()) return "a job without scores";
  return std::to_string(job.n_given()) + " tokens scored from " + std::to_string(job.score()->from);
}

class Planner {
 public:
  Planner(const std::vector<Job>& jobs, bool recorded) : jobs_(jobs), recorded_(recorded) {
    plan_.jobs.resize(jobs.size());
    first_edit_.assign(jobs.size(), unknown);
    for (size_t i = 0; i < jobs.size(); ++i) measure(i);
  }

  RunPlan plan() {
    find_references();
    std::vector<size_t> listed(jobs_.size());
    for (size_t i = 0; i < listed.size(); ++i) listed[i] = i;
    count_followers();
    if (!recorded_) listed = share();
    for (const size_t i : listed) place(i);
    return std::move(plan_);
  }

 private:
  static constexpr int64_t unknown = -1;

  int64_t n_given(size_t i) const { return jobs_[i].n_given(); }
  const Prompt& prefix(size_t i) const { return jobs_[i].prefix ? *jobs_[i].prefix : *jobs_[i].prompt; }

  void measure(size_t i) {
    const Job& job = jobs_[i];
    PlannedJob& planned = plan_.jobs[i];
    const int64_t n = job.n_given();
    if (n == 0) throw Error(record_of(job), "expected tokens, found none");
    const auto& common = prefix(i).tokens;
    if (common.size() > job.prompt->tokens.size() ||
        !std::equal(common.begin(), common.end(), job.prompt->tokens.begin()))
      throw Error(record_of(job),
                  "expected to begin with the tokens of its prefix \"" + prefix(i).id + "\", found others");
    planned.n_rows = planned.n_needed = n;
    if (!job.score()) return;
    const int64_t from = job.score()->from;
    if (from < 0 || from > n)
      throw Error(record_of(job), "score_from: expected 0 to " + std::to_string(n) + ", its number of tokens, found " +
                                      std::to_string(from));
    planned.n_scored = n - std::max<int64_t>(from, 1);
    planned.first_logits = std::max<int64_t>(from, 1) - 1;
    planned.n_logits = from == 0 ? n : planned.n_scored;
    // The last token's row predicts nothing that is asked for.
    if (from > 0) planned.n_needed = planned.n_logits > 0 ? n - 1 : 0;
    if (!recorded_) planned.n_rows = planned.n_needed;
  }

  // The first position at which an edit of the job can act.
  int64_t first_edit(size_t i) {
    if (first_edit_[i] == unknown) {
      const Job& job = jobs_[i];
      const bool edited = job.plan && !job.plan->empty();
      first_edit_[i] = edited ? job.plan->first_position(sequence_info(job)) : std::numeric_limits<int64_t>::max();
    }
    return first_edit_[i];
  }

  void find_references() {
    if (std::none_of(jobs_.begin(), jobs_.end(), refers)) return;
    std::map<int64_t, size_t> by_index;
    for (size_t i = 0; i < jobs_.size(); ++i)
      if (!by_index.emplace(jobs_[i].index, i).second)
        throw Error(record_of(jobs_[i]),
                    "index: expected one of its own, found " + std::to_string(jobs_[i].index) + " twice");
    for (size_t i = 0; i < jobs_.size(); ++i) {
      const Job& job = jobs_[i];
      if (!refers(job)) continue;
      const Score& score = *job.score();
      const auto found = by_index.find(*score.reference);
      if (found == by_index.end())
        throw Error(record_of(job),
                    "reference: expected the index of a job of this run, found " + std::to_string(*score.reference));
      const Job& other = jobs_[found->second];
      if (!other.score() || score.from != other.score()->from || n_given(i) != n_given(found->second))
        throw Error(record_of(job),
                    "reference: expected jobs with one number of tokens, scored from one token, found " +
                        shape_of(job) + " and, of " + record_of(other) + ", " + shape_of(other));
      plan_.jobs[i].reference = static_cast<int64_t>(found->second);
    }
    reject_circles();
  }

  void reject_circles() const {
    std::vector<size_t> seen(jobs_.size(), 0);  // the walk that came by, from 1
    for (size_t i = 0; i < jobs_.size(); ++i) {
      for (size_t at = i; seen[at] == 0;) {
        seen[at] = i + 1;
        const int64_t next = plan_.jobs[at].reference;
        if (next < 0 || static_cast<size_t>(next) == at) break;
        at = static_cast<size_t>(next);
        if (seen[at] == i + 1)
          throw Error(record_of(jobs_[at]), "reference: expected a job that does not refer back to this one, found " +
                                                record_of(jobs_[static_cast<size_t>(plan_.jobs[at].reference)]) +
                                                " in a circle with it");
      }
    }
  }

  void count_followers() {
    for (size_t i = 0; i < jobs_.size(); ++i) {
      PlannedJob& planned = plan_.jobs[i];
      if (planned.reference < 0 || static_cast<size_t>(planned.reference) == i) continue;
      const size_t r = static_cast<size_t>(planned.reference);
      planned.copies = !recorded_ && jobs_[i].adapters == jobs_[r].adapters &&
                       jobs_[i].prompt->tokens == jobs_[r].prompt->tokens && first_edit(i) >= planned.n_rows &&
                       first_edit(r) >= planned.n_rows;
      ++plan_.jobs[r].n_followers;
      if (!planned.copies) plan_.jobs[r].rows_wanted = true;
    }
  }

  // Positions that the job may take from others, whatever its edits.
  int64_t limit(size_t i) const {
    const PlannedJob& planned = plan_.jobs[i];
    if (planned.copies || planned.n_rows == 0) return 0;
    const int64_t own = jobs_[i].score() ? planned.first_logits : n_given(i) - 1;
    return std::min(own, static_cast<int64_t>(prefix(i).tokens.size()));
  }

  // Jobs by prefix and adapters, in the order in which the prefixes appear.
  std::vector<size_t> share() {
    std::vector<std::vector<size_t>> groups;
    std::map<std::pair<const Prompt*, const AdapterSum*>, size_t> group_of;
    for (size_t i = 0; i < jobs_.size(); ++i) {
      const auto [found, fresh] = group_of.emplace(std::pair(&prefix(i), jobs_[i].adapters.get()), groups.size());
      if (fresh) groups.emplace_back();
      groups[found->second].push_back(i);
    }
    std::vector<size_t> listed;
    for (const std::vector<size_t>& group : groups) {
      share_group(group);
      const std::vector<size_t> together = by_edited_prefix(group);
      listed.insert(listed.end(), together.begin(), together.end());
    }
    return listed;
  }

  // The users of an edited prefix next to each other, so that it need not stand for long.
  std::vector<size_t> by_edited_prefix(const std::vector<size_t>& group) const {
    std::map<int64_t, size_t> first_of;
    std::vector<std::pair<size_t, size_t>> keyed;
    for (const size_t i : group) {
      const int64_t shared = plan_.jobs[i].prefix;
      const bool edited = shared >= 0 && plan_.prefixes[static_cast<size_t>(shared)].edited;
      keyed.emplace_back(edited ? first_of.emplace(shared, i).first->second : i, i);
    }
    std::sort(keyed.begin(), keyed.end());
    std::vector<size_t> order;
    for (const auto& [first, i] : keyed) order.push_back(i);
    return order;
  }

  struct Member {
    bool is_prefix = false;
    size_t at = 0;      // job or prefix
    int64_t reach = 0;  // positions that it may take
  };

  void share_group(const std::vector<size_t>& group) {
    if (group.size() < 2) return;
    std::vector<Member> plain;
    for (const std::vector<size_t>& alike : edited_alike(group)) {
      std::vector<Member> members;
      for (const size_t i : alike) members.push_back({false, i, limit(i)});
      const int64_t before = first_edit(alike.front());
      // Under the same edits: worth a prefix of its own only beyond their beginning.
      if (before != std::numeric_limits<int64_t>::max() && second_reach(members) > before) {
        plain.push_back({true, plan_.prefixes.size(), before});
        add_prefix(members, true);
      } else {
        for (const size_t i : alike) plain.push_back({false, i, std::min(limit(i), first_edit(i))});
      }
    }
    if (second_reach(plain) > 0) add_prefix(plain, false);
  }

  static int64_t second_reach(const std::vector<Member>& members) {
    int64_t first = 0, second = 0;
    for (const Member& m : members) {
      second = std::max(second, std::min(first, m.reach));
      first = std::max(first, m.reach);
    }
    return second;
  }

  // As long as two of its users can follow.
  void add_prefix(const std::vector<Member>& users, bool edited) {
    SharedPrefix made;
    made.edited = edited;
    made.length = second_reach(users);
    const int64_t index = static_cast<int64_t>(plan_.prefixes.size());
    for (const Member& user : users) {
      const int64_t shared = std::min(user.reach, made.length);
      if (shared == 0) continue;
      const size_t job = user.is_prefix ? plan_.prefixes[user.at].job : user.at;
      if (made.n_users++ == 0) made.job = job;
      if (user.is_prefix) {
        plan_.prefixes[user.at].parent = index;
        plan_.prefixes[user.at].start = shared;
      } else {
        plan_.jobs[job].prefix = index;
        plan_.jobs[job].shared = shared;
      }
    }
    plan_.prefixes.push_back(made);
  }

  // Jobs of a group to whose shared tokens their edits do the same. Unedited jobs, and those whose edits begin later
  // than anything that they can share, are classes of their own.
  std::vector<std::vector<size_t>> edited_alike(const std::vector<size_t>& group) {
    using Spans = std::vector<std::tuple<std::string, int64_t, int64_t>>;
    using Key = std::tuple<const EditPlan*, std::string, int64_t, Spans>;  // plan, record, sample or -1, spans
    std::vector<std::vector<size_t>> classes;
    std::map<Key, size_t> class_of;
    for (const size_t i : group) {
      const Job& job = jobs_[i];
      if (limit(i) == 0) continue;
      if (first_edit(i) >= limit(i)) {
        classes.push_back({i});
        continue;
      }
      Spans spans;
      const int64_t end = static_cast<int64_t>(prefix(i).tokens.size());
      for (const SpanTokens& span : job.spans)
        if (span.begin < end) spans.emplace_back(span.name, span.begin, std::min(span.end, end));
      const int64_t sample = depends_on_sample(*job.plan) ? int64_t{job.sample} : -1;
      const auto [found, fresh] = class_of.emplace(Key{job.plan.get(), job.prompt->id, sample, spans}, classes.size());
      if (fresh) classes.emplace_back();
      classes[found->second].push_back(i);
    }
    return classes;
  }

  bool depends_on_sample(const EditPlan& plan) {
    const auto [found, fresh] = by_sample_.emplace(&plan, false);
    if (fresh) found->second = plan.depends_on_sample();
    return found->second;
  }

  void place(size_t i) {
    if (placed_.empty()) placed_.resize(jobs_.size());
    std::vector<size_t> chain;
    for (size_t at = i; !placed_[at];) {
      chain.push_back(at);
      placed_[at] = true;
      const int64_t reference = plan_.jobs[at].reference;
      if (reference < 0) break;
      at = static_cast<size_t>(reference);
    }
    plan_.order.insert(plan_.order.end(), chain.rbegin(), chain.rend());
  }

  const std::vector<Job>& jobs_;
  const bool recorded_;
  RunPlan plan_;
  std::vector<int64_t> first_edit_;
  std::map<const EditPlan*, bool> by_sample_;
  std::vector<bool> placed_;
};

}  // namespace

RunPlan plan_run(const std::vector<Job>& jobs, bool recorded) { return Planner(jobs, recorded).plan(); }

int64_t planned_tokens(const std::vector<Job>& jobs, bool recorded) {
  const RunPlan plan = plan_run(jobs, recorded);
  int64_t total = 0;
  for (const SharedPrefix& prefix : plan.prefixes) total += prefix.length - prefix.start;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const PlannedJob& job = plan.jobs[i];
    if (job.copies) continue;
    // Nothing needs the row of the last token but a recording.
    total += job.n_rows - job.shared + std::max<int64_t>(0, recorded ? jobs[i].max_new() : jobs[i].max_new() - 1);
  }
  return total;
}

}  // namespace signalbox::engine
