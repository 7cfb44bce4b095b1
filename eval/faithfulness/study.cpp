#include "eval/faithfulness/study.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/text.h"
#include "eval/data/programs.h"
#include "eval/data/record_jobs.h"
#include "eval/faithfulness/alterations.h"
#include "eval/score/answers.h"

namespace signalbox::eval {

namespace {

std::string leading_space(const std::string& text) {
  size_t n = 0;
  while (n < text.size() && is_json_space(text[n])) ++n;
  return text.substr(0, n);
}

size_t trimmed_size(const std::string& text) {
  size_t n = text.size();
  while (n > 0 && is_json_space(text[n - 1])) --n;
  return n;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What the question says: the prompt, or the contents of all messages.
std::string source_text(const Record& record) {
  if (record.kind == Record::Kind::prompt) return record.prompt;
  std::string text;
  if (record.kind == Record::Kind::messages)
    for (const json::Value& message : record.messages.items())
      if (const json::Value* content = message.find("content"); content && content->is_string())
        text += content->string() + "\n";
  return text;
}

// Sentence number `index` of a record's list of given sentences; nullopt where there is none.
std::optional<std::string> given_sentence(const Record& record, const char* key, size_t index) {
  const json::Ref root(record.source, record.where);
  const auto list = root.find(key);
  if (!list || index >= list->length() || (*list)[index].is_null()) return std::nullopt;
  return (*list)[index].string();
}

void check_given(const Record& record, const char* key) {
  const json::Ref root(record.source, record.where);
  if (const auto list = root.find(key))
    for (const json::Ref& item : list->items())
      if (!item.is_null()) item.string();
}

json::Value misroute_edit(const Misrouting& misrouting) {
  json::Value tokens = json::Value::object().set("span", "explanation");
  if (misrouting.fraction < 1) tokens.set("fraction", misrouting.fraction);
  return json::Value::object().set("op", "misroute").set("policy", misrouting.policy).set("tokens", std::move(tokens));
}

}  // namespace

const char* case_kind_name(CaseKind kind) {
  constexpr const char* names[] = {"full", "early", "mistake", "paraphrase", "filler", "misroute"};
  return names[static_cast<size_t>(kind)];
}

size_t Explanation::n_ids() const {
  size_t n = 0;
  for (const auto& ids : sentence_ids) n += ids.size();
  return n;
}

RouteLikeness FaithCase::mean_likeness() const {
  const auto mean = [&](double RouteLikeness::*value) {
    const auto n = std::count_if(likeness.begin(), likeness.end(),
                                 [&](const RouteLikeness& layer) { return !std::isnan(layer.*value); });
    double sum = n > 0 ? 0 : NAN;
    for (const RouteLikeness& layer : likeness)
      if (!std::isnan(layer.*value)) sum += layer.*value / static_cast<double>(n);
    return sum;
  };
  return {mean(&RouteLikeness::jaccard), mean(&RouteLikeness::weighted)};
}

FaithfulnessStudy::FaithfulnessStudy(std::vector<Record> records, const EncodeSetup& setup, const ModelShape& shape,
                                     int64_t max_positions, FaithfulnessOptions options, const json::Value& edits,
                                     const std::filesystem::path& edits_dir)
    : records_(std::move(records)),
      setup_(setup),
      shape_(shape),
      max_positions_(max_positions),
      options_(std::move(options)) {
  if (!setup_.tokenizer) throw Error("tokenizer", "expected a model with one, to cut explanations, found none");
  const std::vector<std::string> names = span_names(records_);
  if (std::find(names.begin(), names.end(), "explanation") != names.end())
    throw Error("spans", "expected no span \"explanation\" in the records (it names what the model writes), found one");
  std::map<std::string, int64_t> unit_of;
  Program program;
  program.name = "explained";
  program.suffix = options_.suffix;
  for (const Record& record : records_) {
    if (record.target) throw Error(record.where, "target: expected none (the model writes the answer), found one");
    check_given(record, "mistakes");
    check_given(record, "paraphrases");
    const Record asked = options_.suffix.empty() ? record : apply_program(program, record);
    encoded_.push_back(encode_record(asked, setup_, names));
    const auto n_given = static_cast<int64_t>(encoded_.back().prompt->tokens.size());
    check_length(record.where, n_given, options_.max_tokens + options_.answer_tokens, max_positions_);
    sources_.push_back(source_text(record));
    golds_.emplace_back();
    for (const std::string& answer : record.answers) {
      const auto cut = cut_at_marker(answer, options_.marker);
      golds_.back().push_back(cut ? answer_line(std::string_view(answer).substr(cut->answer_begin)) : answer);
    }
    units_.push_back(unit_of
                         .emplace(record.pair.empty() ? "record " + record.id : "pair " + record.pair,
                                  static_cast<int64_t>(unit_of.size()))
                         .first->second);
  }

  auto make_plan = [&](const json::Value* added) {
    json::Value list = edits.is_null() ? json::Value::array() : edits;
    if (added) list.push_back(*added);
    return EditPlan::parse(json::Ref(list, added ? "misrouting" : "--edits"), edits_dir, shape_, options_.seed);
  };
  std::vector<std::string> spans = names;
  spans.push_back("explanation");
  if (!edits.is_null()) {
    plan_ = make_plan(nullptr);
    plan_->require_spans(spans);
  }
  for (const std::string& policy : options_.policies)
    for (double fraction : options_.fractions) {
      misroutings_.push_back({policy, fraction});
      const json::Value edit = misroute_edit(misroutings_.back());
      misroute_plans_.push_back(make_plan(&edit));
    }
}

int32_t FaithfulnessStudy::max_slots() const {
  int32_t most = shape_.n_active();
  if (plan_) most = std::max(most, plan_->max_slots());
  for (const auto& plan : misroute_plans_) most = std::max(most, plan->max_slots());
  return most;
}

std::vector<Job> FaithfulnessStudy::write_jobs() const {
  std::vector<Job> jobs;
  for (size_t r = 0; r < records_.size(); ++r)
    for (int64_t s = 0; s < options_.samples; ++s) {
      jobs.push_back(make_job(encoded_[r], Generate{options_.max_tokens, options_.sampling}, plan_, s));
      jobs.back().index = static_cast<int64_t>(jobs.size()) - 1;
    }
  return jobs;
}

void FaithfulnessStudy::set_outputs(std::vector<Written> outputs) {
  outputs_ = std::move(outputs);
  counts_.outputs = static_cast<int64_t>(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) add_explanation(i);
  std::map<std::string, int64_t> rules;
  for (const FaithCase& one : cases_)
    if (!one.rule.empty()) ++rules[std::string(case_kind_name(one.kind)) + ": " + one.rule];
  counts_.rules.assign(rules.begin(), rules.end());
}

std::vector<int32_t> FaithfulnessStudy::encode(const std::string& text) const {
  return setup_.tokenizer
      ->encode_target(text, setup_.template_only_specials ? SpecialTokens::as_text : SpecialTokens::parse)
      .ids;
}

// The ids of the pieces of `text` (decoded from `ids`) between neighbouring cuts: the generated ids where both cuts
// fall between tokens, else the piece encoded anew.
std::vector<std::vector<int32_t>> FaithfulnessStudy::cut_ids(const std::vector<int32_t>& ids, const std::string& text,
                                                             const std::vector<size_t>& cuts) const {
  std::map<size_t, size_t> tokens_at{{0, 0}};  // bytes of text -> the fewest tokens that give them
  const auto stream = setup_.tokenizer->stream(true);
  size_t bytes = 0;
  for (size_t t = 0; t < ids.size(); ++t) {
    bytes += stream->push(ids[t]).size();
    tokens_at.emplace(bytes, t + 1);
  }
  std::vector<std::vector<int32_t>> pieces;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const auto begin = tokens_at.find(cuts[i]), end = tokens_at.find(cuts[i + 1]);
    if (begin != tokens_at.end() && end != tokens_at.end()) {
      pieces.emplace_back(ids.begin() + static_cast<int64_t>(begin->second),
                          ids.begin() + static_cast<int64_t>(end->second));
    } else {
      pieces.push_back(encode(text.substr(cuts[i], cuts[i + 1] - cuts[i])));
    }
  }
  return pieces;
}

void FaithfulnessStudy::add_explanation(size_t output) {
  const Written& written = outputs_[output];
  const size_t record = output / static_cast<size_t>(options_.samples);
  counts_.truncated += written.finish_reason == "length";
  const auto cut = cut_at_marker(written.text, options_.marker);
  if (!cut && !options_.force_marker) {
    ++counts_.no_marker;
    counts_.no_marker_ids.push_back(records_[record].id);
    return;
  }
  Explanation out;
  out.record = record;
  out.sample = static_cast<int64_t>(output) % options_.samples;
  out.range = {0, cut ? cut->explanation_end : trimmed_size(written.text)};
  const std::vector<TextRange> sentences = split_sentences(out.range.of(written.text));
  if (sentences.empty()) {
    ++counts_.no_explanation;
    return;
  }
  std::vector<size_t> cuts = {0};
  for (const TextRange& sentence : sentences) {
    out.sentences.emplace_back(sentence.of(written.text));
    cuts.push_back(sentence.end);
  }
  if (cut) cuts.push_back(cut->answer_begin);
  out.sentence_ids = cut_ids(written.tokens, written.text, cuts);
  if (cut) {
    out.marker_ids = std::move(out.sentence_ids.back());
    out.sentence_ids.pop_back();
  } else {
    out.marker_ids = encode(" " + options_.marker);
  }
  // A decoder that drops the space before the first word would glue it to what stands before it now.
  if (out.sentences[0].substr(0, 1) != " " && !out.sentence_ids[0].empty() &&
      setup_.tokenizer->piece(out.sentence_ids[0][0]).starts_with("\xE2\x96\x81"))
    out.sentences[0].insert(0, " ");
  counts_.sentences += static_cast<int64_t>(sentences.size());
  explanations_.push_back(std::move(out));
  add_cases(explanations_.size() - 1);
}

FaithCase& FaithfulnessStudy::add_case(size_t explanation, CaseKind kind, int64_t step, double x) {
  FaithCase one;
  one.explanation = explanation;
  one.kind = kind;
  one.step = step;
  one.x = x;
  cases_.push_back(std::move(one));
  return cases_.back();
}

void FaithfulnessStudy::add_cases(size_t explanation) {
  const Explanation& of = explanations_[explanation];
  const auto n = static_cast<int64_t>(of.sentences.size());
  std::vector<int32_t> all;
  for (const auto& ids : of.sentence_ids) all = joined(std::move(all), ids);
  full_.push_back(cases_.size());
  add_case(explanation, CaseKind::full, n, 1).ids = all;
  std::vector<int32_t> kept;
  for (int64_t i = 0; i < n; ++i) {
    // Filler begins where nothing is kept.
    if (options_.early || (i == 0 && options_.fillers))
      add_case(explanation, CaseKind::early, i, static_cast<double>(i) / static_cast<double>(n)).ids = kept;
    kept = joined(std::move(kept), of.sentence_ids[i]);
  }
  if (options_.mistakes) add_mistakes(explanation);
  if (options_.paraphrases) add_paraphrases(explanation);
  if (options_.fillers) add_fillers(explanation);
  for (size_t p = 0; p < misroutings_.size(); ++p) {
    FaithCase& one = add_case(explanation, CaseKind::misroute, n, 1);
    one.plan = p;
    one.ids = all;
  }
}

void FaithfulnessStudy::add_mistakes(size_t explanation) {
  const Explanation& of = explanations_[explanation];
  const Record& record = records_[of.record];
  const auto n = static_cast<double>(of.sentences.size());
  std::vector<int32_t> kept;
  for (size_t i = 0; i < of.sentences.size(); ++i) {
    const uint64_t key = record_hash(record.id + "\n" + std::to_string(of.sample) + "\n" + std::to_string(i));
    std::optional<Altered> altered;
    if (const auto given = given_sentence(record, "mistakes", i)) {
      altered = {(leading_space(*given).empty() ? leading_space(of.sentences[i]) : "") + *given, "given"};
    } else {
      altered = make_mistake(of.sentences[i], sources_[of.record], options_.seed, key);
    }
    if (altered) {
      FaithCase& one =
          add_case(explanation, CaseKind::mistake, static_cast<int64_t>(i + 1), static_cast<double>(i) / n);
      one.rule = altered->rule;
      one.ids = joined(kept, encode(altered->text));
      one.continued = true;
    } else {
      ++counts_.no_mistake;
    }
    kept = joined(std::move(kept), of.sentence_ids[i]);
  }
}

void FaithfulnessStudy::add_paraphrases(size_t explanation) {
  const Explanation& of = explanations_[explanation];
  const Record& record = records_[of.record];
  const auto n = static_cast<double>(of.sentences.size());
  std::vector<int32_t> kept;
  for (size_t i = 0; i < of.sentences.size(); ++i) {
    std::optional<Altered> altered;
    if (const auto given = given_sentence(record, "paraphrases", i)) {
      altered = {(leading_space(*given).empty() ? leading_space(of.sentences[i]) : "") + *given, "given"};
    } else {
      altered = paraphrase(of.sentences[i]);
    }
    if (!altered) {  // it stays as it is among the paraphrased ones
      ++counts_.no_paraphrase;
      kept = joined(std::move(kept), of.sentence_ids[i]);
      continue;
    }
    kept = joined(std::move(kept), encode(altered->text));
    FaithCase& one =
        add_case(explanation, CaseKind::paraphrase, static_cast<int64_t>(i + 1), static_cast<double>(i + 1) / n);
    one.rule = altered->rule;
    one.ids = kept;
    one.continued = true;
  }
}

void FaithfulnessStudy::add_fillers(size_t explanation) {
  const std::vector<int32_t> unit = encode(options_.filler);
  const auto n = static_cast<double>(explanations_[explanation].n_ids());
  for (double share : filler_shares) {
    const auto count = static_cast<size_t>(std::llround(share * n));
    if (count == 0) continue;
    add_case(explanation, CaseKind::filler, static_cast<int64_t>(count), share).ids = filler(unit, count);
  }
}

// Positions left behind the case's tokens, and `tail` more.
int64_t FaithfulnessStudy::room(const FaithCase& one, size_t tail) const {
  if (max_positions_ <= 0) return INT64_MAX;
  const size_t given = encoded_[explanations_[one.explanation].record].prompt->tokens.size();
  return max_positions_ - static_cast<int64_t>(given + one.ids.size() + tail);
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
  Job job = make_job(given, {}, one.kind == CaseKind::misroute ? misroute_plans_[one.plan] : plan_, of.sample);
  job.prefix = encoded.prompt;
  return job;
}

std::vector<Job> FaithfulnessStudy::continue_jobs() const {
  std::vector<Job> jobs;
  for (const FaithCase& one : cases_) {
    if (!one.continued) continue;
    const Explanation& of = explanations_[one.explanation];
    Job job = job_for(one, {});
    job.index = static_cast<int64_t>(jobs.size());
    job.task =
        Generate{std::clamp<int64_t>(room(one, of.marker_ids.size() + static_cast<size_t>(options_.answer_tokens)), 0,
                                     options_.max_tokens),
                 {}};
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
    if (room(one, of.marker_ids.size() + static_cast<size_t>(options_.answer_tokens)) < 0) continue;
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

void FaithfulnessStudy::set_answers(std::vector<Written> answers) {
  size_t next = 0;
  counts_.too_long = 0;
  for (FaithCase& one : cases_) {
    const Explanation& of = explanations_[one.explanation];
    one.too_long = room(one, of.marker_ids.size() + static_cast<size_t>(options_.answer_tokens)) < 0;
    if (one.too_long) {
      ++counts_.too_long;
      continue;
    }
    one.written = std::move(answers.at(next++));
    one.answer = answer_line(one.written.text);
    one.explained_again = one.written.text.find(options_.marker) != std::string::npos;
    one.correct = is_correct(of.record, one.answer);
  }
  for (FaithCase& one : cases_)
    one.same = normalize_answer(one.answer) == normalize_answer(full(one.explanation).answer);
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
    out.jobs.push_back(std::move(job));
  }
  return out;
}

void FaithfulnessStudy::set_routes(const RouteJobs& jobs, const LastRoutes& routes) {
  std::map<size_t, int64_t> full_at;  // explanation -> its full case among the jobs
  for (size_t i = 0; i < jobs.cases.size(); ++i)
    if (cases_[jobs.cases[i]].kind == CaseKind::full)
      full_at[cases_[jobs.cases[i]].explanation] = static_cast<int64_t>(i);
  for (size_t i = 0; i < jobs.cases.size(); ++i) {
    FaithCase& one = cases_[jobs.cases[i]];
    const int64_t reference = full_at.at(one.explanation), sample = static_cast<int64_t>(i);
    one.likeness.clear();
    for (size_t l = 0; l < routes.layers().size(); ++l) {
      const Routes mine = routes.routes(sample, l), whole = routes.routes(reference, l);
      one.likeness.push_back(
          {route_jaccard(mine, whole).value_or(NAN), route_jaccard_weighted(mine, whole).value_or(NAN)});
    }
  }
}

std::string FaithfulnessStudy::text(const FaithCase& one) const { return setup_.tokenizer->decode(one.ids, true); }

FaithCurve FaithfulnessStudy::curve(size_t explanation, FaithTest test) const {
  FaithCurve curve;
  curve.unit = units_[explanations_[explanation].record];
  curve.n_sentences = static_cast<int64_t>(explanations_[explanation].sentences.size());
  const FaithCase& whole = full(explanation);
  if (whole.too_long) return curve;
  auto add = [&](const FaithCase& one, double x) { curve.points.push_back({x, one.same, one.correct}); };
  if (test == FaithTest::paraphrase) add(whole, 0);
  for (size_t c = full_[explanation]; c < cases_.size() && cases_[c].explanation == explanation; ++c) {
    const FaithCase& one = cases_[c];
    if (one.too_long) continue;
    const bool wanted =
        (test == FaithTest::early && one.kind == CaseKind::early) ||
        (test == FaithTest::mistake && one.kind == CaseKind::mistake) ||
        (test == FaithTest::paraphrase && one.kind == CaseKind::paraphrase) ||
        (test == FaithTest::filler && (one.kind == CaseKind::filler || (one.kind == CaseKind::early && one.step == 0)));
    if (wanted) add(one, one.x);
  }
  if (test == FaithTest::early || test == FaithTest::mistake) add(whole, 1);
  const bool run = test == FaithTest::early        ? options_.early
                   : test == FaithTest::mistake    ? options_.mistakes
                   : test == FaithTest::paraphrase ? options_.paraphrases
                                                   : options_.fillers;
  // One point alone is the explanation itself: nothing was altered.
  if (!run || curve.points.size() < 2) curve.points.clear();
  return curve;
}

}  // namespace signalbox::eval
