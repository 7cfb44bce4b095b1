// signalbox rationale experts: experts as rationales, beside other ways to find the words that an answer rests on
// (docs/rationales.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/csv.h"
#include "base/error.h"
#include "base/text.h"
#include "base/text_table.h"
#include "eval/findings/format.h"
#include "eval/rationale/expert_study.h"
#include "probes/edit_spec.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/rationale.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

struct ExpertRationaleFlags {
  CommonOptions common;
  std::string data, out, layers = "all", select = "rd", removal = "both", detect_split = "train", split = "test";
  int64_t top = 8, random = 3, random_experts = 3, resamples = default_resamples, limit = 0;
  bool flips = false, no_gradient = false;
};

CLI::App* add_expert_flags(CLI::App& app, ExpertRationaleFlags& f) {
  CLI::App* c = app.add_subcommand("experts", "words that chosen experts take, and the experts, as rationales");
  c->footer(
      "Example:\n  signalbox rationale convert world tools/builtin/heldout/choices.jsonl --out /tmp/world && signalbox "
      "rationale experts builtin --data /tmp/world/records.jsonl --limit 4 --out /tmp/experts");
  c->add_option("MODEL", f.common.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  c->add_option("--data", f.data, "records with document, choices, choice and evidence (rationale convert writes some)")
      ->type_name("FILE")
      ->required();
  c->add_option("--out", f.out, "directory of scores.csv, experts.csv and results/")->type_name("DIR")->required();
  c->add_option("--detect-split", f.detect_split, "records on which the set is chosen")->capture_default_str();
  c->add_option("--split", f.split, "records that all scores are of")->capture_default_str();
  c->add_option("--limit", f.limit, "the first N records of each of the two; 0: all")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  c->add_option("--layers", f.layers, "layers with a router: 2-5,9 or all")->capture_default_str();
  c->add_option("--select", f.select,
                "rd | usage: experts that evidence selects more often than other words, or most often")
      ->check(one_of({"rd", "usage"}))
      ->capture_default_str();
  c->add_option("--top", f.top, "experts in the set")
      ->check(in_range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  c->add_option(
       "--removal", f.removal,
       "delete | mask | both: words' tokens are not there, or their keys are hidden and others keep their places")
      ->check(one_of({"delete", "mask", "both"}))
      ->capture_default_str();
  c->add_option("--random", f.random, "random rankings of words")
      ->check(in_range(int64_t{0}, int64_t{100000}))
      ->capture_default_str();
  c->add_option("--random-experts", f.random_experts, "sets of experts matched by layer and usage")
      ->check(in_range(int64_t{0}, int64_t{100000}))
      ->capture_default_str();
  c->add_flag("--no-gradient", f.no_gradient, "without input x gradient (which runs on the CPU alone)");
  c->add_flag("--flips", f.flips, "tokens_to_flip: words taken out one by one until another choice wins");
  c->add_option("--resamples", f.resamples, "replicates of intervals and of the null")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  add_experiment_options(*c, f.common);
  return c;
}

std::vector<ChoiceRecord> records_of(const std::vector<Record>& records, const std::string& split, int64_t limit,
                                     const EncodeSetup& setup, const char* flag) {
  std::vector<ChoiceRecord> made;
  for (const Record& record : records)
    if (record.split == split && (limit == 0 || static_cast<int64_t>(made.size()) < limit))
      made.push_back(choice_record(record, setup));
  if (made.empty()) throw UsageError(flag, "expected a split that some record has, found " + in_quotes(split));
  return made;
}

void print_experts(const std::string& out, bool json) {
  const CsvTable scores = CsvTable::read(fs::path(out) / "scores.csv");
  TextTable table({{"words found by", true, true},
                   {"taken out by", true},
                   {"comprehensiveness"},
                   {"sufficiency"},
                   {"AOPC comp."},
                   {"token F1"}});
  struct Row {
    std::string method, removal;
    std::map<std::string, std::string> cells;
  };
  std::vector<Row> rows;
  for (size_t r = 0; r < scores.n_rows(); ++r) {
    const std::string &method = scores.text(r, 0), &removal = scores.text(r, 1), &metric = scores.text(r, 2);
    if (json) {
      json::Value line = json::Value::object();
      for (size_t c = 0; c < 3; ++c) line.set(scores.header()[c], scores.text(r, c));
      for (size_t c = 3; c < scores.header().size(); ++c)
        line.set(scores.header()[c], scores.text(r, c).empty() ? json::Value() : json::Value(scores.number(r, c)));
      write_stdout(json::dump(line) + "\n");
      continue;
    }
    if (removal == "none") continue;
    if (rows.empty() || rows.back().method != method || rows.back().removal != removal)
      rows.push_back({method, removal, {}});
    rows.back().cells[metric] = format_value(scores.number(r, 3), 3);
  }
  if (json) return;
  for (Row& row : rows)
    table.add({row.method, row.removal == "experts" ? "banning experts" : row.removal, row.cells["comprehensiveness"],
               row.cells["sufficiency"], row.cells["comprehensiveness_aopc"], row.cells["token_f1"]});
  write_stdout(table.text(terminal_width(1)) + "\nTables: " + out + "\n");
}

int run_experts(ExpertRationaleFlags& f, int argc, char** argv) {
  CommonOptions& options = f.common;
  const std::vector<Record> records = read_records(f.data);
  if (f.detect_split == f.split)
    throw UsageError("--detect-split", "expected another split than --split, found " + in_quotes(f.split) + " twice");
  Session session = open_session(options);
  keep_date_of(f.out, options, session, records, experts_schema);
  ExpertStudy study;
  study.session = &session;
  study.detect = records_of(records, f.detect_split, f.limit, session.encode, "--detect-split");
  study.test = records_of(records, f.split, f.limit, session.encode, "--split");
  ReadingFlags reading;
  reading.layers = f.layers;
  study.detection.layers = reading.layers_of(session.shape, true);
  study.detection.by_usage = f.select == "usage";
  study.detection.top = f.top;
  study.detection.seed = study.seed = options.seed;
  study.detection.resamples = study.resamples = f.resamples;
  study.detection.threads = study.threads = n_threads(options);
  if (f.removal != "both") study.removals = {f.removal == "mask" ? Removal::mask : Removal::remove};
  if (f.removal != "delete") check_masking(session, study.test);
  study.random = f.random;
  study.random_experts = f.random_experts;
  study.gradient = !f.no_gradient;
  study.flips = f.flips;
  study.dir = f.out;
  RecordingInputs inputs;
  inputs.work = json::Value::object().set("rationale", json::Value::object()
                                                           .set("detect_split", f.detect_split)
                                                           .set("split", f.split)
                                                           .set("limit", f.limit)
                                                           .set("layers", layer_ranges(study.detection.layers))
                                                           .set("select", f.select)
                                                           .set("top", f.top)
                                                           .set("removal", f.removal)
                                                           .set("random", f.random)
                                                           .set("random_experts", f.random_experts)
                                                           .set("gradient", study.gradient)
                                                           .set("flips", f.flips)
                                                           .set("resamples", f.resamples));
  study.manifest =
      manifest_of_records(options, session, session, records, std::move(inputs), experts_schema, argc, argv);
  tell_cpu_fallback(options, session);
  catch_signals();
  study.interrupted = &interrupted;
  std::unique_ptr<Progress> progress;
  const auto lines = std::make_shared<ProgressLines>();
  study.on_stage = [&](const std::string& doing, int64_t total) {
    progress.reset();
    progress = std::make_unique<Progress>(doing, total, options.quiet, "records", lines);
  };
  study.on_progress = [&](int64_t done) { progress->update(done); };
  const ExpertStudyEnd ended = study_experts(study);
  progress.reset();
  if (ended == ExpertStudyEnd::interrupted) {
    std::fprintf(stderr, "interrupted: the same command goes on from here\n");
    return 3;
  }
  if (!options.quiet && ended == ExpertStudyEnd::was_complete)
    std::fprintf(stderr, "%s: was complete\n", f.out.c_str());
  print_experts(f.out, options.json);
  return 0;
}

}  // namespace

Subcommand add_rationale_experts(CLI::App& app) {
  auto flags = std::make_shared<ExpertRationaleFlags>();
  CLI::App* added = add_expert_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_experts(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
