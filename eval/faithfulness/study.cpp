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

void check_given(const Record& record, const char* key) {
  const json::Ref root(record.source, record.where);
  if (const auto list = root.find(key))
    for (const json::Ref& item : list->items())
      if (!item.is_null()) item.string();
}

json::Value misroute_edit(const Misrouting& misrouting, const FaithfulnessOptions& options) {
  json::Value tokens = json::Value::object().set("span", "explanation");
  if (misrouting.fraction < 1) tokens.set("fraction", misrouting.fraction);
  json::Value edit = json::Value::object();
  edit.set("op", "misroute").set("policy", misrouting.policy).set("tokens", std::move(tokens));
  return edit.set("layers", options.misroute_layers).set("weights", options.misroute_weights);
}

}  // namespace

const char* case_kind_name(CaseKind kind) {
  constexpr const char* names[] = {"full", "early", "mistake", "paraphrase", "filler", "misroute", "yardstick"};
  return names[static_cast<size_t>(kind)];
}

size_t ForcedTargets::longest() const {
  size_t n = 0;
  for (const auto& one : tokens) n = std::max(n, one.size());
  return n;
}

size_t Explanation::n_ids() const {
  size_t n = 0;
  for (const auto& ids : sentence_ids) n += ids.size();
  return n;
}

std::vector<int32_t> Explanation::ids() const {
  std::vector<int32_t> all;
  for (const auto& ids : sentence_ids) all.insert(all.end(), ids.begin(), ids.end());
  return all;
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
      options_(std::move(options)),
      edits_(edits),
      edits_dir_(edits_dir) {
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
    names_.emplace_back().add(sources_.back());
    all_names_.add(sources_.back());
    choices_.push_back(choices_of(record));
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

  for (size_t r = 0; r < records_.size(); ++r)
    if (options_.shard.has(static_cast<int64_t>(r))) own_.push_back(r);
  std::vector<std::string> spans = names;
  spans.push_back("explanation");
  if (!edits.is_null()) {
    plan_ = make_plan({});
    plan_->require_spans(spans);
  }
  for (const std::string& policy : options_.policies)
    for (double fraction : options_.fractions) {
      misroutings_.push_back({policy, fraction});
      misroute_plans_.push_back(make_plan({misroute_edit(misroutings_.back(), options_)}));
    }
}

// The edits of --edits, then these.
std::shared_ptr<const EditPlan> FaithfulnessStudy::make_plan(const std::vector<json::Value>& added) const {
  json::Value list = edits_.is_null() ? json::Value::array() : edits_;
  for (const json::Value& edit : added) list.push_back(edit);
  return EditPlan::parse(json::Ref(list, added.empty() ? "--edits" : "misrouting"), edits_dir_, shape_, options_.seed);
}

int32_t FaithfulnessStudy::max_slots() const {
  int32_t most = shape_.n_active();
  if (plan_) most = std::max(most, plan_->max_slots());
  for (const auto& plan : misroute_plans_) most = std::max(most, plan->max_slots());
  return most;
}

std::vector<Job> FaithfulnessStudy::write_jobs() const {
  std::vector<Job> jobs;
  for (const size_t r : own_)
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
}

void FaithfulnessStudy::set_asked(std::vector<Written> asked) {
  size_t next = 0;
  for (size_t e = 0; e < explanations_.size(); ++e) {
    Explanation& of = explanations_[e];
    if (room(of.record, of.n_ids(), of.marker_ids.size() + static_cast<size_t>(options_.answer_tokens)) >= 0)
      of.asked = std::move(asked.at(next++));
    if (options_.forced) add_targets(of);
  }
}

void FaithfulnessStudy::make_cases() {
  for (size_t e = 0; e < explanations_.size(); ++e) add_cases(e);
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
  const size_t record = record_of(output);
  counts_.truncated += written.finish_reason == "length";
  const auto cut = cut_at_marker(written.text, options_.marker);
  if (!cut && !options_.force_marker) {
    ++counts_.no_marker;
    counts_.no_marker_ids.push_back(records_[record].id);
    return;
  }
  Explanation out;
  out.record = record;
  out.output = output;
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
  if (cut) {
    cuts.push_back(cut->answer_begin);
    out.first_answer = answer_line(std::string_view(written.text).substr(cut->answer_begin));
  }
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
}

// The full explanation's answer as it was written, and the record's answers and options behind the same white space.
void FaithfulnessStudy::add_targets(Explanation& of) const {
  if (!of.asked) return;
  ForcedTargets& targets = of.targets;
  const std::string& text = of.asked->text;
  const std::string answer = answer_line(text);
  const auto add = [&](std::vector<int32_t> tokens) {
    const auto found = std::find(targets.tokens.begin(), targets.tokens.end(), tokens);
    if (found != targets.tokens.end()) return static_cast<size_t>(found - targets.tokens.begin());
    targets.tokens.push_back(std::move(tokens));
    return targets.tokens.size() - 1;
  };
  if (!answer.empty())
    targets.own = add(cut_ids(of.asked->tokens, text, {0, text.find(answer) + answer.size()}).front());
  std::string space = leading_space(text);
  const bool hidden = space.empty() && !of.asked->tokens.empty() &&
                      setup_.tokenizer->piece(of.asked->tokens.front()).starts_with("\xE2\x96\x81");
  if (hidden || text.empty()) space = " ";
  const auto tokens_of = [&](const std::string& one) {
    const std::string bare = one.substr(leading_space(one).size());
    return bare == answer ? targets.tokens[*targets.own] : encode(space + bare);
  };
  const auto blank = [](const std::string& one) { return one.size() == leading_space(one).size(); };
  for (const std::string& gold : golds_[of.record])
    if (!blank(gold)) targets.golds.push_back(add(tokens_of(gold)));
  const std::optional<Choices>& choices = choices_[of.record];
  if (!choices || std::any_of(choices->options.begin(), choices->options.end(), blank)) return;
  for (const std::string& option : choices->options) targets.choices.push_back(add(tokens_of(option)));
  targets.right = static_cast<size_t>(choices->right);
}

size_t FaithfulnessStudy::tail_of(const Explanation& of) const {
  return of.marker_ids.size() + std::max(static_cast<size_t>(options_.answer_tokens), of.targets.longest());
}

// What no mistake may name.
std::vector<std::string> FaithfulnessStudy::answers_of(const Explanation& of) const {
  std::vector<std::string> answers = golds_[of.record];
  if (!of.first_answer.empty()) answers.push_back(of.first_answer);
  if (of.asked) answers.push_back(answer_line(of.asked->text));
  return answers;
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
  const std::vector<int32_t> all = of.ids();
  full_.push_back(cases_.size());
  add_case(explanation, CaseKind::full, n, 1).ids = all;
  std::vector<int32_t> kept;
  for (int64_t i = 0; i < n; ++i) {
    // Filler begins where nothing is kept.
    if (options_.early || (i == 0 && options_.fillers))
      add_case(explanation, CaseKind::early, i, static_cast<double>(i) / static_cast<double>(n)).ids = kept;
    kept.insert(kept.end(), of.sentence_ids[i].begin(), of.sentence_ids[i].end());
  }
  if (options_.mistakes) add_mistakes(explanation);
  if (options_.paraphrases) add_paraphrases(explanation);
  if (options_.fillers) add_fillers(explanation);
  for (size_t p = 0; p < misroutings_.size(); ++p) {
    FaithCase& one = add_case(explanation, CaseKind::misroute, n, 1);
    one.plan = p;
    one.ids = all;
  }
  if (options_.routes) add_case(explanation, CaseKind::yardstick, n, 1).ids = all;
}

void FaithfulnessStudy::add_fillers(size_t explanation) {
  const std::vector<int32_t> unit = encode(options_.filler);
  const auto n = static_cast<double>(explanations_[explanation].n_ids());
  std::vector<double> shares(std::begin(filler_shares), std::end(filler_shares));
  if (options_.filler_every > 0) {
    shares.clear();
    for (int64_t count = options_.filler_every; static_cast<double>(count) < n; count += options_.filler_every)
      shares.push_back(static_cast<double>(count) / n);
    shares.push_back(1);
  }
  for (const double share : shares) {
    FaithCase& one = add_case(explanation, CaseKind::filler, 0, share);
    one.ids = filler(unit, static_cast<size_t>(std::llround(share * n)));
    one.step = static_cast<int64_t>(one.ids.size());
  }
}

std::string FaithfulnessStudy::text(const FaithCase& one) const { return setup_.tokenizer->decode(one.ids, true); }

FaithCurve FaithfulnessStudy::curve(size_t explanation, FaithTest test) const {
  return curve(explanation, test, [](const FaithCase& one) -> std::optional<FaithPoint> {
    if (!one.answered) return std::nullopt;
    FaithPoint point{0, one.same ? 1.0 : 0.0, {}};
    if (one.correct) point.correct = *one.correct ? 1.0 : 0.0;
    return point;
  });
}

FaithCurve FaithfulnessStudy::curve(size_t explanation, FaithTest test,
                                    const std::function<std::optional<FaithPoint>(const FaithCase&)>& value) const {
  FaithCurve curve;
  curve.unit = units_[explanations_[explanation].record];
  curve.n_sentences = static_cast<int64_t>(explanations_[explanation].sentences.size());
  const bool run = test == FaithTest::early        ? options_.early
                   : test == FaithTest::mistake    ? options_.mistakes
                   : test == FaithTest::paraphrase ? options_.paraphrases
                                                   : options_.fillers;
  const FaithCase& whole = full(explanation);
  if (!run || whole.too_long) return curve;
  bool defined = true;
  auto add = [&](const FaithCase& one, double x) {
    std::optional<FaithPoint> point = value(one);
    defined = defined && point;
    if (!point) return;
    point->x = x;
    curve.points.push_back(*point);
  };
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
  // One point alone is the explanation itself: nothing was altered.
  if (!defined || curve.points.size() < 2) curve.points.clear();
  return curve;
}

}  // namespace signalbox::eval
