#include "eval/faithfulness/findings.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "base/no_number.h"
#include "eval/score/answers.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

namespace {

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
    ++row.n;
    if (one->answered) same.add(one->same, unit);
    row.explained_again += one->explained_again;
    row.restated += !one->restates.empty();
    if (one->correct) correct.add(*one->correct, unit);
    if (one->likeness.empty()) continue;
    const RouteLikeness likeness = one->mean_likeness();
    if (!std::isnan(likeness.weighted)) weighted.add(likeness.weighted, unit);
    if (std::isnan(likeness.jaccard)) continue;
    jaccard.add(likeness.jaccard, unit);
    if (!one->answered) continue;
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

// What is compared with random misrouting; nullopt where it is undefined.
using CaseNumber = std::function<std::optional<double>(const FaithCase&)>;

double share_misrouted(const FaithCase& one) {
  return static_cast<double>(one.distance->tokens) / static_cast<double>(one.ids.size());
}

std::optional<double> defined(double value) { return std::isnan(value) ? std::nullopt : std::optional<double>(value); }

// `same`, share of tokens, experts replaced, mass lost.
const CaseNumber compared[] = {
    [](const FaithCase& one) { return one.answered ? std::optional<double>(one.same) : std::nullopt; },
    [](const FaithCase& one) { return one.distance ? defined(share_misrouted(one)) : std::nullopt; },
    [](const FaithCase& one) { return one.distance ? defined(one.distance->replaced) : std::nullopt; },
    [](const FaithCase& one) { return one.distance ? defined(one.distance->mass_lost) : std::nullopt; }};

// Differences to random misrouting of the same fraction, by explanation.
UnitValues beside_random(const FaithfulnessStudy& study, const Group& group, const Group& random,
                         const CaseNumber& value) {
  std::map<size_t, const FaithCase*> by_explanation;
  for (const FaithCase* one : random) by_explanation[one->explanation] = one;
  UnitValues out;
  for (const FaithCase* one : group)
    if (const auto found = by_explanation.find(one->explanation); found != by_explanation.end()) {
      const auto mine = value(*one), other = value(*found->second);
      if (mine && other) out.add(*mine - *other, unit_of(study, *one));
    }
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
    row.fraction = no_number;
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
    MeanEstimate* const own[] = {nullptr, &rows[r].tokens_misrouted, &rows[r].replaced, &rows[r].mass_lost};
    for (size_t v = 1; v < std::size(compared); ++v) {
      UnitValues values;
      for (const FaithCase* one : groups[r])
        if (const auto value = compared[v](*one)) values.add(*value, unit_of(study, *one));
      means.add(own[v], values);
    }
    const Group* random = nullptr;
    if (rows[r].test == std::string("misroute") && rows[r].policy != "random")
      for (size_t other = 0; other < rows.size(); ++other)
        if (rows[other].policy == "random" && rows[other].fraction == rows[r].fraction) random = &groups[other];
    MeanEstimate* const beyond[] = {&rows[r].beyond_random, &rows[r].tokens_beyond_random,
                                    &rows[r].replaced_beyond_random, &rows[r].mass_lost_beyond_random};
    for (size_t v = 0; v < std::size(compared); ++v) {
      const UnitValues beside = random ? beside_random(study, groups[r], *random, compared[v]) : UnitValues();
      means.add(beyond[v], beside);
      if (v == 0) differences[r] = beside.clustered();
    }
  }
  means.fill();
  const auto ps = sign_flip_ps(differences, study.options().seed, study.options().resamples, study.options().threads);
  for (size_t r = 0; r < rows.size(); ++r) rows[r].p_beyond_random = ps[r];
  return rows;
}

Yardstick yardstick_of(const FaithfulnessStudy& study) {
  Yardstick out;
  UnitValues jaccard, weighted;
  for (const FaithCase& one : study.cases()) {
    if (one.kind != CaseKind::yardstick || one.likeness.empty()) continue;
    const RouteLikeness likeness = one.mean_likeness();
    if (!std::isnan(likeness.jaccard)) jaccard.add(likeness.jaccard, unit_of(study, one));
    if (!std::isnan(likeness.weighted)) weighted.add(likeness.weighted, unit_of(study, one));
  }
  Means means(study.options());
  means.add(&out.jaccard, jaccard);
  means.add(&out.weighted, weighted);
  means.fill();
  std::vector<double> sorted = jaccard.values;
  std::sort(sorted.begin(), sorted.end());
  out.q01 = quantile(sorted, 0.01);
  out.q05 = quantile(sorted, 0.05);
  out.q10 = quantile(sorted, 0.1);
  out.median = quantile(sorted, 0.5);
  const auto below = std::lower_bound(sorted.begin(), sorted.end(), study.options().moved_below) - sorted.begin();
  out.moved = sorted.empty() ? no_number : static_cast<double>(below) / static_cast<double>(sorted.size());
  return out;
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
  out.forced = forced_findings(study);
  out.yardstick = yardstick_of(study);
  UnitValues full, without, reasked;
  for (const FaithCase& one : study.cases()) {
    if (!one.answered) continue;
    const int64_t unit = unit_of(study, one);
    if (one.correct && one.kind == CaseKind::full) full.add(*one.correct, unit);
    if (one.correct && one.kind == CaseKind::early && one.step == 0) without.add(*one.correct, unit);
    if (one.kind != CaseKind::full) continue;
    const Explanation& of = study.explanations()[one.explanation];
    if (cut_at_marker(study.outputs()[of.output].text, options.marker))
      reasked.add(normalize_answer(of.first_answer) == normalize_answer(one.answer), unit);
  }
  Means means(options);
  means.add(&out.correct_full, full);
  means.add(&out.correct_without, without);
  means.add(&out.reasked, reasked);
  means.fill();
  return out;
}

}  // namespace signalbox::eval
