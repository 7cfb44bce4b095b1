// What each stage of a study runs, and what it takes back.
#include <algorithm>
#include <cmath>
#include <map>

#include "eval/data/record_jobs.h"
#include "eval/faithfulness/restated.h"
#include "eval/faithfulness/study.h"
#include "eval/score/answers.h"
#include "kernels/random.h"

namespace signalbox::eval {

namespace {

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

// Positions left behind the record's prompt, an explanation's tokens, and `tail` more.
int64_t FaithfulnessStudy::room(size_t record, size_t n_ids, size_t tail) const {
  if (max_positions_ <= 0) return INT64_MAX;
  return max_positions_ - static_cast<int64_t>(encoded_[record].prompt->tokens.size() + n_ids + tail);
}

int64_t FaithfulnessStudy::room(const FaithCase& one, size_t tail) const {
  return room(explanations_[one.explanation].record, one.ids.size(), tail);
}

// Random misrouting of a few tokens, drawn by the record and the sample: an edit for each.
std::shared_ptr<const EditPlan> FaithfulnessStudy::yardstick_plan(const FaithCase& one) const {
  const Explanation& of = explanations_[one.explanation];
  std::vector<int64_t> left;
  for (size_t i = 0; i < one.ids.size(); ++i) left.push_back(static_cast<int64_t>(i));
  DrawKey at;
  at.seed = options_.seed;
  at.record_hash = record_hash(records_[of.record].id + "\n" + std::to_string(of.sample));
  at.layer = -2;
  at.position = 3;  // apart from the draws of mistakes
  const Draws draws(at);
  const auto begin = static_cast<int64_t>(encoded_[of.record].prompt->tokens.size());
  const int64_t n = std::max<int64_t>(1, std::llround(yardstick_share * static_cast<double>(left.size())));
  std::vector<json::Value> edits;
  for (int64_t i = 0; i < n && !left.empty(); ++i) {
    const auto chosen =
        left.begin() + static_cast<int64_t>(draws.uniform(static_cast<uint32_t>(i)) * static_cast<double>(left.size()));
    const int64_t position = begin + *chosen;
    left.erase(chosen);
    json::Value tokens = json::Value::object();
    tokens.set("positions", std::to_string(position) + ":" + std::to_string(position + 1));
    edits.push_back(json::Value::object()
                        .set("op", "misroute")
                        .set("policy", "random")
                        .set("seed", options_.seed + 1)
                        .set("tokens", std::move(tokens)));
  }
  return make_plan(edits);
}

// Prompt, the case's tokens, and `tail`.
Job FaithfulnessStudy::job_for(const FaithCase& one, std::vector<int32_t> tail) const {
  const Explanation& of = explanations_[one.explanation];
  const EncodedRecord& encoded = encoded_[of.record];
  EncodedRecord given;
  given.prompt =
      std::make_shared<Prompt>(records_[of.record].id, joined(joined(encoded.prompt->tokens, one.ids), tail));
  given.spans = encoded.spans;
  const auto begin = static_cast<int64_t>(encoded.prompt->tokens.size());
  if (!one.ids.empty()) given.spans.push_back({"explanation", begin, begin + static_cast<int64_t>(one.ids.size())});
  const auto plan = one.kind == CaseKind::misroute    ? misroute_plans_[one.plan]
                    : one.kind == CaseKind::yardstick ? yardstick_plan(one)
                                                      : plan_;
  Job job = make_job(given, {}, plan, of.sample);
  job.prefix = encoded.prompt;
  return job;
}

std::vector<Job> FaithfulnessStudy::ask_jobs() const {
  std::vector<Job> jobs;
  for (size_t e = 0; e < explanations_.size(); ++e) {
    const Explanation& of = explanations_[e];
    FaithCase full;
    full.explanation = e;
    full.ids = of.ids();
    if (room(full, of.marker_ids.size() + static_cast<size_t>(options_.answer_tokens)) < 0) continue;
    Job job = job_for(full, of.marker_ids);
    job.index = static_cast<int64_t>(jobs.size());
    job.task = Generate{options_.answer_tokens, {}};
    jobs.push_back(std::move(job));
  }
  return jobs;
}

std::vector<Job> FaithfulnessStudy::continue_jobs() const {
  std::vector<Job> jobs;
  for (const FaithCase& one : cases_) {
    if (!one.continued) continue;
    const Explanation& of = explanations_[one.explanation];
    Job job = job_for(one, {});
    job.index = static_cast<int64_t>(jobs.size());
    job.task = Generate{std::clamp<int64_t>(room(one, tail_of(of)), 0, options_.max_tokens), {}};
    jobs.push_back(std::move(job));
  }
  return jobs;
}

void FaithfulnessStudy::set_continued(std::vector<Written> continued) {
  size_t next = 0;
  for (FaithCase& one : cases_) {
    if (!one.continued) continue;
    const Written& rest = continued.at(next++);
    if (rest.text.empty()) continue;
    const size_t end = trimmed_size(rest.text);
    one.ids = joined(std::move(one.ids), cut_ids(rest.tokens, rest.text, {0, end}).front());
  }
}

std::vector<Job> FaithfulnessStudy::answer_jobs() const {
  std::vector<Job> jobs;
  for (const FaithCase& one : cases_) {
    const Explanation& of = explanations_[one.explanation];
    if (one.kind == CaseKind::full || one.kind == CaseKind::yardstick || room(one, tail_of(of)) < 0) continue;
    Job job = job_for(one, of.marker_ids);
    job.index = static_cast<int64_t>(jobs.size());
    job.task = Generate{options_.answer_tokens, {}};
    jobs.push_back(std::move(job));
  }
  return jobs;
}

std::optional<bool> FaithfulnessStudy::is_correct(size_t record, const std::string& answer) const {
  if (golds_[record].empty()) return std::nullopt;
  return exact_match(answer, golds_[record]);
}

// Called with no answers where only the forced form is run: then the full explanation's are known.
void FaithfulnessStudy::set_answers(std::vector<Written> answers) {
  size_t next = 0;
  counts_.too_long = 0;
  for (FaithCase& one : cases_) {
    const Explanation& of = explanations_[one.explanation];
    one.too_long = room(one, tail_of(of)) < 0;  // the full explanation's answer was asked where there was room
    if (one.too_long) {
      ++counts_.too_long;
      continue;
    }
    if (one.kind == CaseKind::yardstick || (one.kind != CaseKind::full && !options_.generate)) continue;
    one.written = one.kind == CaseKind::full ? *of.asked : std::move(answers.at(next++));
    one.answered = true;
    one.answer = answer_line(one.written.text);
    one.correct = is_correct(of.record, one.answer);
  }
  for (FaithCase& one : cases_) {
    const FaithCase& whole = full(one.explanation);
    if (!one.answered) continue;
    one.same = normalize_answer(one.answer) == normalize_answer(whole.answer);
    if (!whole.too_long) tell_explained_again(one, whole);
  }
}

bool FaithfulnessStudy::is_scored(const FaithCase& one) const {
  return one.kind != CaseKind::yardstick && !one.too_long && !full(one.explanation).too_long;
}

std::vector<Job> FaithfulnessStudy::score_jobs() const {
  std::vector<Job> jobs;
  for (const FaithCase& one : cases_) {
    if (!is_scored(one)) continue;
    const Explanation& of = explanations_[one.explanation];
    const size_t n_targets = of.targets.tokens.size();
    // Targets of one case share all before them where that saves more than sharing the record's prompt.
    std::shared_ptr<const Prompt> common;
    const size_t n_prompt = encoded_[of.record].prompt->tokens.size(), n_own = one.ids.size() + of.marker_ids.size();
    if (n_targets > 1 && (n_targets - 1) * n_own > n_prompt) common = job_for(one, of.marker_ids).prompt;
    for (const std::vector<int32_t>& target : of.targets.tokens) {
      Job job = job_for(one, joined(of.marker_ids, target));
      if (common) job.prefix = common;
      job.index = static_cast<int64_t>(jobs.size());
      job.task = Score{job.n_given() - static_cast<int64_t>(target.size()), std::nullopt};
      jobs.push_back(std::move(job));
    }
  }
  return jobs;
}

void FaithfulnessStudy::set_scores(const std::vector<double>& logprobs) {
  auto next = logprobs.begin();
  for (FaithCase& one : cases_) {
    if (!is_scored(one)) continue;
    const auto n = static_cast<int64_t>(explanations_[one.explanation].targets.tokens.size());
    one.logprobs.assign(next, next + n);
    next += n;
  }
}

void FaithfulnessStudy::tell_explained_again(FaithCase& one, const FaithCase& whole) const {
  one.explained_again = one.written.text.find(options_.marker) != std::string::npos;
  std::vector<std::string> sentences = explanations_[one.explanation].sentences;
  const std::string own = text(one);
  for (const TextRange& range : split_sentences(own)) sentences.emplace_back(range.of(own));
  const bool cut = one.written.finish_reason == "length" && one.written.text.ends_with(one.answer);
  const int restated = restated_sentence(one.answer, cut, sentences, whole.answer);
  if (restated < 0) return;
  one.explained_again = true;
  one.restates = sentences[static_cast<size_t>(restated)];
}

std::vector<size_t> FaithfulnessStudy::route_cases(size_t begin, size_t end) const {
  std::vector<size_t> out;
  if (!options_.routes || begin >= end) return out;
  // Cases stand by explanation, the full one first.
  const size_t past = end < full_.size() ? full_[end] : cases_.size();
  for (size_t c = full_[begin]; c < past; ++c)
    if (!cases_[c].too_long && !full(cases_[c].explanation).too_long) out.push_back(c);
  return out;
}

FaithfulnessStudy::RouteJobs FaithfulnessStudy::route_jobs(size_t begin, size_t end) const {
  RouteJobs out;
  out.cases = route_cases(begin, end);
  for (const size_t c : out.cases) {
    const FaithCase& one = cases_[c];
    const Explanation& of = explanations_[one.explanation];
    std::vector<int32_t> answer = full(one.explanation).written.tokens;
    if (full(one.explanation).written.finish_reason == "eos") answer.pop_back();
    Job job = job_for(one, joined(of.marker_ids, answer));
    job.index = static_cast<int64_t>(out.jobs.size());
    const auto n_rows = static_cast<int64_t>(job.prompt->tokens.size());
    out.n_rows.push_back(n_rows);
    out.first_row.push_back(n_rows - static_cast<int64_t>(answer.size()) - 1);
    const auto begin = static_cast<int64_t>(encoded_[of.record].prompt->tokens.size());
    const bool misrouted = one.kind == CaseKind::misroute || one.kind == CaseKind::yardstick;
    out.misrouted.emplace_back(begin, misrouted ? begin + static_cast<int64_t>(one.ids.size()) : begin);
    out.jobs.push_back(std::move(job));
  }
  return out;
}

void FaithfulnessStudy::set_routes(const RouteJobs& jobs, const LastRoutes& routes,
                                   const MisrouteDistances& distances) {
  std::map<size_t, int64_t> full_at;  // explanation -> its full case among the jobs
  for (size_t i = 0; i < jobs.cases.size(); ++i)
    if (cases_[jobs.cases[i]].kind == CaseKind::full)
      full_at[cases_[jobs.cases[i]].explanation] = static_cast<int64_t>(i);
  for (size_t i = 0; i < jobs.cases.size(); ++i) {
    FaithCase& one = cases_[jobs.cases[i]];
    const int64_t reference = full_at.at(one.explanation), sample = static_cast<int64_t>(i);
    one.likeness.clear();
    one.distance.reset();
    if (one.kind == CaseKind::misroute || one.kind == CaseKind::yardstick) one.distance = distances.of(sample);
    for (size_t l = 0; l < routes.layers().size(); ++l) {
      const Routes mine = routes.routes(sample, l), whole = routes.routes(reference, l);
      one.likeness.push_back(
          {route_jaccard(mine, whole).value_or(NAN), route_jaccard_weighted(mine, whole).value_or(NAN)});
    }
  }
}

}  // namespace signalbox::eval
