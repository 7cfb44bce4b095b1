// The files of a study's findings, and the table for people.
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/csv.h"
#include "base/files.h"
#include "base/no_number.h"
#include "base/text.h"
#include "base/text_table.h"
#include "eval/faithfulness/curve_cells.h"
#include "eval/faithfulness/findings.h"
#include "eval/routing/likeness.h"

namespace signalbox::eval {

namespace {

std::string curves_csv(const FaithfulnessFindings& findings) {
  CsvWriter csv({"test", "sentences", "x", "n", "same", "same_lo", "same_hi", "correct", "correct_lo", "correct_hi"});
  for (const auto& test : findings.tests)
    for (const CurveRow& row : test.curve) {
      csv.cell(faith_test_name(test.test));
      add_curve_row(csv, row);
    }
  return csv.text();
}

std::string aoc_csv(const FaithfulnessFindings& findings) {
  CsvWriter csv(
      {"test", "sentences", "n", "weight", "aoc", "ci_lo", "ci_hi", "accuracy", "accuracy_lo", "accuracy_hi"});
  for (const auto& test : findings.tests)
    for (const AreaRow& row : test.areas) {
      csv.cell(faith_test_name(test.test));
      add_length(csv, row.n_sentences);
      csv.cell(row.area.n).cell(row.weight);
      add_mean(csv, row.area);
      add_mean(csv, row.accuracy);
      csv.end_row();
    }
  return csv.text();
}

std::string routing_csv(const FaithfulnessFindings& findings) {
  CsvWriter csv({"test",
                 "policy",
                 "fraction",
                 "n",
                 "same",
                 "same_lo",
                 "same_hi",
                 "correct",
                 "correct_lo",
                 "correct_hi",
                 "explained_again",
                 "restated",
                 "jaccard",
                 "jaccard_lo",
                 "jaccard_hi",
                 "jaccard_weighted",
                 "jaccard_weighted_lo",
                 "jaccard_weighted_hi",
                 "jaccard_same",
                 "jaccard_changed",
                 "same_kept",
                 "same_moved",
                 "changed_kept",
                 "changed_moved",
                 "beyond_random",
                 "beyond_random_lo",
                 "beyond_random_hi",
                 "p_beyond_random",
                 "tokens_misrouted",
                 "replaced",
                 "mass_lost",
                 "tokens_beyond_random",
                 "replaced_beyond_random",
                 "replaced_beyond_random_lo",
                 "replaced_beyond_random_hi",
                 "mass_lost_beyond_random",
                 "mass_lost_beyond_random_lo",
                 "mass_lost_beyond_random_hi"});
  for (const AlterationRow& row : findings.alterations) {
    csv.cell(row.test).cell(row.policy).cell(row.fraction).cell(row.n);
    add_mean(csv, row.same);
    add_mean(csv, row.correct);
    csv.cell(row.explained_again).cell(row.restated);
    add_mean(csv, row.jaccard);
    add_mean(csv, row.weighted);
    csv.cell(row.jaccard_same.mean).cell(row.jaccard_changed.mean);
    csv.cell(row.same_kept).cell(row.same_moved).cell(row.changed_kept).cell(row.changed_moved);
    add_mean(csv, row.beyond_random);
    csv.cell(row.p_beyond_random);
    csv.cell(row.tokens_misrouted.mean).cell(row.replaced.mean).cell(row.mass_lost.mean);
    csv.cell(row.tokens_beyond_random.mean);
    add_mean(csv, row.replaced_beyond_random);
    add_mean(csv, row.mass_lost_beyond_random);
    csv.end_row();
  }
  return csv.text();
}

// Mean likeness of each kind of alteration by layer.
std::string routing_layers_csv(const FaithfulnessStudy& study) {
  CsvWriter csv({"test", "policy", "fraction", "layer", "n", "jaccard", "jaccard_weighted"});
  struct Layer {
    DefinedMean jaccard, weighted;
  };
  std::map<std::pair<CaseKind, size_t>, std::vector<Layer>> means;
  for (const FaithCase& one : study.cases()) {
    if (one.likeness.empty() || one.kind == CaseKind::full) continue;
    if (one.kind == CaseKind::early && !study.options().early) continue;
    std::vector<Layer>& of_kind = means[{one.kind, one.plan}];
    of_kind.resize(one.likeness.size());
    for (size_t l = 0; l < one.likeness.size(); ++l) {
      of_kind[l].jaccard.add(one.likeness[l].jaccard);
      of_kind[l].weighted.add(one.likeness[l].weighted);
    }
  }
  const std::vector<int32_t> layers = study.shape().moe_layers();
  for (const auto& [key, of_kind] : means)
    for (size_t l = 0; l < of_kind.size(); ++l) {
      const bool misroute = key.first == CaseKind::misroute;
      csv.cell(case_kind_name(key.first));
      csv.cell(misroute ? study.misroutings()[key.second].policy : std::string());
      csv.cell(misroute ? study.misroutings()[key.second].fraction : no_number);
      csv.cell(int64_t{layers[l]}).cell(of_kind[l].jaccard.n());
      csv.cell(of_kind[l].jaccard.mean().value_or(no_number)).cell(of_kind[l].weighted.mean().value_or(no_number));
      csv.end_row();
    }
  return csv.text();
}

json::Value tokens_value(const std::vector<int32_t>& tokens) {
  json::Value out = json::Value::array();
  for (int32_t token : tokens) out.push_back(int64_t{token});
  return out;
}

json::Value output_line(const FaithfulnessStudy& study, size_t output) {
  const Written& written = study.outputs()[output];
  const auto samples = static_cast<size_t>(study.options().samples);
  json::Value line = json::Value::object();
  line.set("id", study.records()[study.record_of(output)].id).set("sample", static_cast<int64_t>(output % samples));
  line.set("test", "written").set("text", written.text).set("tokens", tokens_value(written.tokens));
  return line.set("finish_reason", written.finish_reason);
}

json::Value add_likeness(const FaithCase& one, json::Value& line) {
  if (!one.likeness.empty()) {
    const RouteLikeness likeness = one.mean_likeness();
    line.set("jaccard", likeness.jaccard).set("jaccard_weighted", likeness.weighted);
  }
  if (one.distance)
    line.set("tokens_misrouted", one.distance->tokens)
        .set("replaced", one.distance->replaced)
        .set("mass_lost", one.distance->mass_lost);
  return std::move(line);
}

// Of the forced form: own answer, each of the record's answers, each option.
void add_logprobs(const Explanation& of, const FaithCase& one, json::Value& line) {
  if (one.logprobs.empty()) return;
  const auto list = [&](const std::vector<size_t>& targets) {
    json::Value out = json::Value::array();
    for (const size_t target : targets) out.push_back(one.logprobs[target]);
    return out;
  };
  if (of.targets.own) line.set("logprob_own", one.logprobs[*of.targets.own]);
  if (!of.targets.golds.empty()) line.set("logprob_gold", list(of.targets.golds));
  if (!of.targets.choices.empty()) line.set("logprob_choices", list(of.targets.choices));
}

json::Value case_line(const FaithfulnessStudy& study, const FaithCase& one) {
  const Explanation& of = study.explanations()[one.explanation];
  json::Value line = json::Value::object();
  line.set("id", study.records()[of.record].id).set("sample", of.sample).set("test", case_kind_name(one.kind));
  if (one.kind == CaseKind::misroute) {
    line.set("policy", study.misroutings()[one.plan].policy).set("fraction", study.misroutings()[one.plan].fraction);
  } else {
    line.set("step", one.step).set("x", one.x);
  }
  if (!one.rule.empty()) line.set("rule", one.rule);
  line.set("explanation", study.text(one)).set("explanation_tokens", static_cast<int64_t>(one.ids.size()));
  if (one.kind == CaseKind::full) {
    json::Value sentences = json::Value::array();
    for (const std::string& sentence : of.sentences) sentences.push_back(sentence);
    line.set("sentences", std::move(sentences));
  }
  if (one.too_long) return line.set("too_long", true);
  add_logprobs(of, one, line);
  if (!one.answered) return add_likeness(one, line);
  line.set("text", one.written.text).set("tokens", tokens_value(one.written.tokens));
  line.set("finish_reason", one.written.finish_reason).set("answer", one.answer).set("same", one.same);
  if (one.explained_again) line.set("explained_again", true);
  if (!one.restates.empty()) line.set("restates", one.restates);
  line.set("correct", one.correct ? json::Value(*one.correct) : json::Value());
  return add_likeness(one, line);
}

std::string samples_jsonl(const FaithfulnessStudy& study) {
  std::string lines;
  for (size_t i = 0; i < study.outputs().size(); ++i) lines += json::dump(output_line(study, i)) + "\n";
  for (const FaithCase& one : study.cases()) lines += json::dump(case_line(study, one)) + "\n";
  return lines;
}

json::Value counts_value(const FaithfulnessStudy& study) {
  const StudyCounts& counts = study.counts();
  json::Value ids = json::Value::array(), rules = json::Value::object(), dropped = json::Value::object();
  for (const auto& [what, n] : counts.dropped) dropped.set(what, n);
  for (const std::string& id : counts.no_marker_ids) ids.push_back(id);
  for (const auto& [rule, n] : counts.rules) rules.set(rule, n);
  return json::Value::object()
      .set("records", static_cast<int64_t>(study.own_records().size()))
      .set("outputs", counts.outputs)
      .set("explanations", static_cast<int64_t>(study.explanations().size()))
      .set("sentences", counts.sentences)
      .set("outputs_without_marker", counts.no_marker)
      .set("outputs_without_explanation", counts.no_explanation)
      .set("outputs_cut_at_max_tokens", counts.truncated)
      .set("sentences_without_a_mistake", counts.no_mistake)
      .set("sentences_whose_mistakes_all_name_an_answer", counts.mistakes_name_answer)
      .set("sentences_without_a_paraphrase", counts.no_paraphrase)
      .set("altered_explanations_too_long", counts.too_long)
      .set("rules", std::move(rules))
      .set("texts_not_used", std::move(dropped))
      .set("without_marker", std::move(ids));
}

json::Value yardstick_value(const Yardstick& yardstick) {
  return json::Value::object()
      .set("jaccard", mean_value(yardstick.jaccard))
      .set("jaccard_weighted", mean_value(yardstick.weighted))
      .set("q01", yardstick.q01)
      .set("q05", yardstick.q05)
      .set("q10", yardstick.q10)
      .set("median", yardstick.median)
      .set("moved", yardstick.moved);
}

// The mean alone: one record has no interval.
std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string percent(const MeanEstimate& mean) {
  if (std::isnan(mean.mean)) return "-";
  if (std::isnan(mean.ci.lo)) return fixed(100 * mean.mean, 1);
  char text[64];
  std::snprintf(text, sizeof text, "%.1f [%.1f, %.1f]", 100 * mean.mean, 100 * mean.ci.lo, 100 * mean.ci.hi);
  return text;
}

std::string number(const MeanEstimate& mean) {
  if (std::isnan(mean.mean)) return "-";
  if (std::isnan(mean.ci.lo)) return fixed(mean.mean, 3);
  char text[64];
  std::snprintf(text, sizeof text, "%.3f [%.3f, %.3f]", mean.mean, mean.ci.lo, mean.ci.hi);
  return text;
}

// What "moved" and "beyond random" are to be read by.
std::string distances_table(const FaithfulnessFindings& findings, int width) {
  char line[320];
  TextTable table({{"misrouting", false, true}, {"n"}, {"tokens, %"}, {"experts replaced, %"}, {"router's p lost"}});
  bool any = false;
  for (const AlterationRow& row : findings.alterations) {
    if (row.policy.empty()) continue;
    any = true;
    table.add({row.policy + " " + short_number(row.fraction), std::to_string(row.n),
               fixed(100 * row.tokens_misrouted.mean, 1), fixed(100 * row.replaced.mean, 1),
               fixed(row.mass_lost.mean, 3)});
  }
  const std::string out = any ? "\n" + table.text(width) : "";
  const Yardstick& yardstick = findings.yardstick;
  if (yardstick.jaccard.n == 0) return out;
  std::snprintf(line, sizeof line,
                "\nroutes where nothing should change (1 %% of the explanation's tokens misrouted at random): Jaccard "
                "%.3f, median %.3f, 5 %% quantile %.3f; moved: %.1f %%\n",
                yardstick.jaccard.mean, yardstick.median, yardstick.q05, 100 * yardstick.moved);
  return out + line;
}

}  // namespace

void write_findings(const FaithfulnessStudy& study, const FaithfulnessFindings& findings, const json::Value& settings,
                    const std::filesystem::path& dir) {
  write_file_atomically(dir / "samples.jsonl", samples_jsonl(study));
  write_file_atomically(dir / "curves.csv", curves_csv(findings));
  write_file_atomically(dir / "aoc.csv", aoc_csv(findings));
  write_file_atomically(dir / "routing.csv", routing_csv(findings));
  if (study.options().routes) write_file_atomically(dir / "routing_layers.csv", routing_layers_csv(study));
  if (study.options().forced) write_forced(findings.forced, dir);
  json::Value aoc = json::Value::object();
  for (const auto& test : findings.tests) aoc.set(faith_test_name(test.test), mean_value(test.areas.back().area));
  json::Value summary = json::Value::object()
                            .set("settings", settings)
                            .set("resampling_unit", "record (pair)")
                            .set("resamples", study.options().resamples)
                            .set("seed", study.options().seed)
                            .set("counts", counts_value(study))
                            .set("correct_with_explanation", mean_value(findings.correct_full))
                            .set("correct_without_explanation", mean_value(findings.correct_without))
                            .set("answer_as_first_written", mean_value(findings.reasked))
                            .set("aoc", std::move(aoc));
  if (study.options().routes) summary.set("yardstick", yardstick_value(findings.yardstick));
  if (study.options().forced) summary.set("forced", forced_summary(findings.forced));
  write_file_atomically(dir / "summary.json", json::dump(summary, 2) + "\n");
}

std::string findings_table(const FaithfulnessStudy& study, const FaithfulnessFindings& findings, int width) {
  const StudyCounts& counts = study.counts();
  char line[320];
  std::snprintf(line, sizeof line,
                "%zu explanations of %.1f sentences on average, from %ld outputs (%ld without the marker, %ld without "
                "an explanation)\n",
                study.explanations().size(),
                study.explanations().empty()
                    ? 0.0
                    : static_cast<double>(counts.sentences) / static_cast<double>(study.explanations().size()),
                static_cast<long>(counts.outputs), static_cast<long>(counts.no_marker),
                static_cast<long>(counts.no_explanation));
  std::string out = line;
  if (study.explanations().empty()) return out;
  out += "correct with the full explanation, %: " + percent(findings.correct_full) +
         "; with none: " + percent(findings.correct_without) + "\n";
  out += "answer as first written, %: " + percent(findings.reasked) + "\n";
  if (counts.no_mistake > 0)
    out += std::to_string(counts.no_mistake) +
           " sentences without a mistake: " + std::to_string(counts.mistakes_name_answer) +
           " because every mistake would name an answer\n";
  TextTable tests({{"test", false, true}, {"explanations"}, {"area over the curve"}, {"correct over x, %"}});
  for (const auto& test : findings.tests) {
    const AreaRow& all = test.areas.back();
    tests.add({faith_test_name(test.test), std::to_string(all.area.n), number(all.area), percent(all.accuracy)});
  }
  if (!findings.tests.empty()) out += "\n" + tests.text(width);
  out += forced_table(findings.forced, width);
  if (!study.options().generate && !study.options().routes) return out;
  TextTable table({{"alteration", false, true},
                   {"n"},
                   {"same answer, %"},
                   {"correct, %"},
                   {"again"},
                   {"Jaccard of the answer's routes"}});
  for (const AlterationRow& row : findings.alterations)
    table.add({row.policy.empty() ? row.test : row.test + " " + row.policy + " " + short_number(row.fraction),
               std::to_string(row.n), percent(row.same), percent(row.correct),
               study.options().generate ? std::to_string(row.explained_again) : "-", number(row.jaccard)});
  out += "\n" + table.text(width);
  if (study.options().routes) out += distances_table(findings, width);
  return out;
}

}  // namespace signalbox::eval
