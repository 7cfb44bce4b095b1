// metrics.json against hand-computed values. Intervals were computed once with numpy (2,000,000 multinomial draws) and
// p-values by enumerating all sign patterns; McNemar's with scipy.stats.binomtest.
#include "eval/findings/results.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "eval/findings/metrics_file.h"
#include "eval/statistics/paired.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

const std::vector<double> base_values = {1, 1, 1, 0, 1, 1, 0, 1}, off_values = {0, 0, 1, 0, 0, 1, 1, 0};

MetricValues all_records(std::vector<double> values) {
  MetricValues out;
  for (size_t i = 0; i < values.size(); ++i) out.records.push_back(static_cast<int64_t>(i));
  out.values = std::move(values);
  return out;
}

InterventionValues intervention(const std::string& name, std::vector<double> em) {
  InterventionValues out;
  out.name = name;
  out.metrics["em"] = all_records(std::move(em));
  return out;
}

InterventionValues control(const std::string& of, ControlKind kind, int number, std::vector<double> em) {
  InterventionValues out = intervention(of + "/control-" + std::to_string(number), std::move(em));
  out.control_of = of;
  out.control = kind;
  return out;
}

RunValues small_run() {
  RunValues run;
  run.metrics = {"em"};
  run.baseline = "baseline";
  for (int i = 0; i < 8; ++i) run.clusters.push_back("r" + std::to_string(i));
  run.conditions.assign(8, "");
  run.resamples = 20000;
  run.interventions = {intervention("baseline", base_values), intervention("off", off_values)};
  return run;
}

json::Value json_of(const RunValues& run, int n_threads = 0) { return metrics_json(run_findings(run, n_threads)); }

const json::Value& at(const json::Value& value, std::initializer_list<const char*> path) {
  const json::Value* here = &value;
  for (const char* key : path) {
    here = here->find(key);
    REQUIRE_MESSAGE(here != nullptr, key);
  }
  return *here;
}

double real(const json::Value& value, std::initializer_list<const char*> path) {
  const json::Value& found = at(value, path);
  REQUIRE(found.is_number());
  return found.real();
}

const std::vector<double> x = {0.3, -1.2, 2.5, 0.7, 1.9, -0.4, 3.1, 0.05, 1.4, 2.2, -0.9, 0.6};

ClusteredValues singles(const std::vector<double>& values) { return {values, std::vector<double>(values.size(), 1.0)}; }

}  // namespace

TEST_CASE("paired: intervals and p of one column, by numpy and by enumeration") {
  const std::vector<int64_t> labels = {9, 4, 4, 0, 0, 0, 7, 2, 2, 2, 2, 2};
  const ClusteredValues clusters = cluster_values(x, labels);
  REQUIRE(clusters.counts == std::vector<double>{1, 2, 3, 1, 5});
  CHECK(clusters.sums[1] == doctest::Approx(1.3));
  const std::vector<ClusteredValues> columns = {singles(x), clusters};
  const auto means = bootstrap_means(columns, 0, 200000, 2);
  CHECK(means[0].mean == doctest::Approx(0.8541666666666666).epsilon(1e-12));
  CHECK(means[0].n == 12);
  CHECK(means[0].ci.lo == doctest::Approx(0.11666667).epsilon(0.06));
  CHECK(means[0].ci.hi == doctest::Approx(1.60416667).epsilon(0.01));
  CHECK(means[1].mean == doctest::Approx(0.8541666666666666).epsilon(1e-12));
  CHECK(means[1].n == 12);
  CHECK(means[1].ci.lo == doctest::Approx(0.58461538).epsilon(0.02));
  CHECK(means[1].ci.hi == doctest::Approx(1.68571429).epsilon(0.02));
  const auto p = sign_flip_ps(columns, 0, 200000, 2);
  CHECK(p[0] == doctest::Approx(0.0576171875).epsilon(0.03));
  CHECK(p[1] == doctest::Approx(0.0625).epsilon(0.03));
}

TEST_CASE("paired: agrees with the resampling of single means") {
  const std::vector<int64_t> labels = {0, 1, 1, 2, 2, 2, 3, 4, 4, 4, 4, 4};
  const std::vector<ClusteredValues> columns = {singles(x), cluster_values(x, labels)};
  const auto means = bootstrap_means(columns, 3, 4001, 1);
  const auto p = sign_flip_ps(columns, 3, 4001, 1);
  const MeanEstimate plain = bootstrap_mean(x, {}, 3, 4001), grouped = bootstrap_mean(x, labels, 3, 4001);
  CHECK(means[0].mean == doctest::Approx(plain.mean));
  CHECK(means[0].ci.lo == doctest::Approx(plain.ci.lo).epsilon(1e-10));
  CHECK(means[0].ci.hi == doctest::Approx(plain.ci.hi).epsilon(1e-10));
  CHECK(means[1].ci.lo == doctest::Approx(grouped.ci.lo).epsilon(1e-10));
  CHECK(means[1].ci.hi == doctest::Approx(grouped.ci.hi).epsilon(1e-10));
  CHECK(p[0] == doctest::Approx(sign_flip_p(x, {}, 3, 4001)).epsilon(1e-10));
  CHECK(p[1] == doctest::Approx(sign_flip_p(x, labels, 3, 4001)).epsilon(1e-10));
}

TEST_CASE("paired: a column's numbers depend neither on the others nor on threads") {
  std::vector<ClusteredValues> many;
  for (int c = 0; c < 600; ++c) {  // more than are held at once
    std::vector<double> values = x;
    for (double& value : values) value += 0.01 * c;
    if (c % 3 == 1) values.pop_back();
    std::vector<int64_t> halves(values.size(), 1);
    halves[0] = 0;
    many.push_back(c % 5 == 2 ? cluster_values(values, halves) : singles(values));
  }
  const auto one = bootstrap_means(many, 5, 1001, 1), three = bootstrap_means(many, 5, 1001, 3);
  const auto p_one = sign_flip_ps(many, 5, 1001, 1), p_three = sign_flip_ps(many, 5, 1001, 3);
  for (size_t c = 0; c < many.size(); ++c) {
    REQUIRE(one[c].ci.lo == three[c].ci.lo);
    REQUIRE(one[c].ci.hi == three[c].ci.hi);
    REQUIRE(p_one[c] == p_three[c]);
  }
  for (size_t c : {0, 1, 2, 599}) {
    const auto alone = bootstrap_means(std::span(many).subspan(c, 1), 5, 1001, 2);
    CHECK(alone[0].ci.lo == one[c].ci.lo);
    CHECK(alone[0].ci.hi == one[c].ci.hi);
    CHECK(sign_flip_ps(std::span(many).subspan(c, 1), 5, 1001, 2)[0] == p_one[c]);
  }
  CHECK(bootstrap_means(many, 6, 1001, 1)[0].ci.lo != one[0].ci.lo);
}

TEST_CASE("paired: no values, one cluster, values that are not finite") {
  const std::vector<ClusteredValues> columns = {
      {}, cluster_values(x, std::vector<int64_t>(12, 3)), singles({1, INFINITY, 2}), singles({0, 0, 0})};
  const auto means = bootstrap_means(columns, 0, 500, 1);
  const auto p = sign_flip_ps(columns, 0, 500, 1);
  CHECK((std::isnan(means[0].mean) && std::isnan(means[0].ci.lo) && means[0].n == 0 && std::isnan(p[0])));
  CHECK((means[1].n == 12 && std::isnan(means[1].ci.lo) && std::isnan(means[1].ci.hi)));
  CHECK(p[1] == 1);  // flipping all signs at once changes nothing
  CHECK((std::isnan(means[2].ci.lo) && std::isnan(p[2]) && means[2].n == 3));
  CHECK((means[3].mean == 0 && means[3].ci.lo == 0 && means[3].ci.hi == 0 && p[3] == 1));
}

TEST_CASE("results: means, differences, p and McNemar of eight records") {
  const json::Value out = json_of(small_run());
  CHECK(at(out, {"schema"}).string() == "signalbox.metrics/1");
  CHECK(at(out, {"baseline"}).string() == "baseline");
  CHECK(at(out, {"resamples"}).integer() == 20000);
  CHECK(real(out, {"interventions", "baseline", "em", "mean"}) == 0.75);
  CHECK(real(out, {"interventions", "off", "em", "mean"}) == 0.375);
  CHECK(at(out, {"interventions", "off", "em", "n"}).integer() == 8);
  CHECK(real(out, {"contrasts", "off", "em", "diff"}) == -0.375);
  // The exact interval of 1 change up and 4 down of 8 (eval/statistics/changes.h, by scipy's beta quantiles).
  CHECK(real(out, {"contrasts", "off", "em", "ci_lo"}) == doctest::Approx(-0.6949606131).epsilon(1e-6));
  CHECK(real(out, {"contrasts", "off", "em", "ci_hi"}) == doctest::Approx(0.2981826632).epsilon(1e-6));
  CHECK(real(out, {"contrasts", "off", "em", "p"}) == doctest::Approx(0.375).epsilon(0.03));
  CHECK(real(out, {"contrasts", "off", "em", "q"}) == real(out, {"contrasts", "off", "em", "p"}));
  CHECK(real(out, {"contrasts", "off", "em", "mcnemar_p"}) == doctest::Approx(0.375).epsilon(1e-12));
  CHECK(at(out, {"contrasts", "off", "em", "n"}).integer() == 8);
  for (const char* key : {"control_mean", "control_lo", "control_hi", "control_rank"})
    CHECK(at(out, {"contrasts", "off", "em", key}).is_null());
  CHECK(at(out, {"contrasts", "off", "em", "n_controls"}).integer() == 0);
  CHECK(at(out, {"contrasts"}).find("baseline") == nullptr);
  CHECK(out.find("conditions") == nullptr);
}

TEST_CASE("results: pairs are resampled and flipped whole") {
  RunValues run = small_run();
  run.clusters = {"a", "a", "b", "b", "c", "c", "d", "d"};
  const json::Value out = json_of(run);
  CHECK(real(out, {"contrasts", "off", "em", "diff"}) == -0.375);
  CHECK(real(out, {"contrasts", "off", "em", "p"}) == doctest::Approx(0.5).epsilon(0.03));
  // Changes that pairs share are fewer changes: two pairs down, two as they were.
  run.interventions[0] = intervention("baseline", {1, 1, 1, 1, 1, 1, 1, 1});
  run.interventions[1] = intervention("off", {0, 0, 1, 1, 0, 0, 1, 1});
  const json::Value shared = json_of(run);
  run.clusters = {"a", "b", "c", "d", "e", "f", "g", "h"};
  const json::Value apart = json_of(run);
  CHECK(real(shared, {"contrasts", "off", "em", "ci_lo"}) < real(apart, {"contrasts", "off", "em", "ci_lo"}) - 0.05);
  // Four units have no p below 0.125, eight have: 0.125 here too, for four of them change.
  for (const json::Value& out : {shared, apart}) CHECK(real(out, {"contrasts", "off", "em", "ci_hi"}) >= 0);
}

TEST_CASE("results: only records that both sides have are compared") {
  RunValues run = small_run();
  run.interventions[0].metrics["em"] = {{0, 2, 3, 5}, {1, 0.5, 0, 1}};
  run.interventions[1].metrics["em"] = {{1, 2, 3, 4, 7}, {1, 1, 0.25, 0, 1}};
  const json::Value out = json_of(run);
  CHECK(at(out, {"interventions", "off", "em", "n"}).integer() == 5);
  CHECK(real(out, {"interventions", "off", "em", "mean"}) == 0.65);
  CHECK(at(out, {"contrasts", "off", "em", "n"}).integer() == 2);
  CHECK(real(out, {"contrasts", "off", "em", "diff"}) == 0.375);  // (0.5 + 0.25) / 2
  CHECK(at(out, {"contrasts", "off", "em", "mcnemar_p"}).is_null());
}

TEST_CASE("results: an intervention that changes nothing, and one without values") {
  RunValues run = small_run();
  run.interventions.push_back(intervention("same", base_values));
  run.interventions.push_back(intervention("none", {}));
  const json::Value out = json_of(run);
  CHECK(real(out, {"contrasts", "same", "em", "diff"}) == 0);
  // Eight records without a change leave room for a rate of 0.369: 1 - 0.025^(1/8).
  CHECK(real(out, {"contrasts", "same", "em", "ci_hi"}) == doctest::Approx(0.3694166476).epsilon(1e-6));
  CHECK(real(out, {"contrasts", "same", "em", "ci_lo"}) == -real(out, {"contrasts", "same", "em", "ci_hi"}));
  CHECK(real(out, {"contrasts", "same", "em", "p"}) == 1);
  CHECK(real(out, {"contrasts", "same", "em", "q"}) == 1);
  CHECK(real(out, {"contrasts", "same", "em", "mcnemar_p"}) == 1);
  for (const char* key : {"diff", "ci_lo", "ci_hi", "p", "q", "mcnemar_p", "control_rank"})
    CHECK(at(out, {"contrasts", "none", "em", key}).is_null());
  CHECK(at(out, {"interventions", "none", "em", "mean"}).is_null());
  CHECK(at(out, {"interventions", "none", "em", "n"}).integer() == 0);
}

TEST_CASE("results: the place among random controls, ties against the effect") {
  RunValues run = small_run();                                                                    // off: -0.375
  run.interventions.push_back(control("off", ControlKind::random, 0, {0, 0, 0, 0, 1, 1, 0, 1}));  // -3/8: a tie
  run.interventions.push_back(control("off", ControlKind::random, 1, {1, 1, 1, 1, 1, 1, 1, 1}));  // +2/8
  run.interventions.push_back(control("off", ControlKind::random, 2, {0, 0, 0, 0, 0, 0, 0, 0}));  // -6/8
  run.interventions.push_back(control("off", ControlKind::random, 3, base_values));               // 0
  run.interventions.push_back(control("off", ControlKind::frequency_matched, 4, {1, 1, 1, 0, 1, 0, 0, 1}));  // -1/8
  run.interventions.push_back(control("off", ControlKind::bottom, 5, {1, 0, 1, 0, 1, 0, 0, 1}));             // -2/8
  const json::Value out = json_of(run);
  const json::Value& off = at(out, {"contrasts", "off", "em"});
  CHECK(real(off, {"control_mean"}) == -0.21875);
  // Percentiles of -0.75 -0.375 0 0.25: numpy.percentile(.., [2.5, 97.5])
  CHECK(real(off, {"control_lo"}) == doctest::Approx(-0.721875).epsilon(1e-12));
  CHECK(real(off, {"control_hi"}) == doctest::Approx(0.23125).epsilon(1e-12));
  CHECK(at(off, {"control_rank"}).integer() == 3);
  CHECK(at(off, {"n_controls"}).integer() == 4);
  CHECK(at(off, {"frequency_matched", "rank"}).integer() == 1);
  CHECK(real(off, {"frequency_matched", "mean"}) == -0.125);
  CHECK(at(off, {"frequency_matched", "n"}).integer() == 1);
  CHECK(real(off, {"bottom_diff"}) == -0.25);
  // Controls are interventions of the run, with no controls of their own.
  CHECK(at(out, {"contrasts", "off/control-0", "em", "control_rank"}).is_null());
  CHECK(at(out, {"contrasts", "off/control-0", "em"}).find("bottom_diff") == nullptr);
  CHECK(at(out, {"about", "off/control-0", "control_of"}).string() == "off");
  CHECK(at(out, {"about", "off/control-4", "control"}).string() == "frequency_matched");
  CHECK(at(out, {"about", "off", "control"}).is_null());
}

// The p and q of the contrasts that have a q, by p, as NAME.METRIC.
std::vector<std::tuple<double, double, std::string>> family_of(const json::Value& contrasts) {
  std::vector<std::tuple<double, double, std::string>> out;
  for (const auto& [name, metrics] : contrasts.members())
    for (const auto& [metric, contrast] : metrics.members())
      if (!at(contrast, {"q"}).is_null())
        out.emplace_back(real(contrast, {"p"}), real(contrast, {"q"}), name + "." + metric);
  std::sort(out.begin(), out.end());
  return out;
}

// Benjamini-Hochberg, written out.
void check_family(const std::vector<std::tuple<double, double, std::string>>& family) {
  double least = 1;
  for (size_t rank = family.size(); rank > 0; --rank) {
    const auto& [p, q, label] = family[rank - 1];
    const std::string& name = label;
    least = std::min(least, p * static_cast<double>(family.size()) / static_cast<double>(rank));
    CHECK_MESSAGE(q == doctest::Approx(least).epsilon(1e-12), name);
  }
}

std::string names_of(const std::vector<std::tuple<double, double, std::string>>& family) {
  std::vector<std::string> names;
  for (const auto& one : family) names.push_back(std::get<2>(one));
  std::sort(names.begin(), names.end());
  return joined(names, " ");
}

TEST_CASE("results: q over the primary contrasts, and over the audit's by themselves") {
  RunValues run = small_run();
  run.metrics = {"em", "f1", "kl"};
  run.interventions.push_back(control("off", ControlKind::random, 0, {0, 0, 0, 0, 0, 0, 0, 0}));
  run.interventions.push_back(intervention("none", {}));
  run.interventions.push_back(intervention("more", {0, 0, 0, 0, 0, 0, 0, 1}));
  run.interventions.push_back(intervention("audit/L1E2", {0, 0, 0, 0, 0, 1, 0, 0}));
  run.interventions.push_back(intervention("audit/L1E3", base_values));
  for (size_t i : {5, 6}) run.interventions[i].audited = ExpertId{1, static_cast<int32_t>(i) - 3};
  for (const char* metric : {"f1", "kl"}) {
    run.interventions[0].metrics[metric] = all_records({0, 0, 0, 0, 0, 0, 0, 0});
    run.interventions[1].metrics[metric] = all_records({1, 1, 1, 1, 1, 1, 1, 1});
  }
  json::Value out = json_of(run);
  // Controls have no q, kl is above 0 by definition, and "none" has no values.
  auto family = family_of(at(out, {"contrasts"}));
  CHECK(names_of(family) == "audit/L1E2.em audit/L1E3.em more.em off.em off.f1");
  CHECK(real(out, {"contrasts", "off", "kl", "p"}) < 0.05);
  CHECK(json::dump(at(out, {"primary"})) == R"({"interventions":["off","none","more"],"metrics":["em","f1"]})");
  const auto is_audit = [](const auto& one) { return std::get<2>(one).starts_with("audit"); };
  auto audit = family;
  std::erase_if(audit, [&](const auto& one) { return !is_audit(one); });
  std::erase_if(family, is_audit);
  check_family(audit);
  check_family(family);
  // More controls and experts change no q; what is primary is what the spec says.
  run.interventions.push_back(control("off", ControlKind::random, 1, {0, 0, 0, 0, 0, 0, 0, 1}));
  CHECK(real(json_of(run), {"contrasts", "more", "em", "q"}) == real(out, {"contrasts", "more", "em", "q"}));
  run.primary = PrimaryContrasts{{"off"}, {"f1", "kl"}};
  out = json_of(run);
  family = family_of(at(out, {"contrasts"}));
  CHECK(names_of(family) == "audit/L1E2.em audit/L1E3.em off.f1 off.kl");
  CHECK(real(out, {"contrasts", "off", "f1", "q"}) == real(out, {"contrasts", "off", "f1", "p"}));
  CHECK(at(out, {"contrasts", "off", "em", "q"}).is_null());
}

TEST_CASE("results: comparisons with controls, with other interventions, and between conditions") {
  RunValues run = small_run();                                                                    // off: -3/8
  run.interventions.push_back(control("off", ControlKind::random, 0, {1, 1, 1, 1, 1, 1, 1, 1}));  // +2/8
  run.interventions.push_back(control("off", ControlKind::random, 1, {0, 1, 1, 0, 1, 1, 0, 1}));  // -1/8
  run.interventions.push_back(intervention("more", {0, 0, 0, 0, 0, 1, 0, 0}));                    // -5/8
  run.conditions = {"a", "a", "b", "b", "a", "c", "b", ""};
  run.margins["em"] = 0.5;
  const json::Value out = json_of(run);
  const json::Value& off = at(out, {"contrasts", "off", "em"});
  CHECK(real(off, {"vs_controls", "diff"}) == doctest::Approx(-0.375 - 0.0625));
  CHECK(real(off, {"vs_controls", "ci_lo"}) < -0.4375);
  CHECK(real(off, {"vs_controls", "p"}) > 0.05);
  CHECK(real(off, {"vs_controls", "ci_hi"}) >= 0);
  CHECK(at(off, {"n_controls"}).integer() == 2);
  CHECK(at(off, {"few_controls"}).boolean());
  CHECK(at(off, {"n_units"}).integer() == 8);
  // Without a column of its own a comparison of two interventions is a contrast with the other as baseline.
  CHECK(at(off, {"versus"}).members().size() == 1);
  RunValues turned = run;
  turned.baseline = "more";
  turned.margins.clear();
  for (const char* key : {"diff", "ci_lo", "ci_hi", "p"})
    CHECK(real(off, {"versus", "more", key}) == real(json_of(turned), {"contrasts", "off", "em", key}));
  CHECK(real(off, {"versus", "more", "diff"}) == 0.25);
  const json::Value& more = at(out, {"contrasts", "more", "em"});
  CHECK(real(more, {"versus", "off", "ci_lo"}) == -real(off, {"versus", "more", "ci_hi"}));
  CHECK(more.find("vs_controls") == nullptr);
  CHECK(more.find("few_controls") == nullptr);
  // a: -1 -1 -1; b: 0 0 1; c: 0.
  std::vector<std::string> names;
  for (const auto& [name, unused] : at(off, {"by_condition"}).members()) names.push_back(name);
  CHECK(joined(names, ", ") == "a - b, a - c, b - c");
  CHECK(real(off, {"by_condition", "a - b", "diff"}) == doctest::Approx(-4.0 / 3));
  CHECK(real(off, {"by_condition", "a - b", "p"}) == doctest::Approx(0.1).epsilon(0.2));  // 2 of 20 relabellings
  CHECK(at(out, {"conditions", "a", "contrasts", "off", "em"}).find("by_condition") == nullptr);
  CHECK(at(out, {"conditions", "a", "contrasts", "off", "em"}).find("versus") != nullptr);
  CHECK(real(off, {"equivalence", "margin"}) == 0.5);
  CHECK(real(off, {"equivalence", "p"}) > 0.05);
  CHECK_FALSE(at(off, {"equivalence", "equivalent"}).boolean());
  CHECK(real(off, {"mde"}) > 0.3);
  // Controls are in none of this.
  for (const char* key : {"vs_controls", "versus", "by_condition", "equivalence"})
    CHECK(at(out, {"contrasts", "off/control-0", "em"}).find(key) == nullptr);
}

TEST_CASE("results: perplexities are tested on their logarithms, and one unit has no interval") {
  RunValues run = small_run();
  run.metrics = {"ppl", "nll"};
  // Four times as much or a quarter, as often: in logarithms no difference, in differences one.
  const std::vector<double> before = {1, 2, 3, 4, 5, 6, 7, 8}, factor = {4, 0.25, 4, 0.25, 4, 0.25, 4, 0.25};
  std::vector<double> after, nll;
  for (size_t i = 0; i < before.size(); ++i) {
    after.push_back(before[i] * factor[i]);
    nll.push_back(std::log(before[i]));
  }
  for (size_t i : {0, 1}) run.interventions[i].metrics.clear();
  run.interventions[0].metrics["ppl"] = all_records(before);
  run.interventions[1].metrics["ppl"] = all_records(after);
  run.interventions[0].metrics["nll"] = all_records(nll);
  for (double& value : nll) value += std::log(factor[static_cast<size_t>(&value - nll.data())]);
  run.interventions[1].metrics["nll"] = all_records(nll);
  json::Value out = json_of(run);
  CHECK(real(out, {"contrasts", "off", "ppl", "p"}) == 1);
  CHECK(real(out, {"contrasts", "off", "ppl", "p"}) == real(out, {"contrasts", "off", "nll", "p"}));
  CHECK(real(out, {"contrasts", "off", "ppl", "diff"}) == doctest::Approx((3 * 16 - 0.75 * 20) / 8));

  run.clusters.assign(8, "the same");
  out = json_of(run);
  for (const char* metric : {"ppl", "nll"}) {
    CHECK(at(out, {"contrasts", "off", metric, "n_units"}).integer() == 1);
    for (const char* key : {"ci_lo", "ci_hi", "mde"}) CHECK(at(out, {"contrasts", "off", metric, key}).is_null());
    CHECK(at(out, {"interventions", "off", metric, "ci_lo"}).is_null());
  }
}

TEST_CASE("results: by condition, where there are two") {
  RunValues run = small_run();
  run.conditions = {"with", "with", "with", "without", "without", "without", "", ""};
  const json::Value out = json_of(run);
  CHECK(at(out, {"conditions"}).members().size() == 2);
  CHECK(real(out, {"conditions", "with", "interventions", "off", "em", "mean"}) == doctest::Approx(1.0 / 3));
  CHECK(real(out, {"conditions", "with", "contrasts", "off", "em", "diff"}) == doctest::Approx(-2.0 / 3));
  CHECK(real(out, {"conditions", "without", "contrasts", "off", "em", "diff"}) == doctest::Approx(-1.0 / 3));
  CHECK(at(out, {"conditions", "without", "contrasts", "off", "em", "n"}).integer() == 3);
  CHECK(real(out, {"contrasts", "off", "em", "diff"}) == -0.375);
  // p by enumeration of the signs: {1, 1, 0} all extreme patterns 2 of 4; {0, 1, 0} always. One family over both.
  CHECK(at(out, {"contrasts", "off", "em", "by_condition", "with - without"}).members().size() == 4);
  CHECK(real(out, {"conditions", "with", "contrasts", "off", "em", "p"}) == doctest::Approx(0.5).epsilon(0.03));
  CHECK(real(out, {"conditions", "with", "contrasts", "off", "em", "q"}) == doctest::Approx(1).epsilon(0.03));
  CHECK(real(out, {"conditions", "without", "contrasts", "off", "em", "p"}) == 1);
  run.conditions.assign(8, "with");
  CHECK(json_of(run).find("conditions") == nullptr);
}

TEST_CASE("results: the same bytes whatever the threads, other bytes for another seed") {
  RunValues run = small_run();
  run.interventions[1].grid = {{"policy", "random"}, {"fraction", 0.25}};
  run.interventions[1].metrics["em"].values[0] = 0.3;
  const std::string one = json::dump(json_of(run, 1));
  CHECK(one == json::dump(json_of(run, 3)));
  CHECK(one.find("\"grid\":{\"policy\":\"random\",\"fraction\":0.25}") != std::string::npos);
  CHECK(one.find("\"ci_hi\"") != std::string::npos);
  run.seed = 1;
  CHECK(one != json::dump(json_of(run, 1)));
}

TEST_CASE("results: metrics.json read back says the same") {
  RunValues run = small_run();
  run.metrics = {"em", "f1"};
  run.seed = 18446744073709551615u;
  run.conditions = {"with", "with", "with", "without", "without", "without", "", ""};
  run.interventions[0].metrics["f1"] = all_records({0.1, 0.2, 1.0 / 3, 0.4, 0.5, 0.6, 0.7, 0.8});
  run.interventions[1].description = "ban 2 experts";
  run.interventions.push_back(control("off", ControlKind::random, 0, {0, 0, 0, 0, 1, 1, 0, 1}));
  run.interventions.push_back(control("off", ControlKind::frequency_matched, 1, {1, 1, 1, 0, 1, 0, 0, 1}));
  run.interventions.push_back(control("off", ControlKind::bottom, 2, {1, 0, 1, 0, 1, 0, 0, 1}));
  run.interventions.push_back(intervention("mis/policy=random,fraction=0.5", {0, 0, 1, 1, 0, 0, 1, 1}));
  run.interventions.back().grid = {{"policy", "random"}, {"fraction", 0.5}};
  run.interventions.push_back(intervention("audit/L3E15", {1, 1, 1, 1, 1, 1, 1, 1}));
  run.margins["em"] = 0.1;
  run.interventions[1].use = 0.125;
  run.interventions[2].shared = 2;
  run.interventions[1].first_seed_only = true;
  RunFindings findings = run_findings(run);
  findings.audit = {{"em", -0.25, std::nullopt, 3}, {"f1", std::nullopt, std::nullopt, 0}};
  const json::Value written = metrics_json(findings);
  const RunFindings read = read_findings(json::Ref(written, "metrics.json"));
  CHECK(json::dump(metrics_json(read)) == json::dump(written));
  CHECK(read.interventions[6].audited == ExpertId{3, 15});
  CHECK(read.interventions[6].entry == "audit");
  CHECK(read.interventions[5].entry == "mis");
  CHECK(read.interventions[5].is_main());
  CHECK_FALSE(read.interventions[2].is_main());
  CHECK(read.mean("off", "em").value == 0.375);
  CHECK(read.interventions[1].use == 0.125);
  CHECK(read.interventions[2].shared == 2);
  CHECK(read.interventions[1].first_seed_only);
  CHECK(read.of_condition("without").contrasts[1][0].difference.n == 3);
  CHECK(std::isnan(read.all.contrasts[1][1].p));
  REQUIRE(read.all.contrasts[1][0].frequency_matched);
  CHECK(read.all.contrasts[1][0].frequency_matched->rank == 1);
  CHECK_FALSE(read.all.contrasts[2][0].bottom);

  for (const char* name :
       {"audit/L3", "audit/L3E", "audit/LE3", "audit/L3E4x", "audit/L99999999999E1", "audit", "L3E4"})
    CHECK_FALSE(parse_audit_name(name));
  json::Value wrong = written;
  wrong.set("seed", -1);
  CHECK_THROWS_WITH_AS(read_findings(json::Ref(wrong, "metrics.json")), doctest::Contains("metrics.json: seed"), Error);
}

TEST_CASE("results: values that do not fit together are refused") {
  const auto refusal = [](auto change) {
    RunValues run = small_run();
    change(run);
    try {
      json_of(run);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refusal([](RunValues& run) { run.baseline = "b"; }) ==
        "results: expected the baseline \"b\" among the interventions, found none");
  CHECK(refusal([](RunValues& run) { run.interventions[1].name = "baseline"; }) ==
        "results: expected names of interventions to differ, found \"baseline\" twice");
  CHECK(refusal([](RunValues& run) { run.interventions[1].metrics["em"].records[1] = 8; }) ==
        "results: off: em: expected records of the run, found index 8");
  CHECK(refusal([](RunValues& run) { run.interventions[1].metrics["em"].records[1] = 0; }) ==
        "results: off: em: expected records in ascending order, found 0 after 0");
  CHECK(refusal([](RunValues& run) { run.interventions[1].metrics["em"].values.pop_back(); }) ==
        "results: off: em: expected a value for every record, found 7 for 8");
  CHECK(refusal([](RunValues& run) { run.interventions[1].metrics["x"]; }) ==
        "results: off: x: expected a metric of the run, found another");
  CHECK(refusal([](RunValues& run) { run.conditions.pop_back(); }).find("found 8 and 7") != std::string::npos);
  CHECK(refusal([](RunValues& run) { run.interventions[1].control_of = "y"; }).find("found \"y\"") !=
        std::string::npos);
}

TEST_CASE("results: intervals of differences cover at their nominal rate") {
  // 400 data sets of 50 differences of mean 0.3, uniform of width 2: how many intervals hold the mean?
  std::vector<ClusteredValues> columns;
  uint64_t state = 1;
  for (int set = 0; set < 400; ++set) {
    std::vector<double> values;
    for (int i = 0; i < 50; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      values.push_back(0.3 + 2 * (static_cast<double>(state >> 33) / 0x1p31 - 0.5));
    }
    columns.push_back(singles(values));
  }
  int covered = 0;
  for (const MeanEstimate& mean : bootstrap_means(columns, 0, 2000, 2))
    covered += mean.ci.lo <= 0.3 && 0.3 <= mean.ci.hi;
  CHECK(covered > 0.91 * 400);
  CHECK(covered < 0.98 * 400);
}

TEST_CASE("results: a large run" * doctest::skip()) {
  // 300 interventions, 10 metrics, 1000 records: run with --no-skip to see the seconds.
  RunValues run;
  run.baseline = "i0";
  for (int m = 0; m < 10; ++m) run.metrics.push_back("m" + std::to_string(m));
  for (int r = 0; r < 1000; ++r) run.clusters.push_back(std::to_string(r));
  run.conditions.assign(1000, "");
  uint64_t state = 1;
  for (int i = 0; i < 300; ++i) {
    run.interventions.push_back({});
    run.interventions.back().name = "i" + std::to_string(i);
    for (const std::string& metric : run.metrics) {
      std::vector<double> values;
      for (int r = 0; r < 1000; ++r) values.push_back((state = state * 6364136223846793005u + 1) >> 63);
      run.interventions.back().metrics[metric] = all_records(values);
    }
  }
  const auto start = std::chrono::steady_clock::now();
  json_of(run, 2);
  MESSAGE(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() << " s");
}
