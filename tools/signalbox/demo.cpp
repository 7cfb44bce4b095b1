// signalbox demo: a first experiment on the built-in model, run as `signalbox run` runs any other, and its result in
// five sentences.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "eval/findings/metrics_file.h"
#include "eval/report/sentences.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/experiment.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

// All but the data, and how many experts are banned.
constexpr const char* demo_spec = R"({
  "model": "builtin",
  "generate": {"max_tokens": 16},
  "detect": {"memory": {"contrast": "without_document:with_document", "span": "question"}},
  "interventions": [
    {"name": "baseline"},
    {"name": "off", "edits": [{"op": "deactivate", "mode": "ban", "experts": {"from": "detect:memory", "top": "$top"}}]}
  ],
  "controls": {"random": 20, "bottom": true},
  "split": {"detect": "detect", "test": "test"},
  "metrics": ["em", "abstained"]
})";

json::Value spec_of(const std::string& data, int64_t experts, uint64_t seed) {
  std::string text = demo_spec;
  text.replace(text.find("\"$top\""), 6, std::to_string(experts));
  json::Value spec = json::parse(text, "demo");
  spec.set("data", fs::absolute(data).lexically_normal().string());
  return spec.set("seeds", json::Value::array().push_back(seed));
}

// Where the built-in model's record sets are: in a checkout, or beside the installed binary (cmake/install.cmake).
std::string default_data() {
  const std::string checkout = "tools/builtin/heldout";
  std::error_code failed;
  const fs::path binary = fs::read_symlink("/proc/self/exe", failed);
  if (failed || fs::exists(checkout)) return checkout;
  const fs::path installed = binary.parent_path().parent_path() / "share/signalbox/builtin/heldout";
  return fs::exists(installed) ? installed.string() : checkout;
}

}  // namespace

int demo_command(int argc, char** argv) {
  CLI::App app(
      "A first experiment: which experts does the built-in model use to answer from memory, and what happens without "
      "them?",
      "signalbox demo");
  app.footer("Example:\n  signalbox demo --data tools/builtin/heldout --out out/demo");
  CommonOptions options;
  ExperimentRun run;
  std::string data = default_data();
  int64_t experts = 8;
  bool print_spec = false;
  app.add_option("--data", data, "pairs of questions with and without a document, or the directory of pairs.jsonl")
      ->capture_default_str();
  app.add_option("--experts", experts, "experts to switch off")->check(in_range(1, 1000))->capture_default_str();
  app.add_flag("--spec", print_spec, "print the experiment's spec and stop");
  run.out = "out/demo";
  options.batch = 16;
  add_experiment_run_options(app, options, run);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  const json::Value spec =
      spec_of(fs::is_directory(data) ? (fs::path(data) / "pairs.jsonl").string() : data, experts, options.seed);
  if (print_spec) {
    write_stdout(json::dump(spec, 2) + "\n");
    return 0;
  }
  const int code =
      run_experiment(parse_experiment(json::Ref(spec, "demo"), fs::current_path()), options, run, argc, argv);
  if (code != 0 || options.json || run.dry_run) return code;

  EffectStory story;
  story.asked = "which " + std::to_string(experts) +
                " experts does the model use more when a question comes without its document, and does it need them to "
                "answer from memory (chosen on one half of the questions, tested on the other)?";
  story.intervention = "off";
  story.changed = "with these experts switched off";
  story.metric = "em";
  story.condition = "without_document";
  story.counted = "right answers from memory";
  story.elsewhere = "with_document";
  story.counted_there = "right answers from a document";
  std::string text;
  const int width = terminal_width(STDOUT_FILENO);
  for (const std::string& sentence :
       effect_sentences(read_findings(fs::path(run.out)), story, (fs::path(run.out) / "report.html").string()))
    text += "\n" + (width > 0 ? wrapped(sentence, width) : sentence) + "\n";
  write_stdout(text);
  return 0;
}

}  // namespace signalbox::tools
