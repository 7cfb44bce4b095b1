#include "eval/experiment/split.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>

#include "base/near_names.h"
#include "base/text.h"
#include "eval/data/examples.h"
#include "eval/data/hints.h"
#include "eval/data/prompt_hash.h"
#include "eval/experiment/provenance.h"
#include "eval/score/applicable.h"

namespace signalbox::eval {

namespace {

enum Purpose : size_t { detect, tune, test, none };
constexpr std::array<const char*, 4> purpose_names = {"detect", "tune", "test", "none"};

// How records get the splits that the spec names. `again`: some have one.
std::string split_hint(const SplitSpec& split, const std::string& file, bool again) {
  std::vector<std::string> names;
  for (const std::string* name : {&split.detect, &split.tune, &split.test})
    if (!name->empty()) names.push_back(*name);
  std::string command = split_command(file, again, names);
  if (split.key != "split") command += " --key " + shell_word(split.key);
  return command + " deals the records out" +
         (again ? "" : " (or the run does: deactivate --split 0.5, in a spec \"split\": {\"share\": 0.5})");
}

std::vector<Purpose> purposes_of(const SplitSpec& split, const std::string& where, const std::string& file,
                                 const std::vector<Record>& records) {
  const std::array<const std::string*, 3> values = {&split.detect, &split.tune, &split.test};
  std::array<int64_t, 3> counts = {};
  std::set<std::string> seen;
  std::vector<Purpose> purposes(records.size(), none);
  for (size_t r = 0; r < records.size(); ++r) {
    const auto found = json::Ref(records[r].source, records[r].where).find(split.key);
    if (!found)
      throw Error(records[r].where,
                  "expected the key " + in_quotes(split.key) + ", found none; " + split_hint(split, file, r > 0));
    const std::string& value = found->string();
    for (size_t p = 0; p < values.size(); ++p)
      if (!values[p]->empty() && value == *values[p]) {
        purposes[r] = static_cast<Purpose>(p);
        ++counts[p];
      }
    if (seen.size() < 1000) seen.insert(value);
  }
  for (size_t p = 0; p < values.size(); ++p)
    if (!values[p]->empty() && counts[p] == 0)
      throw Error(where, std::string("split.") + purpose_names[p] + ": " +
                             wrong_name("a value of the records' " + in_quotes(split.key), *values[p], names_of(seen)) +
                             "; " + split_hint(split, file, true));
  return purposes;
}

// Two records of one example must not serve two purposes.
void check_examples(const std::vector<Record>& records, const std::vector<size_t>& example,
                    const std::vector<Purpose>& purposes, const std::string& hint) {
  std::vector<size_t> first(records.size(), records.size());  // [example] its first record with a purpose
  for (size_t r = 0; r < records.size(); ++r) {
    if (purposes[r] == none) continue;
    size_t& f = first[example[r]];
    if (f == records.size()) {
      f = r;
    } else if (purposes[f] != purposes[r]) {
      const bool pair = !records[r].pair.empty() && records[r].pair == records[f].pair;
      throw Error(
          records[r].where,
          "expected the records of one example in one split, found " + in_quotes(records[f].id) + " in " +
              purpose_names[purposes[f]] + " and " + in_quotes(records[r].id) + " in " + purpose_names[purposes[r]] +
              (pair ? " (pair " + in_quotes(records[r].pair) + ")" : " (one is the other's paraphrase)") + hint);
    }
  }
}

// The same prompts ([records], hashes) under other ids. Returns the records that share their prompt with another
// purpose, as one side of an example whose other prompts do not.
std::vector<size_t> check_prompts(const std::vector<Record>& records, const std::vector<std::string>& prompts,
                                  const std::vector<size_t>& example, const std::vector<Purpose>& purposes,
                                  const std::string& hint) {
  std::unordered_map<std::string, std::array<size_t, 3>> seen;  // prompt -> its first record of each purpose
  std::vector<const std::array<size_t, 3>*> of(records.size());
  const size_t absent = records.size();
  for (size_t r = 0; r < records.size(); ++r) {
    if (purposes[r] == none) continue;
    auto& places = seen.try_emplace(prompts[r], std::array<size_t, 3>{absent, absent, absent}).first->second;
    places[purposes[r]] = std::min(places[purposes[r]], r);
    of[r] = &places;  // of a node: stays where it is
  }
  // [example][purpose] all of its prompts are also in that other purpose
  std::vector<std::array<bool, 3>> whole(records.size(), {true, true, true});
  std::vector<size_t> shared;
  for (size_t r = 0; r < records.size(); ++r) {
    if (purposes[r] == none) continue;
    bool any = false;
    for (size_t p = 0; p < 3; ++p) {
      const bool there = p != purposes[r] && (*of[r])[p] != absent;
      whole[example[r]][p] = whole[example[r]][p] && there;
      any = any || there;
    }
    if (any) shared.push_back(r);
  }
  for (size_t r : shared)
    for (size_t p = 0; p < 3; ++p)
      if (whole[example[r]][p])
        throw Error(records[r].where, "expected an example in one split, found the same prompt as " +
                                          in_quotes(records[(*of[r])[p]].id) + " in " + purpose_names[p] + " and as " +
                                          in_quotes(records[r].id) + " in " + purpose_names[purposes[r]] + hint);
  return shared;
}

struct SplitResult {
  Splits splits;
  std::vector<size_t> shared;
};

SplitResult split_and_check(const ExperimentSpec& spec, const std::vector<Record>& records) {
  SplitResult result;
  Splits& splits = result.splits;
  if (!spec.split) {
    splits.test.resize(records.size());
    std::iota(splits.test.begin(), splits.test.end(), 0);
    splits.detect = splits.test;
    return result;
  }
  const std::vector<Purpose> purposes = purposes_of(*spec.split, spec.where, spec.data.string(), records);
  const std::vector<size_t> example = named_examples(records);
  const std::string hint = "; " + split_hint(*spec.split, spec.data.string(), true);
  check_examples(records, example, purposes, hint);
  std::vector<std::string> prompts;
  for (const Record& record : records) prompts.push_back(line_prompt_hash(record.source));
  result.shared = check_prompts(records, prompts, example, purposes, hint);
  for (size_t r = 0; r < records.size(); ++r) {
    const int64_t index = static_cast<int64_t>(r);
    if (purposes[r] == detect) splits.detect.push_back(index);
    if (purposes[r] == tune) splits.tune.push_back(index);
    if (purposes[r] == test) splits.test.push_back(index);
    splits.unused += purposes[r] == none;
  }
  return result;
}

std::vector<Record> chosen(const std::vector<Record>& records, const std::vector<int64_t>& indices) {
  std::vector<Record> out;
  for (int64_t i : indices) out.push_back(records[static_cast<size_t>(i)]);
  return out;
}

bool has_span(const Record& record, const std::string& span) {
  return record.spans.contains(span) || (span == "target" && record.target);
}

constexpr const char* split_to_detect_on = "of the split to detect on";
constexpr const char* split_held_out = "of the split to test on, for \"held_out\"";

// `whose`: what the records are called.
void check_stage(const ExperimentSpec& spec, const DetectSpec& stage, const std::vector<Record>& records,
                 const std::string& whose) {
  const std::string path = "detect." + stage.name;
  std::set<std::string> conditions;
  std::map<std::string, std::pair<bool, bool>> sides;  // pair -> has a record under A, under B
  for (const Record& record : records) {
    if (!record.condition.empty()) conditions.insert(record.condition);
    if (record.pair.empty()) continue;
    sides[record.pair].first |= record.condition == stage.a;
    sides[record.pair].second |= record.condition == stage.b;
  }
  for (const std::string& condition : {stage.a, stage.b}) {
    if (!conditions.contains(condition))
      throw Error(spec.where, path +
                                  ".contrast: " + wrong_name("a condition " + whose, condition, names_of(conditions)) +
                                  hint_for_condition(spec.data.string(), records));
    std::set<std::string> spans;
    bool found = stage.span.empty();
    for (const Record& record : records) {
      if (record.condition != condition) continue;
      found = found || has_span(record, stage.span);
      for (const auto& [name, range] : record.spans) spans.insert(name);
      if (record.target) spans.insert("target");
    }
    if (!found)
      throw Error(spec.where, path + ".span: " +
                                  wrong_name("a span that a record under " + in_quotes(condition) + " has", stage.span,
                                             names_of(spans)) +
                                  (spans.empty() ? hint_for_span(spec.data.string()) : std::string()));
  }
  if (!stage.length_match) return;
  for (const Record& record : records) {
    if (record.condition != stage.a && record.condition != stage.b) continue;
    const auto side = sides.find(record.pair);
    if (record.pair.empty() || !side->second.first || !side->second.second)
      throw Error(spec.where, path +
                                  ".length_match: expected a partner under the other condition in the pair of every " +
                                  "record, found none for " + in_quotes(record.id));
  }
}

void check_metric(const ExperimentSpec& spec, const std::string& path, const std::string& metric,
                  const std::vector<Record>& records) {
  const Scorer* scorer = find_scorer(metric);  // none: a judge
  if (!scorer) return;
  const Applicability found = applicability(*scorer, records);
  const std::string data = spec.data.string();
  if (!found.lacking_all.empty())
    throw Error(spec.where, path + ": expected records that have what " + in_quotes(metric) +
                                " needs, found none (they " + "lack " + found.lacking_all + ")" +
                                hint_for_lacking(data, records, found.lacking_all));
  if (found.records > 0) return;
  throw Error(spec.where, path + ": expected a record that has what " + in_quotes(metric) + " needs, found none (" +
                              in_quotes(records.front().id) + " lacks " + found.lacking + ")" +
                              hint_for_lacking(data, records, found.lacking));
}

void check_files(const ExperimentSpec& spec, const EditSpec& edit) {
  for (const std::filesystem::path& file : {edit.file, edit.source.file})
    if (!file.empty() && !std::filesystem::exists(file))
      throw Error(spec.where, edit.ref.path() + ": expected a file, found none at " + file.string());
}

// The most tokens that are generated of a record.
int64_t most_generated(const ExperimentSpec& spec) {
  if (!spec.generate) return 0;
  if (spec.programs.empty()) return spec.generate->max_tokens;
  int64_t most = 0;
  for (const Program& program : spec.programs)
    most = std::max(most, program.max_tokens.value_or(spec.generate->max_tokens));
  return most;
}

void check_edit(const ExperimentSpec& spec, const json::Ref& ref, const std::vector<std::string>& spans) {
  const EditSpec edit = EditSpec::parse(ref, spec.base_dir, 0);
  check_files(spec, edit);
  edit.refuse_no_token(!spec.generate             ? "without \"generate\" a run has only given tokens"
                       : most_generated(spec) < 2 ? "with max_tokens 1 the new token comes from the last given one"
                                                  : "");
  const std::string& span = edit.tokens.span;
  if (span.empty() || std::find(spans.begin(), spans.end(), span) != spans.end()) return;
  throw Error(spec.where, ref.path() + ".tokens.span: " + wrong_name("a span that a record has", span, spans) +
                              (spans.empty() ? hint_for_span(spec.data.string()) : std::string()));
}

}  // namespace

Splits split_records(const ExperimentSpec& spec, const std::vector<Record>& records) {
  return split_and_check(spec, records).splits;
}

void refuse_without_tokenizer(const ExperimentSpec& spec) {
  const auto refuse = [&](const std::string& what) {
    throw Error(spec.where, what + ": expected a model with a tokenizer, found none");
  };
  if (spec.generate && !spec.generate->stop.empty()) refuse("generate.stop");
  if (!spec.judges.empty()) refuse("judges");
  for (const std::string& metric : spec.metrics) {
    const Scorer* scorer = find_scorer(metric);
    if (scorer && scorer->needs == Needs::text && !scorer->tokens_only) refuse("metrics: " + metric);
  }
}

std::vector<std::string> default_metrics(const ExperimentSpec& spec, const std::vector<Record>& records) {
  std::vector<std::string> metrics;
  for (const char* name : {"em", "f1", "grounded", "abstained", "refused", "ppl", "kl", "repetition"}) {
    const Scorer* scorer = find_scorer(name);
    if (!scorer || (scorer->needs == Needs::text && !spec.generate)) continue;
    if (applicability(*scorer, records).any()) metrics.push_back(name);
  }
  if (spec.tune && std::find(metrics.begin(), metrics.end(), spec.tune->metric) == metrics.end())
    metrics.push_back(spec.tune->metric);
  if (metrics.empty()) throw Error(spec.where, "metrics: expected a metric that the records allow, found none");
  return metrics;
}

void check_metrics(const ExperimentSpec& spec, const std::vector<Record>& tested) {
  for (size_t i = 0; i < spec.metrics.size(); ++i)
    check_metric(spec, "metrics[" + std::to_string(i) + "]", spec.metrics[i], tested);
}

void check_edited_targets(const ExperimentSpec& spec) {
  const bool forced = std::any_of(spec.metrics.begin(), spec.metrics.end(), [](const std::string& metric) {
    const Needs needs = metric_needs(metric);
    return needs == Needs::logprobs || needs == Needs::divergence || needs == Needs::options;
  });
  if (forced) return;
  const auto check = [&](const json::Ref& ref) {
    if (EditSpec::parse(ref, spec.base_dir, 0).tokens.span == "target")
      throw Error(spec.where, ref.path() +
                                  ".tokens.span: expected a span of the prompt, or a metric for which targets are run "
                                  "(such as ppl or kl), found \"target\" and metrics of generated text alone");
  };
  for (const InterventionSpec& intervention : spec.interventions) {
    const json::Ref edits(intervention.edits, spec.where, intervention.path + ".edits");
    for (const json::Ref& edit : edits.items()) check(edit);
  }
  if (spec.audit)
    for (const json::Value& edit : spec.audit->edits) check(json::Ref(edit, spec.where, spec.audit->path));
}

CheckedData check_against_records(const ExperimentSpec& spec, const std::vector<Record>& records) {
  const SplitResult split = split_and_check(spec, records);
  const std::vector<Record> tested = chosen(records, split.splits.test), tuned = chosen(records, split.splits.tune);
  std::vector<Record> evaluated = tested;
  evaluated.insert(evaluated.end(), tuned.begin(), tuned.end());

  const std::vector<Record> detected = chosen(records, split.splits.detect);
  for (const DetectSpec& stage : spec.detect) {
    check_stage(spec, stage, detected, spec.split ? split_to_detect_on : "of the records");
    if (stage.held_out) check_stage(spec, stage, tested, split_held_out);
  }

  const std::vector<std::string> spans = span_names(evaluated);
  for (const InterventionSpec& intervention : spec.interventions) {
    const json::Ref edits(intervention.edits, spec.where, intervention.path + ".edits");
    for (const json::Ref& edit : edits.items()) check_edit(spec, edit, spans);
  }
  if (spec.audit)
    for (const json::Value& edit : spec.audit->edits)
      check_edit(spec, json::Ref(edit, spec.where, spec.audit->path), spans);
  CheckedData out;
  std::vector<EvaluatedRecord> without_model;
  for (const Record& record : evaluated) without_model.push_back(evaluated_without_model(record));
  out.facts.rankings = check_rankings(spec, without_model);

  if (!spec.metrics_given) default_metrics(spec, tested);
  if (spec.metrics_given) check_metrics(spec, tested);
  if (spec.tune) check_metric(spec, "tune.metric", spec.tune->metric, tuned);

  out.facts.copies = count_copies(tested);
  out.facts.shared_between_splits = static_cast<int64_t>(split.shared.size());
  if (!split.shared.empty()) out.facts.first_shared = records[split.shared.front()].id;
  out.notes = cautions_of(out.facts);
  if (split.splits.unused > 0)
    out.notes.push_back(std::to_string(split.splits.unused) +
                        " records are of no split that the experiment uses: they are left out");
  return out;
}

void check_deal(const ExperimentSpec& spec, const std::vector<Record>& records, const Deal& deal) {
  const std::vector<Record> detected = chosen(records, deal.detect), tested = chosen(records, deal.test);
  for (const DetectSpec& stage : spec.detect) {
    check_stage(spec, stage, detected, split_to_detect_on);
    if (stage.held_out) check_stage(spec, stage, tested, split_held_out);
  }
  for (size_t i = 0; spec.metrics_given && i < spec.metrics.size(); ++i)
    check_metric(spec, "metrics[" + std::to_string(i) + "]", spec.metrics[i], tested);
}

void check_encoded_prompts(const ExperimentSpec& spec, const std::vector<Record>& records, const Splits& splits,
                           const std::vector<std::vector<std::string>>& hashes) {
  std::vector<Purpose> purposes(records.size(), none);
  const std::array<const std::vector<int64_t>*, 3> parts = {&splits.detect, &splits.tune, &splits.test};
  std::vector<EvaluatedRecord> evaluated;
  for (const Purpose purpose : {detect, tune, test})
    for (const int64_t r : *parts[purpose]) {
      const size_t at = static_cast<size_t>(r);
      purposes[at] = purpose;
      if (purpose != detect) evaluated.push_back({&records[at], hashes[at]});
    }
  check_rankings(spec, evaluated);
  if (!spec.split) return;  // detection then sees what is tested, and chooses no experts
  std::vector<std::string> prompts;
  for (const std::vector<std::string>& known : hashes) prompts.push_back(known.empty() ? std::string() : known[0]);
  check_prompts(records, prompts, named_examples(records), purposes,
                "; " + split_hint(*spec.split, spec.data.string(), true));
}

}  // namespace signalbox::eval
