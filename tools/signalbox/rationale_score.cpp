// signalbox rationale score: rationales against evidence, by the definitions of the ERASER benchmark
// (docs/rationales.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/files.h"
#include "eval/findings/format.h"
#include "eval/rationale/eraser_scores.h"
#include "eval/store/facts.h"
#include "eval/store/work_directory.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/rationale.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

namespace {

constexpr const char* eraser_schema = "signalbox.eraser/1";

struct EraserFlags {
  std::string data, split, results, out;
  EraserSettings settings;
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  bool json = false, quiet = false;
};

CLI::App* add_eraser_flags(CLI::App& app, EraserFlags& flags) {
  CLI::App* command = app.add_subcommand("score", "results.jsonl of ERASER against its evidence");
  command->footer(
      "Example:\n  signalbox rationale score --data tests/rationale/eraser --split test --results "
      "tests/rationale/eraser/results.jsonl --out /tmp/eraser");
  command->add_option("--data", flags.data, "directory of docs/ (or docs.jsonl) and SPLIT.jsonl")
      ->type_name("DIR")
      ->required();
  command->add_option("--split", flags.split, "train, val, test: the name of the annotations' file")
      ->type_name("NAME")
      ->required();
  command->add_option("--results", flags.results, "results to score, one annotation a line")
      ->type_name("FILE")
      ->required();
  command->add_option("--out", flags.out, "directory of eraser.json")->type_name("DIR")->required();
  command->add_option("--iou", flags.settings.iou_thresholds, "thresholds of intersection over union")
      ->delimiter(',')
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--thresholds", flags.settings.aopc_thresholds, "thresholds that AOPC is taken over")
      ->delimiter(',')
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", flags.seed, "of the bootstrap")->check(at_least(0))->capture_default_str();
  command->add_option("--resamples", flags.resamples, "replicates of the bootstrap")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  command->add_flag("--json", flags.json, "print eraser.json");
  command->add_flag("--quiet", flags.quiet, "no messages");
  return command;
}

// The numbers that people look for first.
void print_scores(const json::Value& scores, const std::string& out) {
  const json::Value& eraser = *scores.find("eraser");
  std::string text;
  const auto line = [&](const char* name, const json::Value* value) {
    if (value && value->is_number()) text += std::string(name) + "  " + format_value(value->real(), 4) + "\n";
  };
  const auto at = [](const json::Value* of, std::initializer_list<const char*> path) {
    for (const char* key : path)
      if (of && of->type() == json::Type::object) of = of->find(key);
    return of;
  };
  if (const json::Value* iou = eraser.find("iou_scores"); iou && !iou->is_null()) {
    line("IOU F1 (macro)             ", at(&iou->items().front(), {"macro", "f1"}));
    line("IOU F1, one to one (micro) ",
         at(&scores.find("one_to_one")->find("iou_scores")->items().front(), {"micro", "f1"}));
    line("token F1 (macro)           ", at(&eraser, {"token_prf", "instance_macro", "f1"}));
  }
  line("AUPRC                      ", at(&eraser, {"token_soft_metrics", "auprc"}));
  for (const auto& [name, key] : {std::pair("accuracy                   ", "accuracy"),
                                  std::pair("comprehensiveness          ", "comprehensiveness"),
                                  std::pair("sufficiency                ", "sufficiency"),
                                  std::pair("AOPC comprehensiveness     ", "comprehensiveness_aopc"),
                                  std::pair("AOPC sufficiency           ", "sufficiency_aopc")})
    line(name, at(&eraser, {"classification_scores", key}));
  write_stdout(text + "all scores: " + out + "/eraser.json\n");
}

int run_score(const EraserFlags& flags, int argc, char** argv) {
  const std::filesystem::path annotations_file = std::filesystem::path(flags.data) / (flags.split + ".jsonl");
  EraserDocuments documents(flags.data);
  const std::vector<EraserAnnotation> annotations = read_eraser_annotations(annotations_file);
  const std::vector<EraserResult> results = read_eraser_results(flags.results, documents);
  json::Value scores = json::Value::object();
  scores.set("schema", eraser_schema)
      .set("split", flags.split)
      .set("annotations", static_cast<int64_t>(annotations.size()))
      .set("results", static_cast<int64_t>(results.size()))
      .set("eraser", eraser_scores(annotations, results, documents, flags.settings))
      .set("one_to_one", one_to_one_scores(annotations, results, documents, flags.settings));
  if (results.front().classification)
    scores.set("intervals", eraser_intervals(results, flags.settings, flags.seed, flags.resamples));
  Manifest manifest;
  manifest.schema = eraser_schema;
  json::Value thresholds = json::Value::array(), iou = json::Value::array();
  for (const double x : flags.settings.aopc_thresholds) thresholds.push_back(x);
  for (const double x : flags.settings.iou_thresholds) iou.push_back(x);
  manifest.identity = json::Value::object()
                          .set("signalbox_version", SIGNALBOX_VERSION)
                          .set("split", flags.split)
                          .set("annotations", file_hash(annotations_file))
                          .set("results", file_hash(flags.results))
                          .set("iou", std::move(iou))
                          .set("thresholds", std::move(thresholds))
                          .set("seed", static_cast<int64_t>(flags.seed))
                          .set("resamples", flags.resamples);
  json::Value arguments = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  manifest.info = json::Value::object().set("argv", std::move(arguments));
  WorkDirectory work(flags.out, manifest);
  if (!work.complete()) {
    write_file_atomically(std::filesystem::path(flags.out) / "eraser.json", json::dump(scores, 2) + "\n");
    work.finish(RunStatus::complete);
  } else if (!flags.quiet) {
    std::fprintf(stderr, "%s: was complete\n", flags.out.c_str());
  }
  if (flags.json)
    write_stdout(json::dump(scores) + "\n");
  else
    print_scores(scores, flags.out);
  return 0;
}

}  // namespace

Subcommand add_rationale_score(CLI::App& app) {
  auto flags = std::make_shared<EraserFlags>();
  CLI::App* added = add_eraser_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_score(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
