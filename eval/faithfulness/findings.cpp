#include "eval/faithfulness/findings.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <optional>

#include "base/csv_writer.h"
#include "base/files.h"
#include "eval/routing/likeness.h"
#include "eval/score/answers.h"
#include "eval/statistics/paired.h"

namespace signalbox {

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// Means that are filled in later, all together: they share their draws.
class Means {
 public:
  explicit Means(const FaithfulnessOptions& options) : options_(options) {}

  void add(MeanEstimate* out, const UnitValues& values) {
    out_.push_back(out);
    columns_.push_back(values.clustered());
  }
  // The pointers must still hold.
  void fill() {
    const auto means = bootstrap_means(columns_, options_.seed, options_.resamples, options_.threads);
    for (size_t i = 0; i < out_.size(); ++i) *out_[i] = means[i];
  }

 private:
  const FaithfulnessOptions& options_;
  std::vector<MeanEstimate*> out_;
  std::vector<ClusteredValues> columns_;
};

int64_t unit_of(const FaithfulnessStudy& study, const FaithCase& one) {
  return study.unit(study.explanations()[one.explanation].record);
}

// Cases of one row of the table.
using Group = std::vector<const FaithCase*>;

void fill_alteration(const FaithfulnessStudy& study, const Group& group, AlterationRow& row, Means& means) {
  UnitValues same, correct, jaccard, weighted, jaccard_same, jaccard_changed;
  for (const FaithCase* one : group) {
    const int64_t unit = unit_of(study, *one);
    same.add(one->same, unit);
    row.explained_again += one->explained_again;
    if (one->correct) correct.add(*one->correct, unit);
    if (one->likeness.empty()) continue;
    const RouteLikeness likeness = one->mean_likeness();
    if (!std::isnan(likeness.weighted)) weighted.add(likeness.weighted, unit);
    if (std::isnan(likeness.jaccard)) continue;
    jaccard.add(likeness.jaccard, unit);
    (one->same ? jaccard_same : jaccard_changed).add(likeness.jaccard, unit);
    const bool moved = likeness.jaccard < study.options().moved_below;
    ++(one->same ? (moved ? row.same_moved : row.same_kept) : (moved ? row.changed_moved : row.changed_kept));
  }
  means.add(&row.same, same);
  means.add(&row.correct, correct);
  means.add(&row.jaccard, jaccard);
  means.add(&row.weighted, weighted);
  means.add(&row.jaccard_same, jaccard_same);
  means.add(&row.jaccard_changed, jaccard_changed);
}

// Differences of `same` to random misrouting of the same fraction, by explanation.
UnitValues beside_random(const FaithfulnessStudy& study, const Group& group, const Group& random) {
  std::map<size_t, const FaithCase*> by_explanation;
  for (const FaithCase* one : random) by_explanation[one->explanation] = one;
  UnitValues out;
  for (const FaithCase* one : group)
    if (const auto found = by_explanation.find(one->explanation); found != by_explanation.end())
      out.add(static_cast<double>(one->same) - static_cast<double>(found->second->same), unit_of(study, *one));
  return out;
}

std::vector<AlterationRow> alterations_of(const FaithfulnessStudy& study) {
  std::vector<AlterationRow> rows;
  std::vector<Group> groups;
  auto select = [&](CaseKind kind, size_t plan) {
    Group group;
    for (const FaithCase& one : study.cases())
      if (one.kind == kind && !one.too_long && !study.full(one.explanation).too_long &&
          (kind != CaseKind::misroute || one.plan == plan))
        group.push_back(&one);
    return group;
  };
  auto add = [&](CaseKind kind, size_t plan) {
    Group group = select(kind, plan);
    if (group.empty()) return;
    AlterationRow row;
    row.test = case_kind_name(kind);
    row.fraction = nan;
    if (kind == CaseKind::misroute) {
      row.policy = study.misroutings()[plan].policy;
      row.fraction = study.misroutings()[plan].fraction;
    }
    rows.push_back(row);
    groups.push_back(std::move(group));
  };
  if (study.options().early) add(CaseKind::early, 0);
  for (CaseKind kind : {CaseKind::mistake, CaseKind::paraphrase, CaseKind::filler}) add(kind, 0);
  for (size_t p = 0; p < study.misroutings().size(); ++p) add(CaseKind::misroute, p);

  Means means(study.options());
  std::vector<ClusteredValues> differences(rows.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    fill_alteration(study, groups[r], rows[r], means);
    UnitValues beside;
    if (rows[r].test == std::string("misroute") && rows[r].policy != "random")
      for (size_t other = 0; other < rows.size(); ++other)
        if (rows[other].policy == "random" && rows[other].fraction == rows[r].fraction)
          beside = beside_random(study, groups[r], groups[other]);
    means.add(&rows[r].beyond_random, beside);
    differences[r] = beside.clustered();
  }
  means.fill();
  const auto ps = sign_flip_ps(differences, study.options().seed, study.options().resamples, study.options().threads);
  for (size_t r = 0; r < rows.size(); ++r) rows[r].p_beyond_random = ps[r];
  return rows;
}

void add_mean(CsvWriter& csv, const MeanEstimate& mean) { csv.cell(mean.mean).cell(mean.ci.lo).cell(mean.ci.hi); }

std::string curves_csv(const FaithfulnessFindings& findings) {
  CsvWriter csv({"test", "sentences", "x", "n", "same", "same_lo", "same_hi", "correct", "correct_lo", "correct_hi"});
  for (const auto& test : findings.tests)
    for (const CurveRow& row : test.curve) {
      csv.cell(faith_test_name(test.test));
      row.n_sentences > 0 ? csv.cell(row.n_sentences) : csv.cell(std::string_view());
      csv.cell(row.x).cell(row.same.n);
      add_mean(csv, row.same);
      add_mean(csv, row.correct);
      csv.end_row();
    }
  return csv.text();
}

std::string aoc_csv(const FaithfulnessFindings& findings) {
  CsvWriter csv({"test", "sentences", "n", "weight", "aoc", "ci_lo", "ci_hi"});
  for (const auto& test : findings.tests)
    for (const AreaRow& row : test.areas) {
      csv.cell(faith_test_name(test.test));
      row.n_sentences > 0 ? csv.cell(row.n_sentences) : csv.cell(std::string_view());
      csv.cell(row.area.n).cell(row.weight);
      add_mean(csv, row.area);
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
                 "p_beyond_random"});
  for (const AlterationRow& row : findings.alterations) {
    csv.cell(row.test).cell(row.policy).cell(row.fraction).cell(row.same.n);
    add_mean(csv, row.same);
    add_mean(csv, row.correct);
    csv.cell(row.explained_again);
    add_mean(csv, row.jaccard);
    add_mean(csv, row.weighted);
    csv.cell(row.jaccard_same.mean).cell(row.jaccard_changed.mean);
    csv.cell(row.same_kept).cell(row.same_moved).cell(row.changed_kept).cell(row.changed_moved);
    add_mean(csv, row.beyond_random);
    csv.cell(row.p_beyond_random);
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
      csv.cell(misroute ? study.misroutings()[key.second].fraction : nan);
      csv.cell(int64_t{layers[l]}).cell(of_kind[l].jaccard.n());
      csv.cell(of_kind[l].jaccard.mean().value_or(nan)).cell(of_kind[l].weighted.mean().value_or(nan));
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
  line.set("id", study.records()[output / samples].id).set("sample", static_cast<int64_t>(output % samples));
  line.set("test", "written").set("text", written.text).set("tokens", tokens_value(written.tokens));
  return line.set("finish_reason", written.finish_reason);
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
  line.set("text", one.written.text).set("tokens", tokens_value(one.written.tokens));
  line.set("finish_reason", one.written.finish_reason).set("answer", one.answer).set("same", one.same);
  if (one.explained_again) line.set("explained_again", true);
  line.set("correct", one.correct ? json::Value(*one.correct) : json::Value());
  if (!one.likeness.empty()) {
    const RouteLikeness likeness = one.mean_likeness();
    line.set("jaccard", likeness.jaccard).set("jaccard_weighted", likeness.weighted);
  }
  return line;
}

std::string samples_jsonl(const FaithfulnessStudy& study) {
  std::string lines;
  for (size_t i = 0; i < study.outputs().size(); ++i) lines += json::dump(output_line(study, i)) + "\n";
  for (const FaithCase& one : study.cases()) lines += json::dump(case_line(study, one)) + "\n";
  return lines;
}

json::Value mean_value(const MeanEstimate& mean) {
  return json::Value::object()
      .set("mean", mean.mean)
      .set("ci_lo", mean.ci.lo)
      .set("ci_hi", mean.ci.hi)
      .set("n", mean.n);
}

json::Value counts_value(const FaithfulnessStudy& study) {
  const StudyCounts& counts = study.counts();
  json::Value ids = json::Value::array(), rules = json::Value::object();
  for (const std::string& id : counts.no_marker_ids) ids.push_back(id);
  for (const auto& [rule, n] : counts.rules) rules.set(rule, n);
  return json::Value::object()
      .set("records", static_cast<int64_t>(study.records().size()))
      .set("outputs", counts.outputs)
      .set("explanations", static_cast<int64_t>(study.explanations().size()))
      .set("sentences", counts.sentences)
      .set("outputs_without_marker", counts.no_marker)
      .set("outputs_without_explanation", counts.no_explanation)
      .set("outputs_cut_at_max_tokens", counts.truncated)
      .set("sentences_without_a_mistake", counts.no_mistake)
      .set("sentences_without_a_paraphrase", counts.no_paraphrase)
      .set("altered_explanations_too_long", counts.too_long)
      .set("rules", std::move(rules))
      .set("without_marker", std::move(ids));
}

std::string percent(const MeanEstimate& mean) {
  if (std::isnan(mean.mean)) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.1f [%.1f, %.1f]", 100 * mean.mean, 100 * mean.ci.lo, 100 * mean.ci.hi);
  return text;
}

std::string number(const MeanEstimate& mean) {
  if (std::isnan(mean.mean)) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.3f [%.3f, %.3f]", mean.mean, mean.ci.lo, mean.ci.hi);
  return text;
}

}  // namespace

FaithfulnessFindings faithfulness_findings(const FaithfulnessStudy& study) {
  const FaithfulnessOptions& options = study.options();
  FaithfulnessFindings out;
  for (FaithTest test : faith_tests) {
    std::vector<FaithCurve> curves;
    for (size_t e = 0; e < study.explanations().size(); ++e) {
      FaithCurve curve = study.curve(e, test);
      if (!curve.points.empty()) curves.push_back(std::move(curve));
    }
    if (curves.empty()) continue;
    out.tests.push_back({test, mean_curves(curves, options.seed, options.resamples, options.threads),
                         mean_areas(curves, options.seed, options.resamples, options.threads)});
  }
  out.alterations = alterations_of(study);
  UnitValues full, without, reasked;
  for (const FaithCase& one : study.cases()) {
    if (one.too_long) continue;
    const int64_t unit = unit_of(study, one);
    if (one.correct && one.kind == CaseKind::full) full.add(*one.correct, unit);
    if (one.correct && one.kind == CaseKind::early && one.step == 0) without.add(*one.correct, unit);
    if (one.kind != CaseKind::full) continue;
    const Explanation& of = study.explanations()[one.explanation];
    const auto output = of.record * static_cast<size_t>(options.samples) + static_cast<size_t>(of.sample);
    const std::string& text = study.outputs()[output].text;
    if (const auto cut = cut_at_marker(text, options.marker)) {
      const std::string first = answer_line(std::string_view(text).substr(cut->answer_begin));
      reasked.add(normalize_answer(first) == normalize_answer(one.answer), unit);
    }
  }
  Means means(options);
  means.add(&out.correct_full, full);
  means.add(&out.correct_without, without);
  means.add(&out.reasked, reasked);
  means.fill();
  return out;
}

void write_findings(const FaithfulnessStudy& study, const FaithfulnessFindings& findings, const json::Value& settings,
                    const std::filesystem::path& dir) {
  write_file_atomically(dir / "samples.jsonl", samples_jsonl(study));
  write_file_atomically(dir / "curves.csv", curves_csv(findings));
  write_file_atomically(dir / "aoc.csv", aoc_csv(findings));
  write_file_atomically(dir / "routing.csv", routing_csv(findings));
  if (study.options().routes) write_file_atomically(dir / "routing_layers.csv", routing_layers_csv(study));
  json::Value aoc = json::Value::object();
  for (const auto& test : findings.tests) aoc.set(faith_test_name(test.test), mean_value(test.areas.back().area));
  const json::Value summary = json::Value::object()
                                  .set("settings", settings)
                                  .set("resampling_unit", "record (pair)")
                                  .set("resamples", study.options().resamples)
                                  .set("seed", study.options().seed)
                                  .set("counts", counts_value(study))
                                  .set("correct_with_explanation", mean_value(findings.correct_full))
                                  .set("correct_without_explanation", mean_value(findings.correct_without))
                                  .set("answer_as_first_written", mean_value(findings.reasked))
                                  .set("aoc", std::move(aoc));
  write_file_atomically(dir / "summary.json", json::dump(summary, 2) + "\n");
}

std::string findings_table(const FaithfulnessStudy& study, const FaithfulnessFindings& findings) {
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
  out += "answer as first written, %: " + percent(findings.reasked) + "\n\n";
  out += "test             explanations  area over the curve\n";
  for (const auto& test : findings.tests) {
    const AreaRow& all = test.areas.back();
    std::snprintf(line, sizeof line, "%-15s  %12ld  %s\n", faith_test_name(test.test), static_cast<long>(all.area.n),
                  number(all.area).c_str());
    out += line;
  }
  out +=
      "\nalteration                   n  same answer, %         correct, %             again  Jaccard of the answer's "
      "routes\n";
  for (const AlterationRow& row : findings.alterations) {
    std::string name = row.test;
    if (!row.policy.empty()) {
      std::snprintf(line, sizeof line, " %s %g", row.policy.c_str(), row.fraction);
      name += line;
    }
    std::snprintf(line, sizeof line, "%-24s %5ld  %-21s  %-21s  %5ld  %s\n", name.c_str(),
                  static_cast<long>(row.same.n), percent(row.same).c_str(), percent(row.correct).c_str(),
                  static_cast<long>(row.explained_again), number(row.jaccard).c_str());
    out += line;
  }
  return out;
}

}  // namespace signalbox
