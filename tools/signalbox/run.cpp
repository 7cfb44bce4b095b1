// signalbox run: a whole experiment in a run directory.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <set>

#include "base/sha256.h"
#include "eval/experiment/conduct.h"
#include "eval/experiment/findings.h"
#include "eval/findings/metrics_file.h"
#include "eval/report/run_report.h"
#include "eval/score/scorer.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/common.h"
#include "tools/signalbox/experiment.h"

namespace signalbox {

namespace {

namespace fs = std::filesystem;

std::string file_hash(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(file.string(), "cannot read the file");
  Sha256 hash;
  std::vector<char> buffer(1 << 20);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0)
    hash.update(buffer.data(), static_cast<size_t>(in.gcount()));
  return hash.hex();
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
  return text;
}

// Whether what the template prints depends on the date.
bool template_tells_date(const EncodeSetup& setup, const std::vector<Record>& records) {
  if (!setup.chat_template) return false;
  return std::any_of(records.begin(), records.end(), [&](const Record& record) {
    if (record.kind != Record::Kind::messages) return false;
    const auto on = [&](const char* date) {
      json::Value variables = setup.template_variables;
      variables.set("date", date);
      return setup.chat_template->render(record.messages, true, variables).text;
    };
    return on("2001-02-03") != on("2012-11-30");
  });
}

// Files whose content decides results, besides model and data, by the name that the spec gives them.
json::Value hashes_of_files(const ExperimentSpec& spec) {
  std::set<fs::path> files;
  for (const InterventionSpec& intervention : spec.interventions) {
    const json::Ref edits(intervention.edits, spec.where, intervention.path + ".edits");
    for (const json::Ref& ref : edits.items()) {
      const EditSpec edit = EditSpec::parse(ref, spec.base_dir, 0);
      for (const fs::path& file : {edit.file, edit.source.file}) {
        if (file.empty()) continue;
        files.insert(fs::is_directory(file) ? file / "trace.safetensors" : file);
      }
    }
  }
  for (const RankingUse& use : rankings_of(spec))
    if (use.detect.empty()) files.insert(use.file);
  for (const JudgeSpec& judge : spec.judges)
    for (const std::string& word : judge.command)
      if (fs::is_regular_file(word)) files.insert(word);
  json::Value hashes = json::Value::object();
  for (const fs::path& file : files)
    hashes.set(fs::absolute(file).lexically_relative(fs::absolute(spec.base_dir)).generic_string(), file_hash(file));
  return hashes;
}

json::Value identity_of(const CommonOptions& options, const OpenedModel& model, const Experiment& experiment,
                        const EncodeSetup& setup, bool dated) {
  json::Value weights = json::Value::object();
  for (const auto& [name, hash] : hash_weight_files(*model.loaded.resolved.files)) weights.set(name, hash);
  json::Value hashes = json::Value::object();
  hashes.set("model", model.loaded.model_hash).set("weights", std::move(weights));
  hashes.set("tokenizer", model.tokenizer ? json::Value(model.tokenizer->hash()) : json::Value());
  hashes.set("chat_template", model.chat_template ? json::Value(model.chat_template->hash()) : json::Value());
  hashes.set("data", file_hash(experiment.spec.data)).set("files", hashes_of_files(experiment.spec));
  json::Value identity = json::Value::object();
  identity.set("signalbox_version", SIGNALBOX_VERSION).set("hashes", std::move(hashes));
  json::Value rules = json::Value::object();
  for (const auto& [name, version] : score_rule_versions()) rules.set(name, version);
  identity.set("scoring_rules", std::move(rules));
  json::Value stop_tokens = json::Value::array();
  for (const int32_t token : model.stop_tokens) stop_tokens.push_back(int64_t{token});
  identity.set("stop_tokens", std::move(stop_tokens));
  identity.set("device", model.backend->name()).set("isa", model.backend->isa()).set("numerics", options.numerics);
  json::Value variables = setup.template_variables;
  if (!dated) variables.set("date", json::Value());
  identity.set("special", options.special).set("template_variables", std::move(variables));
  return identity;
}

json::Value info_of(const CommonOptions& options, const OpenedModel& model, const Experiment& experiment, int argc,
                    char** argv) {
  json::Value arguments = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  json::Value info = json::Value::object();
  info.set("argv", std::move(arguments)).set("model_path", model.loaded.resolved.path);
  if (!model.loaded.resolved.commit.empty()) info.set("model_commit", model.loaded.resolved.commit);
  info.set("data_path", fs::absolute(experiment.spec.data).string());
  info.set("spec_given", experiment.spec.source).set("spec_hash", sha256_hex(json::dump(experiment.spec.source)));
  info.set("compiler", __VERSION__).set("threads", options.threads);
  return info.set("batch", options.batch).set("chunk", options.chunk);
}

// What needs text in a model that has none.
void refuse_without_tokenizer(const ExperimentSpec& spec, const OpenedModel& model) {
  if (model.tokenizer) return;
  const auto refuse = [&](const std::string& what) {
    throw Error(spec.where, what + ": expected a model with a tokenizer, found none");
  };
  if (spec.generate && !spec.generate->stop.empty()) refuse("generate.stop");
  if (!spec.judges.empty()) refuse("judges");
  for (const std::string& metric : spec.metrics) {
    const Scorer* scorer = find_scorer(metric);
    if (scorer && scorer->needs == Needs::text && !scorer->tokens_only) refuse("metrics: " + metric);
  }
}

// One progress bar at a time, one for each stage.
class Stages {
 public:
  explicit Stages(bool quiet) : quiet_(quiet) {}
  void begin(const std::string& what, int64_t total) { progress_ = std::make_unique<Progress>(what, total, quiet_); }
  void update(int64_t done) {
    if (progress_) progress_->update(done);
  }
  void note(const std::string& line) {
    if (progress_) progress_->done();
    if (!quiet_) std::fprintf(stderr, "%s\n", line.c_str());
  }
  void end() { progress_.reset(); }

 private:
  bool quiet_;
  std::unique_ptr<Progress> progress_;
};

}  // namespace

int run_experiment(ExperimentSpec spec, CommonOptions options, const ExperimentRun& run, int argc, char** argv) {
  std::string told;
  const Shard shard = choose_shard(run.shard, told);
  Experiment experiment = open_experiment(std::move(spec));
  if (!told.empty() && !options.quiet) std::fprintf(stderr, "%s\n", told.c_str());

  options.model = experiment.spec.model;
  OpenedModel model = open_model(options);
  ExperimentModel opened;
  EncodeSetup setup = encode_setup(options, model);
  const bool dated = template_tells_date(setup, experiment.records);
  if (dated && options.date.empty()) {
    // The day on which the run began.
    const auto before = fs::exists(fs::path(run.out) / manifest_file) ? Manifest::read(run.out) : std::nullopt;
    const json::Value* variables = before ? before->identity.find("template_variables") : nullptr;
    const json::Value* date = variables ? variables->find("date") : nullptr;
    setup.template_variables.set("date", date && date->is_string() ? date->string() : today());
  }
  opened.backend = model.backend.get();
  opened.model = &model.loaded.model;
  opened.weights = &model.loaded.weights;
  opened.shape = model.shape;
  opened.encode = setup;
  opened.options = run_options(options, model, {});
  // The model by the name that the spec gives it: traces of shards must be alike wherever it lies.
  opened.trace_metadata = trace_metadata(options, model, experiment.spec.source.find("model")->string());
  refuse_without_tokenizer(experiment.spec, model);

  ConductOptions conducting;
  conducting.out = run.out;
  conducting.shard = shard;
  conducting.identity = identity_of(options, model, experiment, setup, dated);
  conducting.info = info_of(options, model, experiment, argc, argv);
  conducting.threads = options.threads;
  conducting.on_findings = write_run_report;
  Stages stages(options.quiet);
  ConductEvents events;
  events.on_stage = [&](const std::string& what, int64_t total) { stages.begin(what, total); };
  events.on_progress = [&](int64_t done) { stages.update(done); };
  events.on_note = [&](const std::string& line) { stages.note(line); };
  catch_signals();
  const RunEnd end = conduct(experiment, opened, conducting, events);
  stages.end();
  if (end == RunEnd::interrupted) {
    if (!options.quiet) std::fprintf(stderr, "%s: the same command goes on from here\n", run.out.c_str());
    return 3;
  }
  const RunFindings findings = read_findings(fs::path(run.out));
  if (options.json) {
    write_stdout(json::dump(metrics_json(findings)) + "\n");
  } else {
    if (end == RunEnd::was_complete && !options.quiet) std::fprintf(stderr, "%s: was complete\n", run.out.c_str());
    write_stdout(findings_text(run.out, findings) + "\nReport: " + (fs::path(run.out) / "report.html").string() + "\n");
  }
  return 0;
}

void add_experiment_run_options(CLI::App& app, CommonOptions& options, ExperimentRun& run, bool out_required) {
  app.add_option("--out", run.out, "the run directory (docs/run-directory.md)")->required(out_required);
  app.add_option("--shard", run.shard, "I/N: only records whose index is I mod N (default: Slurm's array variables)");
  // Bytes must not depend on where a run stopped and went on.
  options.numerics = "invariant";
  add_experiment_options(app, options);
}

int run_command(int argc, char** argv) {
  CLI::App app("Runs an experiment (docs/experiments.md) in a directory, or goes on with it where it stopped.",
               "signalbox run");
  app.footer("Example:\n  signalbox run docs/examples/misroute.json --out out/first-run");
  CommonOptions options;
  ExperimentRun run;
  std::string spec_file;
  app.add_option("SPEC", spec_file, "the experiment, a JSON file")->required();
  add_experiment_run_options(app, options, run, true);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  ExperimentSpec spec = load_experiment(spec_file);
  if (app.count("--seed") > 0) {
    if (spec.source.find("seeds"))
      throw UsageError("--seed", "expected no seed beside the spec's \"seeds\", found " + std::to_string(options.seed));
    spec.seeds = {options.seed};
  }
  return run_experiment(std::move(spec), options, run, argc, argv);
}

}  // namespace signalbox
