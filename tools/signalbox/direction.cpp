// signalbox direction: vectors in the residual stream that tell two conditions apart, and what adding them does.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/csv.h"
#include "base/text.h"
#include "base/text_table.h"
#include "eval/direction/validate.h"
#include "eval/findings/format.h"
#include "eval/store/facts.h"
#include "eval/store/staged_files.h"
#include "probes/edit_spec.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/kept.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct ExtractFlags {
  CommonOptions common;
  std::string input, contrast, at = "last", method = "means", split;
};

struct ValidateFlags {
  CommonOptions common;
  std::string dir, input, metric, layers, doses = "-2,-1,-0.5,0.5,1,2";
  int64_t controls = 100, resamples = default_resamples;
};

CLI::App* add_extract_flags(CLI::App& app, ExtractFlags& flags) {
  CLI::App* extract = app.add_subcommand("extract", "a direction behind every layer (docs/direction.md)");
  extract->footer(
      "Example:\n  signalbox direction extract planted --input planted/circuit-0.jsonl --contrast on:off --out "
      "/tmp/direction");
  extract
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*extract, flags.common);
  extract->add_option("--input", flags.input, "records with a condition, a JSON object a line")
      ->type_name("FILE")
      ->required();
  extract->add_option("--contrast", flags.contrast, "two conditions, A:B; directions lead from B to A")
      ->type_name("CONDITIONS")
      ->required();
  extract
      ->add_option("--at", flags.at,
                   "tokens that are read: last (before the target), all, or span:NAME; a mean of several")
      ->type_name("WHERE")
      ->capture_default_str();
  extract
      ->add_option("--method", flags.method,
                   "means: difference of means; paired: mean difference within pairs; lda, logistic: probes")
      ->check(one_of({"means", "paired", "lda", "logistic"}))
      ->type_name("NAME")
      ->capture_default_str();
  extract
      ->add_option("--split", flags.split,
                   "KEY:A,B,C: records whose KEY is A give directions, B choose the layer, C are kept for validate; "
                   "default: a half, a quarter and a quarter, pairs whole, by --seed")
      ->type_name("SPLIT");
  extract->add_option("--out", flags.common.trace, "directory of directions.safetensors")->type_name("DIR")->required();
  return extract;
}

CLI::App* add_validate_flags(CLI::App& app, ValidateFlags& flags) {
  CLI::App* validate = app.add_subcommand("validate", "held-out records, controls, dose curve, through routes or not");
  validate->footer(
      "Example:\n  signalbox direction validate /tmp/direction --input planted/circuit-0.jsonl --metric logit_diff");
  validate->add_option("DIR", flags.dir, "what direction extract wrote")->required();
  add_experiment_options(*validate, flags.common);
  add_cell_options(*validate, flags.common);
  validate->add_option("--input", flags.input, "records; those that gave directions or chose the layer are left out")
      ->type_name("FILE")
      ->required();
  validate->add_option("--metric", flags.metric, "logprob, nll, logit_diff or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  validate
      ->add_option("--layers", flags.layers, "where effects are measured, \"3-6,9\" or all; default: the chosen one")
      ->type_name("LIST");
  validate->add_option("--doses", flags.doses, "multiples of the vector that are added, not 0; controls have dose 1")
      ->type_name("LIST")
      ->capture_default_str();
  validate->add_option("--controls", flags.controls, "control vectors of each kind")
      ->check(in_range(int64_t{1}, int64_t{1000000}))
      ->type_name("N")
      ->capture_default_str();
  validate->add_option("--resamples", flags.resamples, "of intervals")
      ->check(in_range(int64_t{1}, int64_t{10000000}))
      ->type_name("N")
      ->capture_default_str();
  return validate;
}

std::vector<double> read_doses(const std::string& text) {
  std::vector<double> doses;
  const auto wrong = [&]() -> UsageError {
    return UsageError("--doses", "expected numbers other than 0, each once, such as -1,0.5,1, found \"" + text + "\"");
  };
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    size_t used = 0;
    double dose = 0;
    try {
      dose = std::stod(part, &used);
    } catch (const std::exception&) {
      throw wrong();
    }
    if (used != part.size() || !std::isfinite(dose) || dose == 0 ||
        std::find(doses.begin(), doses.end(), dose) != doses.end())
      throw wrong();
    doses.push_back(dose);
    begin = end + 1;
  }
  return doses;
}

std::vector<int64_t> read_effect_layers(const std::string& text, const StoredDirections& stored) {
  if (text.empty()) return {stored.chosen};
  const json::Value value(text);
  const LayerList list = LayerList::parse(json::Ref(value, "--layers"));
  std::vector<int64_t> layers;
  for (int64_t l = 0; l < stored.n_layers; ++l) {
    const bool named = std::any_of(list.items.begin(), list.items.end(),
                                   [&](const LayerList::Item& item) { return item.first <= l && l <= item.last; });
    if (list.all || named) layers.push_back(l);
  }
  for (const LayerList::Item& item : list.items)
    if (item.last >= stored.n_layers)
      throw UsageError("--layers", "expected layers below " + std::to_string(stored.n_layers) + ", found " +
                                       std::to_string(item.last));
  if (layers.empty()) throw UsageError("--layers", "expected at least one layer, found none");
  return layers;
}

// What stands in a directory of directions.
void tell_directions(const CommonOptions& options) {
  const std::filesystem::path dir = options.trace;
  const json::Value summary = json::parse_file(dir / direction_summary_file);
  const int64_t chosen = json::Ref(summary, direction_summary_file).at("layer").integer();
  if (options.json) {
    write_stdout(json::dump(json::Value::object().set("directions", options.trace).set("layer", chosen)) + "\n");
    return;
  }
  const CsvTable selection = CsvTable::read(dir / selection_file);
  TextTable table({{"layer"}, {"length / stream"}, {"router share"}, {"auc"}, {"", false}});
  for (size_t l = 0; l < selection.n_rows(); ++l) {
    const auto value = [&](const char* column) {
      const size_t c = selection.column(column);
      return format_value(selection.text(l, c).empty() ? undefined_number : selection.number(l, c), 3);
    };
    table.add({std::to_string(l), value("relative"), value("router_share"), value("auc"),
               static_cast<int64_t>(l) == chosen ? "chosen" : ""});
  }
  write_stdout(table.text(terminal_width(1)));
}

int run_extract(ExtractFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  ExtractRequest request;
  request.contrast = parse_contrast(flags.contrast, "--contrast");
  request.split = parse_split(flags.split, "--split", direction_sets);
  request.places = parse_places(flags.at, "--at");
  request.estimator = parse_estimator(flags.method, "--method");
  request.seed = options.seed;
  request.input = flags.input;
  std::vector<std::string> own = kept_work_names(direction_files());
  own.emplace_back(validation_folder);
  require_own_directory(options.trace, own, "directions");
  Labelled data = label_records(read_records(flags.input), request.contrast, flags.input);
  split_labelled(data, request.contrast, request.split, request.seed, flags.input);
  Session session = open_session(options);
  session.label = session.path;
  request.weights = weights_json(model_facts(session, options.quiet));
  keep_date(options, session, data.records, direction_schema);
  PreparedRun run;
  run.records = data.records;
  JobsOfCommand work;
  work.schema = direction_schema;
  json::Value settings = json::Value::object();
  settings.set("contrast", flags.contrast).set("at", flags.at).set("method", flags.method).set("split", flags.split);
  if (!session.backend->invariant()) settings.set("chunk", options.chunk).set("batch", options.batch);
  work.work.set("direction", std::move(settings));
  KeptWork kept(options.trace, manifest_of_work(options, session, run, work, argc, argv), extraction_files());
  if (!kept.complete()) {
    catch_signals();
    request.run.interrupted = &interrupted;
    request.run.kept = {kept.stage("streams"), tell_kept(options)};
    request.run.batch = options.batch;
    if (options.chunk > 0) request.run.batch_tokens = options.chunk;
    int64_t tokens = 0;
    for (const Job& job : make_jobs(session, data.records, Generate{}, nullptr).jobs) tokens += job.n_given();
    Progress progress("reading streams", tokens, options.quiet, "tokens");
    request.run.on_progress = [&](int64_t done) { progress.update(done); };
    Extraction found;
    try {
      found = extract_directions(session, data, request);
    } catch (const Error& error) {
      // Streams that do not differ between the conditions, as they were read, are of no use: other flags may follow.
      if (error.where() == "--contrast") kept.drop_stages();
      throw;
    }
    progress.done();
    if (found.interrupted) {
      kept.interrupt();
      return tell_interrupted(options);
    }
    kept.finish([&](const std::filesystem::path& dir) { write_extraction(dir, found, request, session); });
  }
  kept.drop_stages();
  tell_directions(options);
  return 0;
}

int run_validate(ValidateFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  ValidateRequest request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.doses = read_doses(flags.doses);
  request.controls = flags.controls;
  request.resamples = flags.resamples;
  request.seed = options.seed;
  request.input = flags.input;
  request.step_tokens = request.batch_tokens = options.chunk;
  request.step_cells = request.batch = options.batch;
  const StoredDirections stored = read_directions(flags.dir);
  request.layers = read_effect_layers(flags.layers, stored);
  int64_t left_out = 0;
  const Labelled data = held_out_records(stored, read_records(flags.input), flags.input, left_out);
  options.model = stored.model;
  Session session = open_session(options);
  if (session.model_hash != stored.model_hash)
    throw Error(
        (stored.dir / direction_summary_file).string(),
        "model_hash: expected that of " + stored.model + " (" + session.model_hash + "), found " + stored.model_hash);
  const json::Value weights = weights_json(model_facts(session, options.quiet));
  if (const json::Value* known = stored.summary.find("weights"); known && !known->is_null() && *known != weights)
    throw Error(
        (stored.dir / direction_summary_file).string(),
        "weights: expected those of " + stored.model + " (" + json::dump(weights) + "), found " + json::dump(*known));
  session.label = session.path;
  // Its directory is the directions'; a folder below it holds what is at hand.
  options.trace = (stored.dir / validation_folder).string();
  keep_date(options, session, data.records, validation_schema);
  PreparedRun run;
  run.records = data.records;
  JobsOfCommand work;
  work.schema = validation_schema;
  json::Value settings = json::Value::object();
  settings.set("directions", file_hash(stored.dir / directions_file)).set("metric", flags.metric);
  settings.set("layers", flags.layers).set("doses", flags.doses).set("controls", flags.controls);
  settings.set("resamples", flags.resamples);
  if (!session.backend->invariant()) settings.set("chunk", options.chunk).set("batch", options.batch);
  work.work.set("validation", std::move(settings));
  KeptWork kept(options.trace, manifest_of_work(options, session, run, work, argc, argv), {});
  request.stage = [&](const std::string& stage) { return Kept{kept.stage(stage), tell_kept(options)}; };
  catch_signals();
  request.interrupted = &interrupted;
  std::optional<Progress> progress;
  request.on_progress = [&](int64_t done, int64_t of) {
    if (!progress) progress.emplace("steering", of, options.quiet, "vectors");
    progress->update(done);
  };
  Validation found = validate_directions(session, stored, data, request);
  if (progress) progress->done();
  if (found.interrupted) {
    kept.interrupt();
    return tell_interrupted(options);
  }
  found.left_out = left_out;
  write_validation(stored, found, request);
  std::filesystem::remove_all(options.trace);
  if (options.json) {
    for (const ValidationRow& row : found.rows) {
      if (row.kind != "direction") continue;
      const auto number = [](double x) { return std::isnan(x) ? json::Value() : json::Value(x); };
      write_stdout(json::dump(json::Value::object()
                                  .set("layer", row.layer)
                                  .set("part", row.part)
                                  .set("dose", row.dose)
                                  .set("auc", number(row.auc))
                                  .set("effect", number(row.effect))
                                  .set("p", number(row.p))) +
                   "\n");
    }
    return 0;
  }
  TextTable separation({{"layer"}, {"part", false}, {"auc"}, {"95 % interval", false}, {"p"}});
  for (const ValidationRow& row : found.rows)
    if (row.kind == "direction" && row.dose.empty())
      separation.add({std::to_string(row.layer), row.part, format_value(row.auc, 3),
                      format_value(row.ci.lo, 3) + " to " + format_value(row.ci.hi, 3), format_value(row.p, 3)});
  write_stdout(separation.text(terminal_width(1)) + "\n");
  TextTable steering(
      {{"layer"}, {"part", false}, {"dose"}, {"on", false}, {"effect"}, {"routes held"}, {"jaccard"}, {"kl"}});
  for (const SteeringRow& row : found.steering)
    steering.add({std::to_string(row.layer), row.part, row.dose, row.condition, format_value(row.effect, 3),
                  format_value(row.routes_held, 3), format_value(row.jaccard_next, 3), format_value(row.kl, 3)});
  write_stdout(steering.text(terminal_width(1)));
  return 0;
}

}  // namespace

int direction_command(int argc, char** argv) {
  CLI::App app("Directions in the residual stream: what tells two conditions apart, and what adding it does.",
               "signalbox direction");
  app.footer("Example:\n  signalbox help direction extract");
  app.require_subcommand(1);
  ExtractFlags extract;
  ValidateFlags validate;
  const CLI::App* extracting = add_extract_flags(app, extract);
  add_validate_flags(app, validate);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  return extracting->parsed() ? run_extract(extract, argc, argv) : run_validate(validate, argc, argv);
}

}  // namespace signalbox::tools
