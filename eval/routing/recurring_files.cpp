// The files of a regime analysis, and its tables for people.
#include <algorithm>
#include <cstdio>

#include "base/csv.h"
#include "base/files.h"
#include "base/text.h"
#include "base/text_table.h"
#include "eval/routing/recurring.h"
#include "eval/store/facts.h"
#include "eval/store/staged_files.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

struct Place {
  int64_t layer, expert;
};

Place place(const RegimeAnalysis& analysis, size_t row) {
  const auto n = static_cast<size_t>(analysis.n_experts);
  return {analysis.layers[row / n], static_cast<int64_t>(row % n)};
}

std::string regimes_csv(const RegimeAnalysis& analysis) {
  CsvWriter csv(
      {"regime", "layer", "expert", "share", "ci_lo", "ci_hi", "mean_weight", "diff", "diff_lo", "diff_hi", "p", "q"});
  for (size_t r = 0; r < analysis.regimes.size(); ++r)
    for (size_t row = 0; row < analysis.regimes[r].experts.size(); ++row) {
      const RegimeExpert& expert = analysis.regimes[r].experts[row];
      const auto [layer, index] = place(analysis, row);
      csv.cell(analysis.regimes[r].name).cell(layer).cell(index);
      csv.cell(expert.share.mean).cell(expert.share.ci.lo).cell(expert.share.ci.hi).cell(expert.weight);
      if (r == 0) {
        for (int i = 0; i < 5; ++i) csv.cell(std::string_view());
      } else {
        csv.cell(expert.difference.mean).cell(expert.difference.ci.lo).cell(expert.difference.ci.hi);
        csv.cell(expert.p).cell(expert.q);
      }
      csv.end_row();
    }
  return csv.text();
}

std::string recurring_csv(const RegimeAnalysis& analysis) {
  CsvWriter csv({"rank", "layer", "expert", "share_baseline", "n_up", "rise", "persistence", "persistence_lo",
                 "persistence_hi", "score", "score_lo", "score_hi", "n_up_wordings", "rise_wordings",
                 "persistence_baseline", "persistence_diff", "persistence_diff_lo", "persistence_diff_hi"});
  for (size_t i = 0; i < analysis.recurring.size(); ++i) {
    const RecurringExpert& expert = analysis.recurring[i];
    const auto [layer, index] = place(analysis, expert.row);
    csv.cell(static_cast<int64_t>(i + 1)).cell(layer).cell(index);
    csv.cell(analysis.regimes[0].experts[expert.row].share.mean).cell(expert.n_up).cell(expert.rise);
    csv.cell(expert.constancy.mean).cell(expert.constancy.ci.lo).cell(expert.constancy.ci.hi);
    csv.cell(expert.score).cell(expert.score_ci.lo).cell(expert.score_ci.hi);
    csv.cell(expert.n_up_wordings).cell(expert.rise_wordings).cell(expert.sampled_baseline.mean);
    csv.cell(expert.over_baseline.mean).cell(expert.over_baseline.ci.lo).cell(expert.over_baseline.ci.hi);
    csv.end_row();
  }
  return csv.text();
}

std::string lengths_csv(const RegimeAnalysis& analysis) {
  CsvWriter csv({"regime", "prompts", "trajectories", "tokens", "ci_lo", "ci_hi", "shortest", "longest"});
  for (const RegimeProfile& regime : analysis.regimes) {
    csv.cell(regime.name).cell(regime.n_prompts).cell(regime.n_trajectories);
    csv.cell(regime.length.mean).cell(regime.length.ci.lo).cell(regime.length.ci.hi);
    csv.cell(regime.shortest).cell(regime.longest);
    csv.end_row();
  }
  return csv.text();
}

std::string difficulty_csv(const RegimeAnalysis& analysis) {
  CsvWriter csv({"regime", "layer", "expert", "levels", "slope", "ci_lo", "ci_hi"});
  for (const DifficultyTrend& trend : analysis.difficulty)
    for (size_t row = 0; row < trend.slope.size(); ++row) {
      const auto [layer, index] = place(analysis, row);
      csv.cell(trend.regime).cell(layer).cell(index).cell(static_cast<int64_t>(trend.levels.size()));
      csv.cell(trend.slope[row]).cell(trend.ci[row].lo).cell(trend.ci[row].hi);
      csv.end_row();
    }
  return csv.text();
}

json::Value summary(const RegimeAnalysis& analysis, const RoutingProfiles& profiles, const RegimeOptions& options,
                    const json::Value& where_from) {
  const auto or_null = [](const std::string& name) { return name.empty() ? json::Value() : json::Value(name); };
  json::Value regimes = json::Value::array(), empty = json::Value::array(), wordings = json::Value::array();
  for (const std::string& name : analysis.wordings) wordings.push_back(name);
  for (const RegimeProfile& regime : analysis.regimes) {
    int64_t up = 0, down = 0;
    for (const RegimeExpert& expert : regime.experts) {
      if (&regime == &analysis.regimes[0] || !(expert.q < options.level)) continue;
      ++(expert.difference.mean > 0 ? up : down);
    }
    json::Value item = json::Value::object();
    item.set("name", regime.name).set("prompts", regime.n_prompts).set("trajectories", regime.n_trajectories);
    item.set("tokens", regime.length.mean);
    if (&regime != &analysis.regimes[0])
      item.set("prompts_paired_with_baseline", regime.n_paired).set("experts_up", up).set("experts_down", down);
    regimes.push_back(std::move(item));
  }
  for (const std::string& id : profiles.empty) empty.push_back(id);
  const auto recurring = std::count_if(analysis.recurring.begin(), analysis.recurring.end(),
                                       [&](const auto& expert) { return expert.n_up >= 2 && expert.score_ci.lo > 0; });
  json::Value out = json::Value::object();
  out.set("traces", where_from)
      .set("phase", "generated")
      .set("baseline", options.baseline)
      .set("persistence_regime", or_null(analysis.sampled))
      .set("persistence_baseline_regime", or_null(analysis.sampled_baseline))
      .set("persistence",
           "probability that of equally many tokens more use the expert than under the baseline, ties half: 0.5 where "
           "nothing differs")
      .set("wordings", std::move(wordings))
      .set("level", options.level)
      .set("resampling_unit", "base prompt (pair)")
      .set("resamples", options.resamples)
      .set("seed", options.seed)
      .set("intervals", "95 % percentile bootstrap")
      .set("p", "sign flip over resampling units, two-sided")
      .set("q", "Benjamini-Hochberg over all experts, layers and regimes")
      .set("score", "max(second largest difference to the baseline, 0) * persistence; ranked by score_lo")
      .set("regimes", std::move(regimes))
      .set("recurring_experts", static_cast<int64_t>(recurring))
      .set("samples_without_generated_tokens", std::move(empty));
  profiles.prompts.put(out);
  return out;
}

std::string points(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%+.1f", 100 * share);
  return text;
}

}  // namespace

void write_regimes(const RegimeAnalysis& analysis, const RoutingProfiles& profiles, const RegimeOptions& options,
                   const json::Value& where_from, const fs::path& dir) {
  StagedFiles files(
      dir, {"profiles.safetensors", "regimes.csv", "recurring.csv", "lengths.csv", "difficulty.csv", "summary.json"});
  const fs::path& out = files.path();
  write_profiles(profiles, out / "profiles.safetensors");
  write_file_atomically(out / "regimes.csv", regimes_csv(analysis));
  write_file_atomically(out / "recurring.csv", recurring_csv(analysis));
  write_file_atomically(out / "lengths.csv", lengths_csv(analysis));
  if (!analysis.difficulty.empty()) write_file_atomically(out / "difficulty.csv", difficulty_csv(analysis));
  json::Value about = summary(analysis, profiles, options, where_from);
  about.set("tables", file_hashes({out / "regimes.csv", out / "recurring.csv"}, out));
  write_file_atomically(out / "summary.json", json::dump(about, 2) + "\n");
  files.commit();
}

std::string regimes_text(const RegimeAnalysis& analysis, const RegimeOptions& options, size_t top, int width) {
  char line[256];
  const auto format = [&line](const char* how, auto... values) {
    std::snprintf(line, sizeof line, how, values...);
    return std::string(line);
  };
  TextTable regimes({{"regime", false, true},
                     {"prompts"},
                     {"trajectories"},
                     {"generated tokens [95 % interval]"},
                     {"shortest"},
                     {"longest"}});
  for (const RegimeProfile& regime : analysis.regimes)
    regimes.add({regime.name, std::to_string(regime.n_prompts), std::to_string(regime.n_trajectories),
                 format("%.1f [%.1f, %.1f]", regime.length.mean, regime.length.ci.lo, regime.length.ci.hi),
                 std::to_string(regime.shortest), std::to_string(regime.longest)});
  std::string out = regimes.text(width);
  out += "\nrecurring experts, ranked by the lower end of the score (differences to " + options.baseline +
         " in percentage points, * = q < ";
  out += format("%g)\n", options.level);
  std::vector<TextTable::Column> columns = {{"rank", true, true}, {"layer", true, true}, {"expert", true, true}};
  columns.push_back({"share " + options.baseline});
  for (size_t r = 1; r < analysis.regimes.size(); ++r) columns.push_back({analysis.regimes[r].name});
  columns.push_back({"up"});
  columns.push_back({"persistence"});
  if (!analysis.sampled_baseline.empty()) columns.push_back({"over " + analysis.sampled_baseline});
  columns.push_back({"score [95 % interval]"});
  TextTable table(std::move(columns));
  for (size_t i = 0; i < std::min(top, analysis.recurring.size()); ++i) {
    const RecurringExpert& expert = analysis.recurring[i];
    const auto n = static_cast<size_t>(analysis.n_experts);
    std::vector<std::string> cells = {std::to_string(i + 1), std::to_string(analysis.layers[expert.row / n]),
                                      std::to_string(expert.row % n),
                                      points(analysis.regimes[0].experts[expert.row].share.mean).substr(1) + " %"};
    for (size_t r = 1; r < analysis.regimes.size(); ++r) {
      const RegimeExpert& under = analysis.regimes[r].experts[expert.row];
      cells.push_back(points(under.difference.mean) + (under.q < options.level ? "*" : " "));
    }
    cells.push_back(std::to_string(expert.n_up));
    cells.push_back(analysis.sampled.empty() ? "-" : points(expert.constancy.mean).substr(1) + " %");
    if (!analysis.sampled_baseline.empty()) cells.push_back(points(expert.over_baseline.mean));
    cells.push_back(
        format("%.2f [%.2f, %.2f]", 100 * expert.score, 100 * expert.score_ci.lo, 100 * expert.score_ci.hi));
    table.add(std::move(cells));
  }
  out += table.text(width);
  const size_t n_others = analysis.regimes.size() - 1 - (analysis.sampled_baseline.empty() ? 0 : 1);
  if (analysis.wordings.size() < n_others)
    out += "regimes with words of their own: " + (analysis.wordings.empty() ? "none" : joined(analysis.wordings)) +
           "; the others repeat them, and \"up\" counts them all (n_up_wordings and rise_wordings do not)\n";
  if (analysis.sampled.empty()) out += "no regime has several trajectories a prompt: the score is the rise alone\n";
  return out;
}

}  // namespace signalbox::eval
