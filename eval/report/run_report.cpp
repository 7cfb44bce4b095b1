#include "eval/report/run_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/no_number.h"
#include "base/text.h"
#include "eval/findings/audit.h"
#include "eval/findings/format.h"
#include "eval/findings/intervals.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/tables.h"
#include "eval/report/charts.h"
#include "eval/report/curve_report.h"
#include "eval/report/detection_report.h"
#include "eval/report/page.h"
#include "eval/report/sample_digest.h"
#include "eval/score/scorer.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr size_t n_examples = 3, n_example_interventions = 12;
// Below these a reader is warned.
constexpr int64_t few_records = 20;
constexpr double much_truncated = 0.05;
constexpr double other_use = 0.1;  // of the named experts' use: so much is another frequency

std::string percent(int64_t part, int64_t whole) {
  return whole == 0 ? "-" : format_value(100.0 * static_cast<double>(part) / static_cast<double>(whole), 1) + " %";
}

std::string list_of(const std::vector<std::string>& names, size_t most = 5) {
  std::string out = joined(std::span(names).first(std::min(most, names.size())));
  if (names.size() > most) out += " and " + std::to_string(names.size() - most) + " more";
  return out;
}

// The findings by name, as the sections ask for them.
class Index {
 public:
  explicit Index(const RunFindings& run) : run_(run), main_(result_rows(run, RowChoice::main)) {
    for (const Intervention& one : run.interventions)
      if (one.control != ControlKind::none) controls_[{one.control_of, one.control}].push_back(one.name);
    for (ResultRow& row : result_rows(run, RowChoice::all)) {
      if (std::isfinite(row.p) && run.primary.has(row.intervention, row.metric)) ++family_;
      const auto key = std::pair(row.intervention, row.metric);
      all_[key] = std::move(row);
    }
  }

  const RunFindings& run() const { return run_; }
  const std::string& baseline() const { return run_.baseline; }
  const std::vector<std::string>& metrics() const { return run_.metrics; }
  const std::vector<ResultRow>& main_rows() const { return main_; }
  int64_t resamples() const { return run_.resamples; }
  int64_t family() const { return family_; }  // primary contrasts
  bool shows(const ResultRow& row) const { return (std::isfinite(row.q) ? row.q : row.p) < test_level; }
  bool has_controls() const { return !controls_.empty(); }
  const Intervention& intervention(const std::string& name) const {
    return run_.interventions[run_.intervention_index(name)];
  }
  // Null for the baseline.
  const ResultRow* row(const std::string& name, const std::string& metric) const {
    const auto found = all_.find({name, metric});
    return found == all_.end() ? nullptr : &found->second;
  }
  const Estimate& baseline_mean(const std::string& metric) const { return run_.mean(run_.baseline, metric); }
  std::vector<double> differences_of(const std::string& name, ControlKind kind, const std::string& metric) const {
    std::vector<double> out;
    const auto found = controls_.find({name, kind});
    if (found != controls_.end())
      for (const std::string& control : found->second)
        if (const double difference = all_.at({control, metric}).difference.value; std::isfinite(difference))
          out.push_back(difference);
    return out;
  }
  std::vector<double> uses_of(const std::string& name, ControlKind kind) const {
    std::vector<double> out;
    const auto found = controls_.find({name, kind});
    if (found != controls_.end())
      for (const std::string& control : found->second)
        if (const double use = intervention(control).use; std::isfinite(use)) out.push_back(use);
    return out;
  }
  // Neither controls nor the audit, in the order of the run.
  std::vector<std::string> main_names() const {
    std::vector<std::string> out;
    for (const ResultRow& row : main_)
      if (row.metric == main_.front().metric) out.push_back(row.intervention);
    return out;
  }

 private:
  const RunFindings& run_;
  std::map<std::pair<std::string, ControlKind>, std::vector<std::string>> controls_;  // of, kind
  std::map<std::pair<std::string, std::string>, ResultRow> all_;                      // intervention, metric
  std::vector<ResultRow> main_;
  int64_t family_ = 0;
};

// ---- What to be careful with

// Declining more often while texts also repeat or break off is damage, not caution.
void warn_of_degeneration(const Index& findings, const SampleDigest& samples, std::vector<std::string>& out) {
  for (const char* metric : {"refused", "over_refused", "abstained"}) {
    std::map<std::string, std::vector<std::string>> names;  // by signs
    for (const std::string& name : findings.main_names()) {
      const ResultRow* declined = findings.row(name, metric);
      if (!declined || !(declined->difference.value > 0 && findings.shows(*declined))) continue;
      std::vector<std::string> signs;
      const ResultRow* repetition = findings.row(name, "repetition");
      if (repetition && repetition->difference.value > 0 && findings.shows(*repetition))
        signs.push_back("texts repeat more");
      const auto mine = samples.counts.find(name), base = samples.counts.find(findings.baseline());
      if (mine != samples.counts.end() && base != samples.counts.end()) {
        const auto share = [](int64_t part, const TextCounts& counts) {
          return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(counts.texts, 1));
        };
        const auto grew = [&](int64_t TextCounts::*part) {
          return share(mine->second.*part, mine->second) - share(base->second.*part, base->second) > 0.1;
        };
        if (grew(&TextCounts::truncated)) signs.push_back("more are cut off");
        if (grew(&TextCounts::empty)) signs.push_back("more are empty");
      }
      if (!signs.empty()) names[list_of(signs)].push_back(name);
    }
    for (const auto& [signs, list] : names)
      out.push_back(std::string(metric) + " rises, but " + signs + ": the model may be degenerating rather than " +
                    "declining under " + list_of(list) + ". Read the texts below.");
  }
}

// The smallest p that sign flips of so many units can give.
double least_p(int64_t units) { return std::pow(2.0, 1.0 - static_cast<double>(units)); }

// Controls that share experts with what they control, and matched ones that are used less or more.
void warn_of_controls(const Index& findings, std::vector<std::string>& out) {
  std::map<std::string, int64_t> shared;
  for (const Intervention& one : findings.run().interventions)
    if (one.shared > 0) shared[one.control_of] = one.shared;
  for (const auto& [name, n] : shared)
    out.push_back("The drawn controls of " + name + " share " + std::to_string(n) + (n == 1 ? " expert" : " experts") +
                  " with it, for its layers have too few others: they do part of what it does, and the comparison is "
                  "too cautious.");
  for (const std::string& name : findings.main_names()) {
    const std::vector<double> uses = findings.uses_of(name, ControlKind::frequency_matched);
    const double own = findings.intervention(name).use;
    if (uses.empty() || !std::isfinite(own)) continue;
    double mean = 0;
    for (const double use : uses) mean += use / static_cast<double>(uses.size());
    if (std::abs(mean - own) > other_use * own)
      out.push_back("The controls of " + name +
                    " that are matched in frequency of use are not: its experts are selected "
                    "by " +
                    format_value(own, 3) + " of tokens, those of the controls by " + format_value(mean, 3) +
                    " on average (" + format_value(*std::min_element(uses.begin(), uses.end()), 3) + " to " +
                    format_value(*std::max_element(uses.begin(), uses.end()), 3) +
                    "). No others are as near; an effect of frequency is not ruled out.");
  }
}

std::vector<std::string> warnings_of(const Index& findings, const SampleDigest& samples) {
  std::vector<std::string> out;
  if (findings.run().data) out = cautions_of(*findings.run().data);
  std::set<std::string> few, few_ranks, no_test;
  int64_t least = 0;
  for (const ResultRow& row : findings.main_rows()) {
    if (row.units > 0 && row.units < few_records) few.insert(row.metric + " (" + std::to_string(row.units) + ")");
    if (row.controls.few())
      few_ranks.insert(row.intervention + " (" + std::to_string(row.controls.differences.n) + ")");
    if (row.units > 0 && least_p(row.units) > test_level) {
      no_test.insert(row.metric);
      least = std::max(least, row.units);
    }
  }
  if (!few.empty())
    out.push_back("Few records, or pairs, with a value: " + list_of({few.begin(), few.end()}) + ". With fewer than " +
                  std::to_string(few_records) +
                  " intervals cover less than they say and small effects cannot be seen.");
  if (!no_test.empty())
    out.push_back("No difference of " + list_of({no_test.begin(), no_test.end()}) + " can be significant: over " +
                  std::to_string(least) + " records or pairs the smallest p there is is " + format_p(least_p(least)) +
                  ", since only so many patterns of signs exist.");
  if (!findings.has_controls())
    out.push_back(
        "No matched controls were run: without them nothing says whether any other experts, or any other "
        "disturbance of that size, would have had the same effect.");
  if (!few_ranks.empty())
    out.push_back("Fewer than " + std::to_string(enough_controls) + " random controls for " +
                  list_of({few_ranks.begin(), few_ranks.end()}) +
                  ": even the first place among them could be chance in more than 1 of 20 cases.");
  warn_of_controls(findings, out);
  const double least_q = static_cast<double>(findings.family()) / static_cast<double>(findings.resamples() + 1);
  if (least_q > 0.05)
    out.push_back("With " + std::to_string(findings.resamples()) + " resamples and " +
                  std::to_string(findings.family()) + " primary contrasts a single effect, however large, gets q = " +
                  format_value(std::min(1.0, least_q), 3) + " at best. Raise \"resamples\".");
  std::vector<std::string> cut;
  std::vector<std::string> names = findings.main_names();
  names.insert(names.begin(), findings.baseline());
  for (const std::string& name : names) {
    const auto found = samples.counts.find(name);
    if (found == samples.counts.end()) continue;
    const TextCounts& counts = found->second;
    if (static_cast<double>(counts.truncated) > much_truncated * static_cast<double>(counts.texts))
      cut.push_back(name + " (" + percent(counts.truncated, counts.texts) + ")");
  }
  if (!cut.empty())
    out.push_back(
        "Many texts reach max_tokens and are cut off: " + list_of(cut) +
        ". What would have come after is unknown. Scores take a cut text as it stands: \"refused\" or \"em\" 0 "
        "means that no refusal, or no right answer, stands in what was written, not that the model would have "
        "answered, or erred. Raise max_tokens.");
  warn_of_degeneration(findings, samples, out);
  return out;
}

std::string warning_box(const std::vector<std::string>& warnings) {
  if (warnings.empty()) return "";
  std::string out = "<div class=\"warn\" id=\"warnings\"><b>What to be careful with</b>";
  for (const std::string& warning : warnings) out += "<p>" + html_escape(warning) + "</p>";
  return out + "</div>\n";
}

// ---- Differences

// One metric's rows, folded away under a title.
std::string folded_table(const std::string& title, const std::vector<ResultRow>& rows) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = title;
  table.columns = {{"intervention", Kind::text, {}},
                   {"n", Kind::count, {}},
                   {"baseline [95 % CI]", Kind::estimate, {}, true},
                   {"mean [95 % CI]", Kind::estimate, {}, true},
                   {"difference [95 % CI]", Kind::difference, {}, true},
                   {"p", Kind::p, {}},
                   {"q", Kind::p, {}},
                   {"MDE", Kind::number, {}},
                   {"random controls", Kind::difference, {}},
                   {"minus controls [95 % CI]", Kind::difference, {}},
                   {"p of that", Kind::p, {}},
                   {"place by size", Kind::rank, {}}};
  table.shows_small = false;
  for (const ResultRow& row : rows) {
    const Versus versus = row.vs_controls.value_or(Versus());
    table.rows.push_back(
        {row.metric,
         {row.intervention, row.difference.n, row.baseline, row.mean, row.difference, row.p, row.q, row.detectable,
          row.controls.differences, Estimate{versus.difference, versus.lo, versus.hi, 0}, versus.p,
          RankCell{row.controls.rank, row.controls.differences.n}}});
  }
  return "<details><summary>" + html_escape(table.title) + "</summary>" + html_table(table) + "</details>\n";
}

std::vector<ResultRow> of_metric(std::vector<ResultRow> rows, const std::string& metric) {
  std::erase_if(rows, [&](const ResultRow& row) { return row.metric != metric; });
  return rows;
}

std::string legend(const Index& findings) {
  const PrimaryContrasts& primary = findings.run().primary;
  const std::string family = std::to_string(findings.family()) +
                             " primary contrasts of this run: " + html_escape(list_of(primary.interventions)) + " in " +
                             html_escape(list_of(primary.metrics, 8));
  return "<p class=\"small\">Each line is an intervention's difference to the baseline over the same records: a filled "
         "point where q &lt; 0.05, hollow otherwise, with its 95 % interval (exact for differences of 0 and 1, else "
         "BCa "
         "bootstrap over records, or pairs; none excludes 0 where its test does not reject). p: how often a difference "
         "at least as large comes up when the sign of each record's, or pair's, difference is a coin toss (of ppl: of "
         "its logarithm). q: p corrected (Benjamini-Hochberg) for the " +
         family +
         "; others have no q. MDE: the smallest true difference that p &lt; 0.05 would find in 4 of 5 such runs. Grey "
         "dots are the random controls: as many experts, drawn at random in the same layers; the grey band holds the "
         "middle 95 % of them. Minus controls: the difference minus their mean difference. Grey rings are controls "
         "matched in frequency of use, orange squares the bottom of the ranking. Place by size \"1 of 21\": larger in "
         "size, whatever the sign, than all 20 random controls; (few): fewer than 19. An effect inside the band is "
         "what "
         "any experts would do. Hover for numbers; click on a heading to sort.</p>";
}

std::string metric_section(const Index& findings, const std::string& metric) {
  std::string out = "<h3 id=\"metric-" + html_escape(metric) + "\">" + html_escape(metric) + "</h3>";
  if (const Scorer* scorer = find_scorer(metric))
    out += "<p class=\"note small\">" + html_escape(scorer->summary) + "</p>";
  std::vector<ForestRow> forest;
  const std::vector<ResultRow> rows = of_metric(findings.main_rows(), metric);
  for (const ResultRow& row : rows) {
    ForestRow line;
    line.name = row.intervention;
    line.description = findings.intervention(row.intervention).description;
    line.difference = row.difference.value;
    line.lo = row.difference.lo;
    line.hi = row.difference.hi;
    line.q = std::isfinite(row.q) ? row.q : 1;
    if (row.controls.rank)
      line.place = std::to_string(*row.controls.rank) + " of " + std::to_string(row.controls.differences.n + 1);
    line.random = findings.differences_of(row.intervention, ControlKind::random, metric);
    line.matched = findings.differences_of(row.intervention, ControlKind::frequency_matched, metric);
    line.bottom = findings.differences_of(row.intervention, ControlKind::bottom, metric);
    line.band_lo = row.controls.differences.lo;
    line.band_hi = row.controls.differences.hi;
    forest.push_back(std::move(line));
  }
  const Estimate& base = findings.baseline_mean(metric);
  const int decimals = decimals_for(base.value);
  out += "<p class=\"small\">Baseline: " + format_value(base.value, decimals) + " " +
         format_interval(base.lo, base.hi, decimals) + ", n = " + std::to_string(base.n) + "</p>";
  out += "<div class=\"wide\">" + forest_plot(forest, metric + ": intervention \xE2\x88\x92 baseline") + "</div>";
  out += folded_table("numbers", rows);
  for (const ConditionFindings& one : findings.run().conditions)
    out += folded_table("condition " + one.condition,
                        of_metric(result_rows(findings.run(), RowChoice::main, one.condition), metric));
  FindingsTable comparisons =
      comparison_table(findings.run(), "", SIZE_MAX, "effects compared: other interventions, conditions, margins");
  std::erase_if(comparisons.rows, [&](const TableRow& row) { return row.group != metric; });
  if (!comparisons.rows.empty())
    out +=
        "<details><summary>" + html_escape(comparisons.title) + "</summary>" + html_table(comparisons) + "</details>\n";
  return out;
}

// ---- Doses

using GridPoints = std::vector<const Intervention*>;

// Grids by the name of their entry, in the order of the run.
std::vector<std::pair<std::string, GridPoints>> grids_of(const RunFindings& run) {
  std::vector<std::pair<std::string, GridPoints>> out;
  for (const Intervention& one : run.interventions) {
    if (!one.is_main() || one.grid.empty()) continue;
    if (out.empty() || out.back().first != one.entry) out.push_back({one.entry, {}});
    out.back().second.push_back(&one);
  }
  return out;
}

// The key's values as doses: numeric in all points, and at least two of them.
bool is_dose(const GridPoints& points, const std::string& key) {
  std::set<double> values;
  for (const Intervention* point : points)
    for (const auto& [name, value] : point->grid)
      if (name == key) {
        if (!value.is_number()) return false;
        values.insert(value.real());
      }
  return values.size() >= 2;
}

std::string dose_of(const RunFindings& run, const GridPoints& points, const std::string& key,
                    const std::string& metric) {
  std::vector<DoseLine> lines;
  for (const Intervention* point : points) {
    std::string others;
    double x = no_number;
    for (const auto& [name, value] : point->grid) {
      if (name == key)
        x = value.real();
      else
        others += (others.empty() ? "" : ", ") + name + " = " + plain_text(value);
    }
    if (others.empty()) others = metric;
    auto found = std::find_if(lines.begin(), lines.end(), [&](const DoseLine& one) { return one.name == others; });
    if (found == lines.end()) found = lines.insert(lines.end(), {others, {}});
    const Estimate& mean = run.mean(point->name, metric);
    found->points.push_back({x, mean.value, mean.lo, mean.hi});
  }
  for (DoseLine& one : lines)
    std::stable_sort(one.points.begin(), one.points.end(),
                     [](const DosePoint& a, const DosePoint& b) { return a.x < b.x; });
  return dose_plot(lines, key, metric, run.mean(run.baseline, metric).value);
}

std::string dose_section(const RunFindings& run) {
  std::string out;
  for (const auto& [entry, points] : grids_of(run))
    for (const auto& [key, unused] : points.front()->grid) {
      if (!is_dose(points, key)) continue;
      out += "<h3>" + html_escape(entry) + ": " + html_escape(key) + "</h3><div class=\"row\">";
      for (const std::string& metric : run.metrics) out += "<div>" + dose_of(run, points, key, metric) + "</div>";
      out += "</div>\n";
    }
  if (out.empty()) return "";
  return "<h2 id=\"doses\">Dose and response</h2><p class=\"small\">The mean under each point of a grid, with its 95 % "
         "interval. An effect that grows with the dose is harder to explain by chance than one that does not.</p>" +
         out;
}

// ---- Texts

std::string ends_section(const Index& findings, const SampleDigest& samples) {
  if (samples.counts.empty()) return "";
  std::vector<std::string> shown;
  for (const char* metric : {"refused", "over_refused", "abstained", "repetition", "length"})
    if (std::find(findings.metrics().begin(), findings.metrics().end(), metric) != findings.metrics().end())
      shown.push_back(metric);
  std::vector<std::string> headings = {"intervention", "texts", "cut off", "empty"}, names = findings.main_names();
  std::vector<uint8_t> numeric = {0, 1, 1, 1};
  for (const std::string& metric : shown) {
    headings.push_back(html_escape(metric));
    numeric.push_back(1);
  }
  names.insert(names.begin(), findings.baseline());
  std::vector<std::vector<std::string>> rows;
  for (const std::string& name : names) {
    const auto found = samples.counts.find(name);
    if (found == samples.counts.end()) continue;
    const TextCounts& counts = found->second;
    rows.push_back({html_escape(name), std::to_string(counts.texts), percent(counts.truncated, counts.texts),
                    percent(counts.empty, counts.texts)});
    for (const std::string& metric : shown) {
      rows.back().push_back(format_value(findings.run().mean(name, metric).value, 3));
    }
  }
  return "<h2 id=\"texts\">How texts ended</h2><p class=\"small\">Cut off: stopped by max_tokens. A refusal, an "
         "abstention "
         "or a \"safe\" verdict on a text that is cut off, empty or repeats itself says little.</p>" +
         html_table(headings, numeric, rows);
}

std::string examples_section(const SampleDigest& samples, const std::vector<std::string>& order) {
  if (samples.examples.empty()) return "";
  std::string out =
      "<h2 id=\"examples\">The same records, before and after</h2><p class=\"small\">The first of those whose "
      "text changed, those with a changed score first; not drawn at random. samples.jsonl has all.</p>";
  for (const std::string& name : order) {
    const auto found = samples.examples.find(name);
    if (found == samples.examples.end()) continue;
    const ShownTexts& of = samples.shown.at(name);
    out += "<details open=\"open\"><summary>" + html_escape(name) + ": " + std::to_string(found->second.size()) +
           " of " + std::to_string(of.changed) + " changed texts, of " + std::to_string(of.compared) +
           " compared</summary><div class=\"wide\"><table class=\"texts\"><tr><th>record</th><th>baseline</th><th>" +
           html_escape(name) + "</th><th>scores</th></tr>";
    for (const ExamplePair& pair : found->second) {
      std::string scores;
      for (const ExamplePair::Score& score : pair.scores)
        scores += (scores.empty() ? "" : "\n") + score.metric + " " + format_value(score.baseline, 3) +
                  " \xE2\x86\x92 " + format_value(score.changed, 3);
      out += "<tr><td><span class=\"note\">" + html_escape(pair.id) + "</span>\n" + html_escape(pair.question) +
             "</td><td>" + html_escape(pair.baseline) + "</td><td>" + html_escape(pair.changed) + "</td><td>" +
             html_escape(scores) + "</td></tr>\n";
    }
    out += "</table></div></details>\n";
  }
  return out;
}

// ---- What was run

void add_fact(std::string& out, const std::string& name, const std::string& value) {
  if (!value.empty()) out += "<dt>" + html_escape(name) + "</dt><dd>" + html_escape(value) + "</dd>";
}

std::string facts(const Index& findings, const std::optional<Manifest>& manifest) {
  std::string out = "<dl class=\"small\">";
  if (manifest) {
    const json::Value& identity = manifest->identity;
    const json::Value* spec = identity.find("spec");
    for (const char* key : {"model", "data", "generate", "seeds"})
      if (const json::Value* value = spec ? spec->find(key) : nullptr; value && !value->is_null())
        add_fact(out, key, plain_text(*value));
    if (manifest->layout) add_fact(out, "records", std::to_string(manifest->layout->records.size()));
    for (const auto& [key, value] : identity.members())
      if (key != "spec" && value.type() != json::Type::object && value.type() != json::Type::array)
        add_fact(out, key, plain_text(value));
  }
  add_fact(out, "baseline", findings.baseline());
  add_fact(out, "interventions",
           std::to_string(findings.run().interventions.size()) + " with controls and audit, " +
               std::to_string(findings.main_names().size()) + " shown");
  add_fact(out, "resamples", std::to_string(findings.resamples()));
  return out + "</dl>";
}

std::string what_was_run(const Index& findings, const std::optional<Manifest>& manifest) {
  std::string out = "<h2 id=\"run\">What was run</h2>";
  std::vector<std::vector<std::string>> rows;
  for (const std::string& name : findings.main_names())
    rows.push_back({html_escape(name), html_escape(findings.intervention(name).description)});
  out += html_table({"intervention", "does"}, {0, 0}, rows);
  if (!manifest) return out;
  const auto folded = [&](const char* title, const json::Value& value) {
    out += std::string("<details><summary>") + title + "</summary><pre>" + html_escape(json::dump(value, 2)) +
           "</pre></details>";
  };
  json::Value rest = json::Value::object();
  for (const auto& [key, value] : manifest->identity.members())
    if (key == "spec")
      folded("spec, as resolved", value);
    else
      rest.set(key, value);
  folded("all that decides the results: versions and hashes", rest);
  return out;
}

std::string detection_section(const fs::path& dir, const RunFindings& findings) {
  std::vector<fs::path> stages;  // a stage with a grid has a directory for each of its points
  if (fs::is_directory(dir / "detect"))
    for (const auto& entry : fs::recursive_directory_iterator(dir / "detect"))
      if (entry.path().filename() == "rd.csv") stages.push_back(entry.path().parent_path());
  std::sort(stages.begin(), stages.end());
  std::string out;
  for (const fs::path& stage : stages) {
    const std::vector<RankedExpert> ranking = read_ranking(stage / "rd.csv");
    std::vector<RankedExpert> held_out;
    if (fs::exists(stage / "held_out.csv")) held_out = read_ranking(stage / "held_out.csv");
    const std::string name = "Stage " + stage.lexically_relative(dir / "detect").string();
    const std::string section =
        ranking_section(name, conditions_of(stage), ranking, audit_rows(findings, ranking), held_out);
    const bool point = stage.parent_path() != dir / "detect";
    out += point ? "<details><summary>" + html_escape(name) + "</summary>" + section + "</details>\n" : section;
  }
  if (fs::exists(dir / "audit" / "rd.csv")) {
    const std::vector<RankedExpert> ranking = read_ranking(dir / "audit" / "rd.csv");
    out += ranking_section("The audit's ranking", conditions_of(dir / "audit"), ranking, audit_rows(findings, ranking));
  }
  if (fs::is_directory(dir / "analysis")) out += analysis_sections(dir / "analysis", &findings);
  return out.empty() ? "" : "<h2 id=\"detection\">Which experts differ in use, and what they do</h2>" + out;
}

bool has_analysis(const fs::path& dir) { return fs::exists(dir / "rd.csv") || fs::exists(dir / "usage.csv"); }

}  // namespace

std::string render_run_report(const fs::path& dir, const RunFindings& run) {
  const Index findings(run);
  const std::optional<Manifest> manifest = Manifest::read(dir);
  const std::vector<std::string> shown = findings.main_names();
  const std::vector<std::string> with_examples(
      shown.begin(), shown.begin() + static_cast<int64_t>(std::min(shown.size(), n_example_interventions)));
  SampleDigest samples;
  if (fs::exists(dir / "samples.jsonl")) samples = digest_samples(dir, findings.baseline(), with_examples, n_examples);

  std::vector<std::string> parts = {cross_fit_section(run),      specification_section(run),
                                    dose_section(run),           ends_section(findings, samples),
                                    detection_section(dir, run), examples_section(samples, with_examples)};
  const char* const places[] = {"deals", "curves", "doses", "texts", "detection", "examples"};
  const char* const names[] = {"deal by deal", "every choice", "dose and response", "texts", "detection", "examples"};
  std::string nav = "<nav class=\"small\"><a href=\"#differences\">differences</a>", body;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].empty()) nav += std::string("<a href=\"#") + places[i] + "\">" + names[i] + "</a>";
    body += parts[i];
  }
  nav += "<a href=\"#run\">what was run</a></nav>\n";
  std::string differences = "<h2 id=\"differences\">What the interventions changed</h2>" + legend(findings);
  for (const std::string& metric : findings.metrics()) differences += metric_section(findings, metric);
  return html_page("Signalbox run", "<h1>What the interventions did</h1>" + facts(findings, manifest) + nav +
                                        warning_box(warnings_of(findings, samples)) + differences + body +
                                        what_was_run(findings, manifest));
}

void write_run_report(const fs::path& dir, const RunFindings& findings) {
  write_file_atomically(dir / "report.html", render_run_report(dir, findings));
}

std::string render_analysis_report(const fs::path& dir) {
  const fs::path analysis = fs::is_directory(dir / "analysis") ? dir / "analysis" : dir;
  if (!has_analysis(analysis))
    throw Error(dir.string(), "expected rd.csv or usage.csv in its analysis/ (signalbox analyze), found neither");
  std::string body = "<h1>Routing statistics</h1>";
  if (fs::exists(analysis / "summary.json"))
    body += "<details><summary>tests, resampling unit, seed, traces</summary><pre>" +
            html_escape(json::dump(json::parse_file(analysis / "summary.json"), 2)) + "</pre></details>";
  return html_page("Signalbox analysis", body + analysis_sections(analysis, nullptr));
}

std::string render_report(const fs::path& dir) {
  if (!fs::is_directory(dir)) throw Error(dir.string(), "expected a directory, found none");
  if (fs::exists(dir / "metrics.json")) return render_run_report(dir, read_findings(dir));
  if (schema_of(dir) == run_schema)
    throw Error(dir.string(),
                "expected a finished run with metrics.json, found one that is not (signalbox run goes on)");
  if (has_analysis(dir) || has_analysis(dir / "analysis")) return render_analysis_report(dir);
  throw Error(dir.string(), "expected metrics.json (a run) or analysis/ (signalbox analyze), found neither");
}

}  // namespace signalbox::eval
