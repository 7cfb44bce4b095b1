#include "eval/detect/risk_difference.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <span>

#include "base/csv.h"
#include "base/files.h"
#include "eval/data/prompt_hash.h"
#include "eval/detect/bootstrapped.h"
#include "eval/detect/contribution_difference.h"
#include "eval/detect/errors.h"
#include "eval/detect/relabelled.h"
#include "eval/statistics/shrinkage.h"

namespace signalbox::eval {

namespace {

struct Moments {
  double n = 0, mean = 0, variance = 0;  // unbiased; 0 for fewer than two values
};

Moments moments(const std::vector<double>& values) {
  Moments out;
  out.n = static_cast<double>(values.size());
  for (double value : values) out.mean += value / out.n;
  for (double value : values) out.variance += (value - out.mean) * (value - out.mean);
  out.variance = values.size() > 1 ? out.variance / (out.n - 1) : 0;
  return out;
}

// Student's t of a mean against 0; undefined for fewer than two values or values without spread.
void paired_t(const std::vector<double>& differences, RiskDifference& row) {
  const Moments m = moments(differences);
  const double error = std::sqrt(m.variance / m.n);
  // Equal values leave a spread of rounding: no more than that is none.
  if (m.n < 2 || !(error > 1e-14)) return;
  row.t = m.mean / error;
  row.t_p = student_t_p(row.t, m.n - 1);
}

// Welch's t of two means, with Satterthwaite's degrees of freedom.
void welch_t(const std::vector<double>& a, const std::vector<double>& b, RiskDifference& row) {
  const Moments ma = moments(a), mb = moments(b);
  if (ma.n < 2 || mb.n < 2) return;
  const double va = ma.variance / ma.n, vb = mb.variance / mb.n;
  if (!(std::sqrt(va + vb) > 1e-14)) return;
  row.t = (ma.mean - mb.mean) / std::sqrt(va + vb);
  row.t_p = student_t_p(row.t, (va + vb) * (va + vb) / (va * va / (ma.n - 1) + vb * vb / (mb.n - 1)));
}

class Shares {
 public:
  explicit Shares(const ContrastCounts& counts) : counts_(counts), units_(contrast_units(counts)) {}

  double share(size_t record, size_t row) const {
    return static_cast<double>(counts_.selected[record * counts_.n_rows() + row]) /
           static_cast<double>(counts_.records[record].tokens);
  }

  void fill(size_t row, RiskDifference& out) const {
    std::vector<double> a, b, differences;
    for (size_t r = 0; r < counts_.records.size(); ++r) (counts_.records[r].under_b ? b : a).push_back(share(r, row));
    out.rd_example = mean(a) - mean(b);
    if (units_.pairs.empty()) return welch_t(means(units_.only_a, row), means(units_.only_b, row), out);
    for (const auto& pair : units_.pairs) differences.push_back(mean(pair.a, row) - mean(pair.b, row));
    paired_t(differences, out);
  }

 private:
  static double mean(const std::vector<double>& values) {
    double sum = 0;
    for (double value : values) sum += value;
    return sum / static_cast<double>(values.size());
  }
  double mean(const std::vector<size_t>& records, size_t row) const {
    double sum = 0;
    for (size_t record : records) sum += share(record, row);
    return sum / static_cast<double>(records.size());
  }
  std::vector<double> means(const std::vector<std::vector<size_t>>& units, size_t row) const {
    std::vector<double> out;
    for (const std::vector<size_t>& records : units) out.push_back(mean(records, row));
    return out;
  }
  const ContrastCounts& counts_;
  const ContrastUnits units_;
};

DetectionFacts facts_of(const ContrastCounts& counts, const ContrastOptions& options) {
  DetectionFacts facts;
  for (const ContrastRecord& record : counts.records) {
    facts.records.push_back(record.id);
    facts.prompts.push_back(record.prompts);
    ++(record.under_b ? facts.records_b : facts.records_a);
    (record.under_b ? facts.tokens_b : facts.tokens_a) += record.tokens;
  }
  const ContrastUnits units = contrast_units(counts);
  facts.pairs = units.named_pairs;
  facts.pair_examples = static_cast<int64_t>(units.pairs.size());
  facts.examples_a = static_cast<int64_t>(units.only_a.size());
  facts.examples_b = static_cast<int64_t>(units.only_b.size());
  for (const std::vector<size_t>& records : units.only_a) facts.unpaired_a += static_cast<int64_t>(records.size());
  for (const std::vector<size_t>& records : units.only_b) facts.unpaired_b += static_cast<int64_t>(records.size());
  facts.samples = counts.n_samples;
  facts.records_without_tokens = counts.n_records_without_tokens;
  facts.tokens_cut = counts.n_tokens_cut;
  facts.stable_top = std::min(options.stable_top, static_cast<int64_t>(counts.n_rows()));
  facts.smallest_p = std::max(1 / (static_cast<double>(options.resamples) + 1), smallest_relabelling_p(units));
  return facts;
}

std::string of_things(int64_t n, const char* one, const char* many) {
  return std::to_string(n) + " " + (n == 1 ? one : many);
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2g", value);
  return text;
}

// What readers of the tables should know of n and B.
std::vector<std::string> warnings_of(const DetectionFacts& facts, const ContrastOptions& options, size_t n_rows) {
  constexpr int64_t few = 20;
  std::vector<std::string> out;
  const bool paired = facts.pairs > 0;
  const int64_t n = paired ? facts.pair_examples : std::min(facts.examples_a, facts.examples_b);
  const bool copies = paired ? facts.pair_examples < facts.pairs
                             : facts.examples_a < facts.unpaired_a || facts.examples_b < facts.unpaired_b;
  std::string units = paired ? of_things(facts.pairs, "pair", "pairs")
                             : of_things(facts.records_a, "record", "records") + " under \"" + options.a + "\" and " +
                                   std::to_string(facts.records_b) + " under \"" + options.b + "\"";
  if (copies) {
    units += paired ? " that make " + of_things(facts.pair_examples, "example", "examples")
                    : " that make " + std::to_string(facts.examples_a) + " and " + std::to_string(facts.examples_b) +
                          " examples";
    out.push_back(units +
                  ": those that have the same prompt under the same condition are resampled as one; "
                  "nothing is wrong, they only add no certainty");
  }
  if (n == 1) {
    out.push_back(
        units + ": the spread between examples cannot be told from one; intervals and `stable` need two. Record more");
  } else if (n < few) {
    out.push_back(
        units + ": with fewer than " + std::to_string(few) +
        " examples a side intervals are too narrow. Take it for a first look, and add records before you conclude");
  }
  if (paired && facts.unpaired_a + facts.unpaired_b > 0)
    out.push_back(of_things(facts.unpaired_a + facts.unpaired_b, "record", "records") +
                  " outside complete pairs: counted in rd and its interval, no part of p and q. Complete their pairs, "
                  "or leave them out "
                  "(signalbox data check finds them)");
  // Benjamini-Hochberg: k rows at the smallest p have q = p rows / k.
  const double needed = std::floor(facts.smallest_p * static_cast<double>(n_rows) / 0.05) + 1;
  if (needed > 1) {
    const bool by_resamples = facts.smallest_p * (static_cast<double>(options.resamples) + 1) <= 1;
    std::string text = "the smallest p is " + short_number(facts.smallest_p) + " (" +
                       (by_resamples ? std::to_string(options.resamples) + " resamples" : units) + "): q < 0.05 over " +
                       std::to_string(n_rows) + " rows ";
    text += needed > static_cast<double>(n_rows)
                ? "cannot be reached"
                : "needs " + std::to_string(static_cast<int64_t>(needed)) + " experts at that p at once";
    text += by_resamples ? "; " + std::to_string(20 * n_rows) + " resamples allow one alone (--resamples)"
                         : "; only more examples lower it";
    out.push_back(text);
  }
  return out;
}

// se, rd_shrunk and lfsr of all rows. An expert that nobody selected has no difference, whatever others show.
void shrink(const ContrastCounts& counts, Detection& out) {
  const RowErrors errors = difference_errors(counts);
  std::vector<double> effects;
  for (const RiskDifference& row : out.rows) effects.push_back(row.value());
  const Shrinkage shrunk = shrink_effects(effects, errors.errors, errors.freedoms);
  out.facts.null_share = shrunk.deviations.empty() ? no_number : shrunk.null_share;
  for (size_t i = 0; i < out.rows.size(); ++i) {
    RiskDifference& row = out.rows[i];
    row.se = errors.errors[i];
    row.rd_shrunk = shrunk.effects[i].mean;
    row.lfsr = shrunk.effects[i].lfsr;
    if (row.a1 + row.a2 > 0 || std::isnan(row.se)) continue;
    row.rd_shrunk = 0;
    row.lfsr = 1;
  }
}

// Step-down p-values from hits: none is below that of a row with a larger statistic.
std::vector<double> family_wise_ps(const Relabelled& null, int64_t resamples) {
  std::vector<size_t> order(null.squared_t.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t x, size_t y) { return null.squared_t[x] > null.squared_t[y]; });
  std::vector<double> out(order.size());
  double least = 0;
  for (size_t i : order) {
    least = std::max(least, static_cast<double>(1 + null.family_hits[i]) / static_cast<double>(1 + resamples));
    out[i] = least;
  }
  return out;
}

}  // namespace

double RiskDifference::value() const {
  const auto rate = [](int64_t a, int64_t d) {
    return a + d == 0 ? 0.0 : static_cast<double>(a) / static_cast<double>(a + d);
  };
  return rate(a1, d1) - rate(a2, d2);
}

Detection measure(const ContrastCounts& counts, const ContrastOptions& options) {
  if (options.resamples < 1)
    throw Error("resamples", "expected at least 1, found " + std::to_string(options.resamples));
  if (options.stable_top < 1)
    throw Error("stable top", "expected at least 1, found " + std::to_string(options.stable_top));
  Detection out;
  out.facts = facts_of(counts, options);
  if (out.facts.records_a == 0 || out.facts.records_b == 0)
    throw Error("contrast", "expected records under both conditions, found " + std::to_string(out.facts.records_a) +
                                " and " + std::to_string(out.facts.records_b));
  const size_t n_rows = counts.n_rows();
  const auto per_token = [&](const std::vector<double>& a, const std::vector<double>& b, size_t i) {
    if (a.empty()) return no_number;
    return a[i] / static_cast<double>(out.facts.tokens_a) - b[i] / static_cast<double>(out.facts.tokens_b);
  };
  const Shares shares(counts);
  for (size_t i = 0; i < n_rows; ++i) {
    RiskDifference row;
    row.layer = counts.layers[i / static_cast<size_t>(counts.n_experts)];
    row.expert = static_cast<int32_t>(i % static_cast<size_t>(counts.n_experts));
    for (size_t r = 0; r < counts.records.size(); ++r)
      (counts.records[r].under_b ? row.a2 : row.a1) += counts.selected[r * n_rows + i];
    row.d1 = out.facts.tokens_a - row.a1;
    row.d2 = out.facts.tokens_b - row.a2;
    const auto log_odds = [](int64_t a, int64_t d) {
      return std::log((static_cast<double>(a) + 0.5) / (static_cast<double>(d) + 0.5));
    };
    row.log_odds = log_odds(row.a1, row.d1) - log_odds(row.a2, row.d2);
    row.rd_weight = per_token(counts.a.weight, counts.b.weight, i);
    row.logit_diff = per_token(counts.a.logit, counts.b.logit, i);
    shares.fill(i, row);
    out.rows.push_back(row);
  }
  const Bootstrapped drawn = bootstrap_contrast(counts, options, [&](int64_t done) {
    if (options.on_progress) options.on_progress(done);
  });
  for (size_t i = 0; i < n_rows; ++i) {
    out.rows[i].ci = drawn.ci[i];
    out.rows[i].stable = drawn.stable[i];
    out.rows[i].p = out.rows[i].q = no_number;
  }
  return out;
}

Detection detect(const ContrastCounts& counts, const ContrastOptions& options) {
  Detection out = measure(counts, options);
  const size_t n_rows = counts.n_rows();
  const Relabelled null = relabel_contrast(counts, options, [&](int64_t done) {
    if (options.on_progress) options.on_progress(options.resamples + done);
  });
  const std::vector<double> family_wise = family_wise_ps(null, options.resamples);
  std::vector<double> p;
  for (size_t i = 0; i < n_rows; ++i) {
    out.rows[i].p = static_cast<double>(1 + null.hits[i]) / static_cast<double>(1 + options.resamples);
    if (options.family_wise) out.rows[i].p_maxt = family_wise[i];
    p.push_back(out.rows[i].p);
  }
  const std::vector<double> q = benjamini_hochberg(p);
  for (size_t i = 0; i < n_rows; ++i) out.rows[i].q = q[i];
  shrink(counts, out);
  add_contribution_differences(counts, options, out.rows, [&](int64_t done) {
    if (options.on_progress) options.on_progress(2 * options.resamples + done);
  });
  out.warnings = warnings_of(out.facts, options, n_rows);
  if (std::string none = no_difference(counts, options); !none.empty()) {
    out.facts.no_difference = none;
    out.warnings.insert(out.warnings.begin(), std::move(none));
  }
  return out;
}

int64_t n_replicates(const TraceSet& set, const ContrastOptions& options) {
  return 2 * options.resamples * (1 + static_cast<int64_t>(recorded_contributions(set).size()));
}

Detection detect(const TraceSet& set, const ContrastOptions& options) {
  return detect(count_contrast(set, options), options);
}

void write_rd_csv(const std::filesystem::path& file, const std::vector<RiskDifference>& rows) {
  std::vector<std::string_view> header = {
      "layer",      "expert",    "a1_n",     "d1_n", "a2_n", "d2_n",       "rd",     "ci_lo", "ci_hi",     "p",   "q",
      "rd_example", "rd_weight", "log_odds", "t",    "t_p",  "logit_diff", "stable", "se",    "rd_shrunk", "lfsr"};
  const bool family_wise = std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.p_maxt >= 0; });
  if (family_wise) header.push_back("p_maxt");
  std::vector<size_t> given;
  std::vector<std::string> names;
  for (size_t i = 0; i < n_contributions; ++i) {
    if (std::none_of(rows.begin(), rows.end(),
                     [&](const auto& row) { return !std::isnan(row.contributions[i].value); }))
      continue;
    given.push_back(i);
    const std::string column(contribution_names[i].column), value = "rd_" + column;
    for (const std::string& name : {value, value + "_lo", value + "_hi", "p_" + column, "q_" + column})
      names.push_back(name);
  }
  header.insert(header.end(), names.begin(), names.end());
  CsvWriter csv(header);
  for (const RiskDifference& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.a1).cell(row.d1).cell(row.a2).cell(row.d2);
    csv.cell(row.value()).cell(row.ci.lo).cell(row.ci.hi).cell(row.p).cell(row.q).cell(row.rd_example);
    csv.cell(row.rd_weight).cell(row.log_odds).cell(row.t).cell(row.t_p).cell(row.logit_diff).cell(row.stable);
    csv.cell(row.se).cell(row.rd_shrunk).cell(row.lfsr);
    if (family_wise) csv.cell(row.p_maxt);
    for (const size_t i : given) {
      const ContributionDifference& one = row.contributions[i];
      csv.cell(one.value).cell(one.ci.lo).cell(one.ci.hi).cell(one.p).cell(one.q);
    }
    csv.end_row();
  }
  write_file_atomically(file, csv.text());
}

json::Value contrast_summary(const Detection& detection, const ContrastOptions& options) {
  const DetectionFacts& facts = detection.facts;
  const bool some_pairs = facts.pairs > 0, some_alone = facts.unpaired_a + facts.unpaired_b > 0;
  const std::string null = some_pairs ? "the two sides of each pair swapped" +
                                            std::string(some_alone ? "; records without a pair: no part" : "")
                                      : "conditions permuted over records";
  const std::string statistic = "|rd| divided by its own standard error (ratio estimator over " +
                                std::string(some_pairs ? "pairs" : "records, each side by itself") + ")";
  std::string unit = some_pairs ? "pair" : "record";
  if (some_pairs && some_alone) unit = "pair where it is complete, else record";
  json::Value tests = json::Value::object();
  tests.set("ci", "95 % percentile bootstrap over examples")
      .set("p", "two-sided, (1 + hits) / (1 + B): " + null + "; statistic: " + statistic)
      .set("q", "Benjamini-Hochberg over all rows")
      .set("t", some_pairs ? "paired t over complete pairs, on shares" : "Welch's t over records, on shares")
      .set("stable", "share of bootstrap replicates among the top " + std::to_string(facts.stable_top) + " by |rd|");
  tests.set("rd_shrunk", "adaptive shrinkage of rd over all rows: normals around 0 and a point mass at 0");
  const auto& first = detection.rows.front().contributions;
  if (std::any_of(first.begin(), first.end(), [](const auto& one) { return !std::isnan(one.value); }))
    tests.set(
        "rd_norm, rd_update, rd_direct",
        "A - B of the mean per token of expert.norm, expert.update_share, expert.direct, 0 where not selected; ci, p "
        "and q as those of rd, over the same draws; sums rounded to 2^-30 of the expert's for these");
  if (options.family_wise)
    tests.set("p_maxt", "family-wise over all rows: step-down max-T of the same resamples (Westfall and Young)");
  json::Value out = json::Value::object();
  out.set("a", options.a).set("b", options.b);
  out.set("span", options.span.empty() ? json::Value() : json::Value(options.span));
  out.set("phase", phase_name(options.phase)).set("length_match", options.length_match);
  out.set("tests", std::move(tests)).set("resampling_unit", unit);
  out.set("resamples", options.resamples).set("seed", options.seed).set("stable_top", facts.stable_top);
  out.set("null_share", facts.null_share).set("smallest_p", facts.smallest_p).set("family_wise", options.family_wise);
  out.set("records_a", facts.records_a).set("records_b", facts.records_b).set("samples", facts.samples);
  out.set("pairs", facts.pairs).set("unpaired_a", facts.unpaired_a).set("unpaired_b", facts.unpaired_b);
  out.set("pair_examples", facts.pair_examples);
  out.set("examples_a", facts.examples_a).set("examples_b", facts.examples_b);
  out.set("tokens_a", facts.tokens_a).set("tokens_b", facts.tokens_b);
  out.set("records_without_tokens", facts.records_without_tokens).set("tokens_cut", facts.tokens_cut);
  return out;
}

json::Value detection_summary(const TraceSet& set, const Detection& detection, const ContrastOptions& options) {
  json::Value ids = json::Value::array(), warnings = json::Value::array();
  for (const std::string& warning : detection.warnings) warnings.push_back(warning);
  for (const std::string& id : detection.facts.records) ids.push_back(id);
  json::Value out = json::Value::object();
  out.set("schema", "signalbox.analysis/1").set("traces", traces_summary(set));
  out.set("contrast", contrast_summary(detection, options)).set("warnings", std::move(warnings));
  out.set("records", std::move(ids));
  PromptList prompts, others;
  std::set<std::string> chosen;
  for (const std::vector<std::string>& hashes : detection.facts.prompts) {
    prompts.add(hashes);
    if (!hashes.empty()) chosen.insert(hashes[0]);
  }
  for (const TraceRecord& record : set.records())
    if (record.prompts.empty() || !chosen.contains(record.prompts[0])) others.add(record.prompts);
  prompts.put(out);
  json::Value rest = json::Value::object();
  others.put(rest);
  if (rest.find("prompts") && !rest.find("prompts")->items().empty()) out.set("not_in_contrast", std::move(rest));
  return out;
}

}  // namespace signalbox::eval
