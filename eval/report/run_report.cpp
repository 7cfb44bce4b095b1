#include "eval/report/run_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/no_number.h"
#include "base/text.h"
#include "eval/data/hints.h"
#include "eval/findings/audit.h"
#include "eval/findings/edit_totals.h"
#include "eval/findings/format.h"
#include "eval/findings/intervals.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/scope.h"
#include "eval/findings/tables.h"
#include "eval/report/attribution_report.h"
#include "eval/report/charts.h"
#include "eval/report/circuit_report.h"
#include "eval/report/curve_report.h"
#include "eval/report/detection_report.h"
#include "eval/report/differences.h"
#include "eval/report/direction_report.h"
#include "eval/report/dose_report.h"
#include "eval/report/edges_report.h"
#include "eval/report/faithfulness_report.h"
#include "eval/report/findings_index.h"
#include "eval/report/map_report.h"
#include "eval/report/page.h"
#include "eval/report/patch_report.h"
#include "eval/report/regimes_report.h"
#include "eval/report/routes_report.h"
#include "eval/report/run_grid.h"
#include "eval/report/run_headline.h"
#include "eval/report/run_ranking.h"
#include "eval/report/run_texts.h"
#include "eval/report/run_tokens.h"
#include "eval/report/sample_digest.h"
#include "eval/score/scorer.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// Below these a reader is warned.
constexpr int64_t few_records = 20;
constexpr double much_truncated = 0.05;
constexpr double other_use = 0.1;  // of the named experts' use: so much is another frequency

std::string percent(int64_t part, int64_t whole) {
  return whole == 0 ? "-" : format_value(100.0 * static_cast<double>(part) / static_cast<double>(whole), 1) + " %";
}

// ---- What to be careful with

// Declining more often while texts also repeat or break off is damage, not caution.
void warn_of_degeneration(const FindingsIndex& findings, const SampleDigest& samples, std::vector<std::string>& out) {
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
      if (!signs.empty()) names[abridged(signs)].push_back(name);
    }
    for (const auto& [signs, list] : names)
      out.push_back(std::string(metric) + " rises, but " + signs + ": the model may be degenerating rather than " +
                    "declining under " + abridged(list) + ". Read the texts below.");
  }
}

// The smallest p that sign flips of so many units can give.
double least_p(int64_t units) { return std::pow(2.0, 1.0 - static_cast<double>(units)); }

// Controls that share experts with what they control, and matched ones that are used less or more.
void warn_of_controls(const FindingsIndex& findings, std::vector<std::string>& out) {
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

std::vector<std::string> warnings_of(const FindingsIndex& findings, const SampleDigest& samples) {
  std::vector<std::string> out;
  if (findings.run().data) out = cautions_of(*findings.run().data);
  for (std::string& caution : edit_cautions(findings.run())) out.push_back(std::move(caution));
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
    out.push_back("Few records, or pairs, with a value: " + abridged({few.begin(), few.end()}) + ". With fewer than " +
                  std::to_string(few_records) +
                  " intervals cover less than they say and small effects cannot be seen.");
  if (!no_test.empty())
    out.push_back("No difference of " + abridged({no_test.begin(), no_test.end()}) + " can be significant: over " +
                  std::to_string(least) + " records or pairs the smallest p there is is " + format_p(least_p(least)) +
                  ", since only so many patterns of signs exist.");
  if (!findings.has_controls())
    out.push_back(
        "No matched controls were run: without them nothing says whether any other experts, or any other "
        "disturbance of that size, would have had the same effect.");
  if (!few_ranks.empty())
    out.push_back("Fewer than " + std::to_string(enough_controls) + " random controls for " +
                  abridged({few_ranks.begin(), few_ranks.end()}) +
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
        "Many texts reach max_tokens and are cut off: " + abridged(cut) +
        ". What would have come after is unknown. Scores take a cut text as it stands: \"refused\" or \"em\" 0 "
        "means that no refusal, or no right answer, stands in what was written, not that the model would have "
        "answered, or erred. Raise max_tokens.");
  warn_of_degeneration(findings, samples, out);
  return out;
}

// What the findings are about where it is less than the run.
std::string scope_box(const RunFindings& run) {
  const std::vector<std::string> lines = scope_lines(run);
  if (lines.empty()) return "";
  std::string out = "<div class=\"warn\" id=\"scope\">";
  for (size_t i = 0; i < lines.size(); ++i)
    out += i == 0 ? "<b>" + html_escape(lines[i]) + "</b>" : "<p>" + html_escape(lines[i]) + "</p>";
  return out + "</div>\n";
}

std::string warning_box(const std::vector<std::string>& warnings) {
  if (warnings.empty()) return "";
  std::string out = "<div class=\"warn\" id=\"warnings\"><b>What to be careful with</b>";
  for (const std::string& warning : warnings) out += "<p>" + html_escape(warning) + "</p>";
  return out + "</div>\n";
}

// ---- Texts

std::string ends_section(const FindingsIndex& findings, const SampleDigest& samples) {
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
  return "<h2 id=\"ends\">How texts ended</h2><p class=\"small\">Cut off: stopped by max_tokens. A refusal, an "
         "abstention "
         "or a \"safe\" verdict on a text that is cut off, empty or repeats itself says little.</p>" +
         html_table(headings, numeric, rows);
}

// ---- What was run

void add_fact(std::string& out, const std::string& name, const std::string& value) {
  if (!value.empty()) out += "<dt>" + html_escape(name) + "</dt><dd>" + html_escape(value) + "</dd>";
}

std::string facts(const FindingsIndex& findings, const std::optional<Manifest>& manifest) {
  std::string out = "<dl class=\"small\">";
  if (manifest) {
    const json::Value& identity = manifest->identity;
    const json::Value* spec = identity.find("spec");
    for (const char* key : {"model", "adapter", "data", "generate", "seeds"})
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

std::string what_was_run(const FindingsIndex& findings, const std::optional<Manifest>& manifest) {
  std::string out = "<h2 id=\"run\">What was run</h2>";
  if (const std::string command = manifest ? command_of(*manifest) : std::string(); !command.empty())
    out += "<p class=\"small\">Made with, and made again by:</p><pre id=\"command\">" + html_escape(command) + "</pre>";
  out += facts(findings, manifest);
  std::vector<std::vector<std::string>> rows;
  for (const std::string& name : findings.main_names())
    rows.push_back({html_escape(name), html_escape(findings.intervention(name).description),
                    html_escape(experts_text(findings.intervention(name).experts))});
  out += html_table({"intervention", "does", "experts"}, {0, 0, 0}, rows);
  if (const FindingsTable edits = edit_table(findings.run()); !edits.rows.empty())
    out += "<h3>" + html_escape(edits.title) + "</h3>" + html_table(edits);
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
  if (const json::Value* given = manifest->info.find("spec_given")) folded("spec, as given", *given);
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
  size_t number = 0;
  const auto ranking_of = [&](const fs::path& at, const std::string& title) {
    RankingView view;
    view.id = "ranking-" + std::to_string(number++);
    view.title = title;
    view.use = ranked_use(at);
    view.experts = read_ranking(at / "rd.csv");
    if (fs::exists(at / "held_out.csv")) view.held_out = read_ranking(at / "held_out.csv");
    view.audit = audit_rows_by_condition(findings, view.experts);
    return ranking_figures(view, findings);
  };
  for (const fs::path& stage : stages) {
    const std::string name = "Stage " + stage.lexically_relative(dir / "detect").string();
    const std::string section = ranking_of(stage, name);
    const bool point = stage.parent_path() != dir / "detect";
    out += point ? "<details><summary>" + html_escape(name) + "</summary>" + section + "</details>\n" : section;
  }
  if (fs::exists(dir / "audit" / "rd.csv")) out += ranking_of(dir / "audit", "The audit's ranking");
  if (fs::is_directory(dir / "analysis")) out += analysis_sections(dir / "analysis", &findings);
  return out.empty() ? "" : "<h2 id=\"detection\">Which experts differ in use, and what they do</h2>" + out;
}

}  // namespace

std::string render_run_report(const fs::path& dir, const RunFindings& run) {
  const FindingsIndex findings(run);
  const std::optional<Manifest> manifest = Manifest::read(dir);
  const std::vector<std::string> shown = findings.main_names();
  SampleDigest samples;
  if (fs::exists(dir / "samples.jsonl")) samples = digest_samples(dir, findings.baseline(), shown);

  const std::vector<std::string> parts = {cross_fit_section(run),           specification_section(run),
                                          grid_section(findings, manifest), dose_section(findings, manifest),
                                          ends_section(findings, samples),  detection_section(dir, run),
                                          texts_section(samples),           tokens_section(dir, findings)};
  const char* const places[] = {"deals", "curves", "grids", "doses", "ends", "detection", "texts", "tokens"};
  const char* const names[] = {"deal by deal",    "every choice", "grids", "dose and response",
                               "how texts ended", "detection",    "texts", "token by token"};
  std::string nav =
                  "<nav class=\"small\"><a href=\"#found\">findings</a><a href=\"#overview\">in one view</a>"
                  "<a href=\"#differences\">differences</a>",
              body;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].empty()) nav += std::string("<a href=\"#") + places[i] + "\">" + names[i] + "</a>";
    body += parts[i];
  }
  nav += "<a href=\"#run\">what was run</a></nav>\n";
  const RunTitle title = title_of(findings, manifest);
  return html_page(title.title, "<h1>" + html_escape(title.title) + "</h1><p id=\"question\">" +
                                    html_escape(title.question) + "</p>" + scope_box(run) + nav +
                                    found_section(findings) + warning_box(warnings_of(findings, samples)) +
                                    overview_section(findings) + differences_section(findings) + body +
                                    what_was_run(findings, manifest));
}

void write_run_report(const fs::path& dir, const RunFindings& findings) {
  write_file_atomically(dir / "report.html", render_run_report(dir, findings));
  std::error_code failed;
  fs::remove(dir / partial_report_file, failed);
}

namespace {

// What a complete directory of each schema has, by which its page is known.
constexpr std::pair<const char*, const char*> file_of_page[] = {{"signalbox.faithfulness/1", "summary.json"},
                                                                {"signalbox.map/1", "map.safetensors"},
                                                                {"signalbox.patch/1", "patch.csv"},
                                                                {"signalbox.edges/1", "edges.csv"},
                                                                {"signalbox.attribution/1", "attribution.csv"},
                                                                {"signalbox.circuit_study/1", "graph.json"},
                                                                {"signalbox.direction/1", "selection.csv"}};

// Why a directory that is none of those with a page has none.
std::string why_no_page(const fs::path& dir) {
  const std::string with_pages =
      "a run, a trace, an analysis, regimes, a faithfulness study, or what causal map, patch, edges or attribute, "
      "circuit discover, or direction extract wrote";
  const std::string schema = schema_of(dir);
  if (schema.empty())
    return "expected a directory that has a page (" + with_pages + "), found none of their files in it";
  const Manifest manifest = *Manifest::read(dir, schema);
  std::string command = "signalbox";
  const json::Value* argv = manifest.info.find("argv");
  for (size_t i = 0; argv && i < argv->items().size(); ++i)
    if (argv->items()[i].is_string()) command += " " + shell_word(argv->items()[i].string());
  if (manifest.status != RunStatus::complete)
    return "expected finished work, found one that is " + std::string(run_status_name(manifest.status)) +
           (manifest.shard.whole() ? "" : " (shard " + manifest.shard.text() + ")") + " and has no tables yet; " +
           (manifest.status == RunStatus::failed ? "this failed and may be put right: " : "this goes on with it: ") +
           command + (manifest.shard.whole() ? "" : " (and signalbox merge puts the shards together)");
  for (const auto& [of, file] : file_of_page)
    if (schema == of)
      return std::string("expected ") + file +
             ", which the work here had finished, found none; this makes it again: " + command;
  return "expected a directory that has a page (" + with_pages + "), found " + schema +
         ", whose tables are to be read as they are (" + command + ")";
}

}  // namespace

std::string render_report(const fs::path& dir) {
  if (!fs::is_directory(dir)) throw Error(dir.string(), "expected a directory, found none");
  if (fs::exists(dir / "metrics.json")) return render_run_report(dir, read_findings(dir));
  if (schema_of(dir) == run_schema)
    throw Error(dir.string(), "expected a finished run with metrics.json, found none (its command goes on with it)");
  if (is_faithfulness_directory(dir)) return render_faithfulness_report(dir);
  if (is_map_directory(dir)) return render_map_report(dir);
  if (is_patch_directory(dir)) return render_patch_report(dir);
  if (is_attribution_directory(dir)) return render_attribution_report(dir);
  if (is_edges_directory(dir)) return render_edges_report(dir);
  if (is_circuit_directory(dir)) return render_circuit_report(dir);
  if (is_direction_directory(dir)) return render_direction_report(dir);
  // Of a trace that was analysed too, DIR/regimes has the page of the regimes.
  if (is_regimes_directory(dir) && !fs::exists(dir / "analysis")) return render_regimes_report(dir);
  if (is_routes_directory(dir)) return render_routes(routes_of_directory(dir));
  throw Error(dir.string(), why_no_page(dir));
}

}  // namespace signalbox::eval
