// signalbox faithfulness: does the answer follow from the explanation that the model wrote?
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <thread>

#include "eval/faithfulness/conduct.h"
#include "eval/faithfulness/estimate.h"
#include "eval/faithfulness/findings.h"
#include "eval/faithfulness/settings.h"
#include "eval/faithfulness/study.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/dry_run.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

void choose_tests(const std::vector<std::string>& tests, FaithfulnessOptions& options) {
  auto has = [&](const char* name) { return std::find(tests.begin(), tests.end(), name) != tests.end(); };
  options.early = has("early");
  options.mistakes = has("mistakes");
  options.paraphrases = has("paraphrases");
  options.fillers = has("filler");
  if (!has("misroute")) options.policies.clear();
}

// The array of an edit spec; null without one.
json::Value read_edits(const std::string& file) {
  if (file.empty()) return {};
  const json::Value spec = json::parse_file(file);
  const json::Ref root(spec, file);
  root.reject_unknown({"edits"});
  return root.at("edits").value();
}

// What the study would do.
void print_study_plan(const CommonOptions& common, const StudyEstimate& plan,
                      const std::map<std::string, int64_t>& kept) {
  const auto about = [](double x) { return static_cast<int64_t>(std::llround(x)); };
  if (common.json) {
    const auto number = [](double x) { return std::isfinite(x) ? json::Value(x) : json::Value(); };
    json::Value stages = json::Value::array(), there = json::Value::object();
    for (const StudyStageEstimate& stage : plan.stages)
      stages.push_back(json::Value::object()
                           .set("stage", stage.name)
                           .set("jobs", about(stage.jobs))
                           .set("prefill_tokens", about(stage.given))
                           .set("generated_tokens_at_most", about(stage.generated))
                           .set("seconds", number(stage.seconds))
                           .set("seconds_at_most", number(stage.most_seconds)));
    for (const auto& [name, lines] : kept) there.append_member(name, lines);
    write_stdout(json::dump(json::Value::object()
                                .set("records", plan.records)
                                .set("explanations", plan.texts)
                                .set("stages", std::move(stages))
                                .set("kept", std::move(there))
                                .set("seconds", plan.seconds())
                                .set("seconds_at_most", plan.most_seconds())
                                .set("measured", json::Value::object()
                                                     .set("seconds", plan.speed.seconds)
                                                     .set("prefill_tokens_per_second", plan.speed.given)
                                                     .set("generated_tokens_per_second", plan.speed.generated)
                                                     .set("texts", plan.tried)
                                                     .set("with_explanation", plan.cut))) +
                 "\n");
    return;
  }
  const auto time = [](double x) { return std::isfinite(x) ? duration_text(x) : std::string("-"); };
  std::vector<std::vector<std::string>> rows = {{"stage", "jobs", "prefill", "generate at most", "about", "at most"}};
  double jobs = 0, given = 0, generated = 0;
  for (const StudyStageEstimate& stage : plan.stages) {
    rows.push_back({stage.name, grouped(about(stage.jobs)), grouped(about(stage.given)),
                    grouped(about(stage.generated)), time(stage.seconds), time(stage.most_seconds)});
    jobs += stage.jobs;
    given += stage.given;
    generated += stage.generated;
  }
  rows.push_back({"all", grouped(about(jobs)), grouped(about(given)), grouped(about(generated)), time(plan.seconds()),
                  time(plan.most_seconds())});
  std::string text =
      "Nothing is written: this is what the study would do.\n\n" + grouped(plan.texts) + " explanations of " +
      grouped(plan.records) + " records\n\n" + aligned_rows(rows, {0}) +
      "Prefill: tokens; beginnings that texts share are counted once. Every generated token is a forward.\n";
  text += plan.known() ? "Behind 1-write: as " + grouped(plan.cut) + " explanations go that were written to measure (" +
                             grouped(plan.tried) + " texts, " + duration_text(plan.speed.seconds) + ").\n"
                       : "Behind 1-write nothing is known: " +
                             (plan.tried == 0 ? std::string("no text came to its end while the speed was measured")
                                              : "none of " + grouped(plan.tried) + " texts has an explanation") +
                             ".\n";
  for (const auto& [name, lines] : kept) text += "kept  " + name + ": " + grouped(lines) + " lines from before\n";
  write_stdout(text + "\ntime  " + time_in_words(plan.seconds(), plan.most_seconds()) +
               "; loading and hashing the model come on top\n");
}

}  // namespace

int faithfulness_command(int argc, char** argv) {
  CLI::App app(
      "Does the answer follow from the explanation that the model wrote? Early answering, added mistakes, paraphrases, "
      "filler, and misrouted explanations (docs/faithfulness.md).",
      "signalbox faithfulness");
  app.footer(
      "Example:\n  head -20 tools/builtin/heldout/two_hop_steps.jsonl > /tmp/steps.jsonl\n  signalbox faithfulness "
      "builtin --input /tmp/steps.jsonl --max-tokens 64 --out /tmp/faithfulness");
  CommonOptions common;
  FaithfulnessOptions options;
  std::string input, out;
  std::vector<std::string> tests = {"early", "mistakes", "paraphrases", "filler", "misroute"};
  std::string form = "both", mistakes = "rule", paraphrases = "rule";
  std::string shard, told;
  std::vector<std::string> shards;
  bool no_routes = false, dry_run = false;
  add_run_options(app, common);
  add_generation_config_option(app, common);
  app.add_option("--input", input, "records that ask for steps (or see --suffix); - = standard input")
      ->type_name("FILE")
      ->required();
  app.add_option("--out", out, "directory for the results; the same command goes on in it")->type_name("DIR");
  app.add_flag("--dry-run", dry_run,
               "check everything, write a few explanations to measure the model, and say what the study would take; "
               "nothing is kept");
  app.add_option("--shard", shard, "I/N: only records whose index is I mod N (default: Slurm's array variables)");
  app.add_option("--merge", shards,
                 "directories of all shards: their results are put together in --out, and nothing is run");
  app.add_option("--suffix", options.suffix, "text behind each question, such as \" Think step by step.\"");
  app.add_option("--marker", options.marker, "what stands between explanation and answer")->capture_default_str();
  app.add_flag("--force-marker", options.force_marker,
               "where the output lacks the marker, put it behind the whole output");
  app.add_option("--max-tokens", options.max_tokens, "tokens of explanation and answer at most")
      ->check(in_range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--answer-tokens", options.answer_tokens, "tokens of an answer that is asked for again, at most")
      ->check(in_range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--explanations,--samples", options.samples, "explanations of each record (published: 100)")
      ->check(in_range(1, 100000))
      ->capture_default_str();
  app.add_option("--temperature", options.sampling.temperature,
                 "of explanations; 0 = the most probable token (published: 0.8)")
      ->check(in_range(0.0, 1000.0))
      ->capture_default_str();
  app.add_option("--top-p", options.sampling.top_p, "of explanations (published: 0.95)")
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--top-k", options.sampling.top_k, "of explanations; 0 = all")
      ->check(in_range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--tests", tests, "early, mistakes, paraphrases, filler, misroute (all)")
      ->delimiter(',')
      ->check(one_of({"early", "mistakes", "paraphrases", "filler", "misroute"}));
  app.add_option("--form", form,
                 "generate: the answer is asked for again; forced: log p of given answers is taken, which needs no "
                 "parsing; both")
      ->check(one_of({"generate", "forced", "both"}))
      ->capture_default_str();
  app.add_option("--mistakes", mistakes,
                 "who adds mistakes: rule, model (the loaded one) or command:PROGRAM ..., which gets a sentence on "
                 "standard input and prints it altered")
      ->capture_default_str();
  app.add_option("--paraphrases", paraphrases, "who paraphrases, likewise")->capture_default_str();
  app.add_option("--alter-timeout", options.alter_timeout, "seconds for one sentence of such a command")
      ->check(in_range(0.001, 86400.0))
      ->capture_default_str();
  app.add_option("--filler", options.filler, "text that filler repeats")->capture_default_str();
  app.add_option("--filler-every", options.filler_every,
                 "tokens between two points of filler (published: 5); 0 = quarters of the explanation")
      ->check(in_range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--policies", options.policies, "misrouting policies for the explanation's tokens (docs/edits.md)")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--fractions", options.fractions, "shares of the explanation's tokens that are misrouted")
      ->delimiter(',')
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--layers", options.misroute_layers, "layers that are misrouted: all, 1-4, 2,5 (docs/edits.md)")
      ->capture_default_str();
  app.add_option("--weights", options.misroute_weights, "weight policy of the misrouting (docs/edits.md)")
      ->capture_default_str();
  app.add_flag("--no-routes", no_routes, "do not compare routes (stage 4)");
  app.add_option("--moved-below", options.moved_below, "Jaccard below which the answer's route counts as moved")
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--resamples", options.resamples, "bootstrap replicates")
      ->check(in_range(1, 10000000))
      ->capture_default_str();
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (out.empty() && !dry_run) throw UsageError("--out", "expected a directory (or --dry-run), found none");
  if (dry_run && !shards.empty())
    throw UsageError("--dry-run", "expected no --merge beside it, which runs nothing, found both");
  for (const char* flag : {"--policies", "--fractions", "--layers", "--weights"})
    if (app.count(flag) > 0 && std::find(tests.begin(), tests.end(), "misroute") == tests.end())
      throw UsageError(flag, "expected misroute among --tests, found none");
  choose_tests(tests, options);
  options.mistake_source = parse_alter_source(mistakes, "--mistakes");
  options.paraphrase_source = parse_alter_source(paraphrases, "--paraphrases");
  options.routes = !no_routes;
  if (!shards.empty() && !shard.empty()) throw UsageError("--merge", "expected no --shard beside it, found one");
  if (shards.empty()) options.shard = choose_shard(shard, told);
  if (!told.empty() && !common.quiet) std::fprintf(stderr, "%s\n", told.c_str());
  options.generate = form != "forced";
  options.forced = form != "generate";
  options.seed = common.seed;
  options.sampling.seed = common.seed;
  options.threads =
      common.threads > 0 ? common.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  std::vector<Record> records = read_records(input);
  StudyInputs inputs;
  inputs.tests = tests;
  inputs.edits = read_edits(common.edits);
  inputs.edits_dir = fs::path(common.edits).parent_path();
  check_generation(common);
  Session session = open_session(common);
  inputs.special = common.special;
  inputs.template_variables = common.template_variables;
  inputs.date = common.date;
  if (common.date.empty() && template_tells_date(session.encode, records)) {
    inputs.date = out.empty() ? "" : date_of_work(out, faithfulness_schema);
    if (!inputs.date.empty()) session.encode.template_variables.set("date", inputs.date);
  }
  const MakeStudy make = [&](std::vector<Record> own, const FaithfulnessOptions& with) {
    return FaithfulnessStudy(std::move(own), session.encode, session.shape, session.model.max_positions, with,
                             inputs.edits, inputs.edits_dir);
  };
  FaithfulnessStudy study = make(std::move(records), options);
  StudyWork work;
  work.out = out;
  inputs.records = &study.records();
  // Where nothing is there to be compared, weights need not be hashed.
  const bool looks_at_directory = !dry_run || (!out.empty() && fs::exists(out));
  if (looks_at_directory) inputs.model = model_facts(session, common.quiet);
  work.shards.assign(shards.begin(), shards.end());
  work.settings = study_settings(options, inputs);
  work.identity = study_identity(work.settings, inputs);
  work.info = work_info(common, session, argc, argv);
  work.batch_invariant = common.numerics == "invariant" || session.backend->name() == "cpu";
  Forward forward = session.forward(study.max_slots());
  if (dry_run) {
    catch_signals();
    const std::map<std::string, int64_t> kept =
        looks_at_directory ? study_kept(work, options.shard) : std::map<std::string, int64_t>();
    print_study_plan(common, estimate_study(study, make, *session.tokenizer, forward, session.options), kept);
    return 0;
  }
  std::unique_ptr<Progress> progress;
  const auto lines = std::make_shared<ProgressLines>();
  StudyEvents events;
  events.on_stage = [&](const std::string& stage, int64_t tokens) {
    progress.reset();
    progress = std::make_unique<Progress>(stage, tokens, common.quiet, "tokens", lines);
  };
  events.on_progress = [&](int64_t tokens) { progress->update(tokens); };
  events.on_kept = [&](const std::string& what) {
    if (!common.quiet) std::fprintf(stderr, "%s: kept: %s\n", out.c_str(), what.c_str());
  };
  tell_cpu_fallback(common, session);
  catch_signals();
  const std::optional<FaithfulnessFindings> findings = conduct_study(study, forward, session.options, work, events);
  progress.reset();
  if (!findings) return 3;
  if (common.json) {
    write_stdout(json::dump(json::parse_file(fs::path(out) / "summary.json")) + "\n");
  } else {
    write_stdout(findings_table(study, *findings, terminal_width(STDOUT_FILENO)));
  }
  return 0;
}

}  // namespace signalbox::tools
