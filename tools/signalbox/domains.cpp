// signalbox domains: prompts of several domains, run and recorded, their routes analysed, and what was found.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "eval/data/domain_prompts.h"
#include "eval/detect/analysis.h"
#include "eval/findings/domain_findings.h"
#include "eval/report/routes_report.h"
#include "eval/routing/route_tables.h"
#include "eval/store/staged_files.h"
#include "probes/trace_schema.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/jobs_plan.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/shown_tables.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

struct DomainsOptions {
  CommonOptions common;
  SamplingOptions sampling;
  std::string input, out, phase = "all";
  RouteTableOptions tables;
  size_t top = 3;
  bool as_messages = false, stop_at_eos = false, dry_run = false;

  fs::path analysis() const { return fs::path(out) / "analysis"; }
  fs::path panel() const { return fs::path(out) / "panel.html"; }
};

// ---- What the domains have

struct DomainSize {
  std::string domain;
  int64_t prompts = 0, given = 0, generated = 0;  // tokens of all samples, generated ones at most
};

std::vector<DomainSize> sizes_of(PreparedRun& run) {
  std::vector<DomainSize> sizes;
  for (const Job& job : run.jobs()) {
    const std::string& domain = run.record_of(job.index).domain;
    auto found = std::find_if(sizes.begin(), sizes.end(), [&](const DomainSize& one) { return one.domain == domain; });
    if (found == sizes.end()) found = sizes.insert(sizes.end(), DomainSize{domain});
    found->prompts += job.sample == 0;
    found->given += job.n_given();
    found->generated += job.max_new();
  }
  return sizes;
}

// ---- The analysis

// What decides the bytes of the analysis.
json::Value analysis_identity(const DomainsOptions& options) {
  const fs::path trace = options.common.trace;
  json::Value tables = json::Value::array(), identity = json::Value::object();
  for (const std::string& table : options.tables.tables) tables.push_back(table);
  identity.set("command", "domains").set("signalbox_version", SIGNALBOX_VERSION);
  identity.set("trace", file_hashes({trace / trace_file, trace / records_file, trace / texts_file}, trace));
  identity.set("tables", std::move(tables)).set("phase", options.phase);
  return identity.set("resamples", options.tables.routes.resamples).set("seed", options.tables.routes.seed);
}

bool is_analysed(const fs::path& dir, const json::Value& identity) {
  if (!fs::exists(dir / "summary.json")) return false;
  const json::Value summary = json::parse_file(dir / "summary.json");
  const json::Value* study = summary.find("study");
  return study && json::dump(*study) == json::dump(identity);
}

// DIR/analysis/, unless it stands there.
void analyse(DomainsOptions& options) {
  const json::Value identity = analysis_identity(options);
  const fs::path dir = options.analysis();
  if (is_analysed(dir, identity)) {
    if (!options.common.quiet) std::fprintf(stderr, "%s: was complete\n", dir.c_str());
    return;
  }
  const TraceSet set({options.common.trace});
  AnalysisOptions of_all;
  of_all.detection.phase = options.tables.routes.filter.phase;
  TraceAnalysis analysis = analyze_traces(set, of_all);
  StagedFiles files(dir, analysis_files());
  write_shown_tables(set, analysis, options.tables, files.path(), options.common.quiet);
  analysis.summary.set("study", identity);
  write_analysis(analysis, files.path(), options.tables.tables);
  files.commit();
}

// The study in pictures: one self-contained file.
void write_panel(const DomainsOptions& options) {
  RoutesPage page;
  page.trace = options.common.trace;
  page.analysis = options.analysis();
  page.title = "Signalbox domains";
  page.heading = "Do domains use experts of their own?";
  write_file_atomically(options.panel(), render_routes(page));
}

void tell_findings(const DomainsOptions& options, PreparedRun& run) {
  const DomainFindings found = domain_findings(options.analysis(), options.top);
  if (options.common.json) {
    json::Value out = json::Value::object(), sentences = json::Value::array();
    for (const std::string& sentence : found.sentences) sentences.push_back(sentence);
    out.set("trace", options.common.trace).set("analysis", options.analysis().string());
    out.set("panel", options.panel().string());
    out.set("findings", std::move(sentences)).set("values", found.values);
    write_stdout(json::dump(out) + "\n");
    return;
  }
  const int width = terminal_width(STDOUT_FILENO);
  std::string text;
  const auto paragraph = [&](const std::string& sentence) {
    text += (width > 0 ? wrapped(sentence, width) : sentence) + "\n";
  };
  const std::vector<DomainSize> sizes = sizes_of(run);
  std::string prompts;
  for (const DomainSize& one : sizes)
    prompts += (prompts.empty() ? "" : ", ") + one.domain + " " + std::to_string(one.prompts);
  paragraph(std::to_string(run.records.size()) + " prompts in " + std::to_string(sizes.size()) +
            (sizes.size() == 1 ? " domain (" : " domains (") + prompts + "); tokens that count: " + options.phase +
            ".");
  for (const std::string& sentence : found.sentences) paragraph(sentence);
  if (!found.experts.rows.empty())
    text += "\nExperts that each domain uses more than the others do:\n\n" + table_text(found.experts, width);
  write_stdout(text + "\nTables: " + options.analysis().string() + "\nPanel: " + options.panel().string() + "\n");
}

}  // namespace

int domains_command(int argc, char** argv) {
  CLI::App app(
      "Do domains of prompts use experts of their own, and do tokens stay with an expert? Runs prompts of several "
      "domains, records the routes, writes every table of analyze, and says what they show (docs/examples/"
      "004-domains.md).",
      "signalbox domains");
  app.footer(
      "Example:\n  signalbox domains builtin --out /tmp/domains --new-tokens 20\n\nThe same command goes on in a "
      "directory where it was stopped, and does no part twice.");
  DomainsOptions options;
  CommonOptions& common = options.common;
  SamplingOptions& sampling = options.sampling;
  sampling.max_tokens = 100;
  add_run_options(app, common);
  auto* input = app.add_option("--input", options.input,
                               "records that have a domain each, instead of our own prompts; - = standard input")
                    ->type_name("FILE");
  app.add_option("--out", options.out, "directory of the study: trace/, analysis/, panel.html")->type_name("DIR");
  app.add_option("--new-tokens", sampling.max_tokens, "tokens to generate for each prompt")
      ->check(in_range(1, 1 << 24))
      ->capture_default_str();
  app.add_flag("--chat", options.as_messages, "our own prompts as messages of a user, in the chat template")
      ->excludes(input);
  add_sampling_options(app, sampling);
  auto* past = app.get_option("--ignore-eos");
  past->description("go on past an end token, so that texts are equally long: what is done anyway");
  app.add_flag("--stop-at-eos", options.stop_at_eos, "end texts at an end token")->group("Sampling")->excludes(past);
  add_generation_config_option(app, common);
  app.add_option("--phase", options.phase, "all | given | generated: only tokens of this phase are analysed")
      ->check(one_of({"all", "given", "generated"}))
      ->capture_default_str();
  app.add_option("--resamples", options.tables.routes.resamples, "replicates of each table's null")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  app.add_option("--top", options.top, "experts to print of each domain")
      ->check(in_range(0, 1 << 20))
      ->capture_default_str();
  app.add_flag("--dry-run", options.dry_run,
               "say what would be run, how long it takes and how large it is; write nothing");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.out.empty() && !options.dry_run)
    throw UsageError("--out", "expected a directory (or --dry-run), found none");
  sampling.ignore_eos = !options.stop_at_eos;
  if (!options.out.empty()) common.trace = (fs::path(options.out) / "trace").string();
  options.tables.tables = parse_route_tables("all");
  RouteOptions& routes = options.tables.routes;
  routes.filter.phase = parse_phase(options.phase, "--phase");
  routes.seed = common.seed;
  routes.threads = common.threads;

  std::vector<Record> records =
      options.input.empty() ? domain_prompts(options.as_messages) : read_records(options.input);
  require_domains(records);
  check_generation(common);
  check_edits(common, records, "");
  Session session = open_session(common);
  keep_date(common, session, records, recorded_schema);
  sampling.sampling.seed = common.seed;
  PreparedRun run = prepare_run(common, session, std::move(records), Generate{sampling.max_tokens, sampling.sampling},
                                sampling.samples);
  JobsOfCommand jobs;
  jobs.doing = "generating";
  jobs.work.set("command", "domains");
  jobs.generate = settings_of(sampling);
  jobs.running = run_options(session, sampling);
  if (options.dry_run) {
    const int64_t kept = samples_kept_of(common, session, run, jobs, argc, argv);
    const auto domain_of = [&](const Job& job) { return run.record_of(job.index).domain; };
    print_jobs_plan(common, session, run, jobs.running,
                    {"domain", "domains", "the study", "tables come on top", domain_of}, kept);
    return 0;
  }
  if (run_jobs_of_command(common, session, run, jobs, argc, argv) == RecordingEnd::interrupted) return 3;
  analyse(options);
  write_panel(options);
  tell_findings(options, run);
  return 0;
}

}  // namespace signalbox::tools
