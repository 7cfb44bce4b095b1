// signalbox deactivate and signalbox misroute: the two common experiments from flags alone. Each makes a spec, which
// --spec prints instead of running it, and runs it as `signalbox run` would.
#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>

#include "tools/signalbox/commands.h"
#include "tools/signalbox/experiment.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct Shortcut {
  CommonOptions options;
  ExperimentRun run;
  std::string data, test_split, detect_split;
  std::vector<std::string> metrics;
  int64_t max_tokens = 64, controls = 20;
  bool print_spec = false;
};

void add_shortcut_options(CLI::App& app, Shortcut& shortcut) {
  app.add_option("MODEL", shortcut.options.model, "a directory, org/name[@revision], or builtin")->required();
  app.add_option("--data", shortcut.data, "records (docs/data.md)")->type_name("FILE")->required();
  app.add_option("--metrics", shortcut.metrics,
                 "scores, separated by commas (docs/scores.md); default: those that apply")
      ->delimiter(',');
  app.add_option("--max-tokens", shortcut.max_tokens, "tokens to generate, 0 = none: targets are scored")
      ->check(in_range(0, 1 << 24))
      ->capture_default_str();
  app.add_flag("--spec", shortcut.print_spec, "print the experiment's spec and stop");
  add_experiment_run_options(app, shortcut.options, shortcut.run);
}

json::Value list_of(const std::vector<std::string>& items) {
  json::Value list = json::Value::array();
  for (const std::string& item : items) list.push_back(item);
  return list;
}

// The spec of a shortcut but for its interventions. Paths are made absolute: the spec may be moved.
json::Value common_spec(const Shortcut& shortcut) {
  namespace fs = std::filesystem;
  json::Value spec = json::Value::object();
  const std::string& model = shortcut.options.model;
  spec.set("model", fs::is_directory(model) ? fs::absolute(model).lexically_normal().string() : model);
  spec.set("data", fs::absolute(shortcut.data).lexically_normal().string());
  if (!shortcut.options.adapters.empty()) {
    json::Value adapters = json::Value::array();
    for (const std::string& adapter : shortcut.options.adapters)
      adapters.push_back(fs::absolute(adapter).lexically_normal().string());
    spec.set("adapter", std::move(adapters));
  }
  if (shortcut.max_tokens > 0) spec.set("generate", json::Value::object().set("max_tokens", shortcut.max_tokens));
  if (!shortcut.metrics.empty()) spec.set("metrics", list_of(shortcut.metrics));
  spec.set("seeds", json::Value::array().push_back(shortcut.options.seed));
  return spec;
}

int run_shortcut(const Shortcut& shortcut, const json::Value& spec, int argc, char** argv) {
  if (shortcut.print_spec) {
    write_stdout(json::dump(spec, 2) + "\n");
    return 0;
  }
  if (shortcut.run.out.empty() && !shortcut.run.dry_run)
    throw UsageError("--out", "expected a run directory (or --spec, or --dry-run), found none");
  CommonOptions options = shortcut.options;
  options.adapters.clear();  // they stand in the spec
  return run_experiment(parse_experiment(json::Ref(spec, "spec"), std::filesystem::current_path()), options,
                        shortcut.run, argc, argv);
}

json::Value intervention(const char* name, json::Value edit) {
  return json::Value::object().set("name", name).set("edits", json::Value::array().push_back(std::move(edit)));
}

json::Value baseline() { return json::Value::object().set("name", "baseline"); }

}  // namespace

int deactivate_command(int argc, char** argv) {
  CLI::App app("Finds the experts that differ most between two conditions, bans them, and compares with random ones.",
               "signalbox deactivate");
  app.footer(
      "Example:\n  signalbox deactivate builtin --data tools/builtin/heldout/pairs.jsonl --span question \\\n"
      "    --contrast without_document:with_document --top 8 --max-tokens 16 --metrics em --out out/deactivate");
  Shortcut shortcut;
  std::string contrast, span, sign = "+", phase = "given", by = "rd", mode = "ban", audit = "0";
  int64_t top = 8;
  double share = 0;
  add_shortcut_options(app, shortcut);
  app.add_option("--contrast", contrast, "A:B, values of the records' condition")->required();
  app.add_option("--span", span, "only tokens of this span are counted");
  app.add_option("--phase", phase, "all | given | generated: tokens that are counted")
      ->check(one_of({"all", "given", "generated"}))
      ->capture_default_str();
  app.add_option("--top", top, "experts to ban")->check(in_range(1, 1 << 20))->capture_default_str();
  app.add_option("--sign", sign, "+ : those used more under A, - : under B, both")
      ->check(one_of({"+", "-", "both"}))
      ->capture_default_str();
  app.add_option("--rank-by", by,
                 "what ranks: rd, rd_example, rd_weight, rd_shrunk or log_odds: how often experts are selected; norm, "
                 "update_share or direct: what they give (docs/detection.md)")
      ->check(one_of({"rd", "rd_example", "rd_weight", "rd_shrunk", "log_odds", "norm", "update_share", "direct"}))
      ->capture_default_str();
  app.add_option("--mode", mode, "ban | steermoe | zero: experts are selected and add nothing")
      ->check(one_of({"ban", "steermoe", "zero"}))
      ->capture_default_str();
  app.add_option("--audit", audit, "also switch off each of so many experts by itself; all: each of the model's")
      ->check([](const std::string& text) {
        return text == "all" || in_range(0, 1 << 20)(text).empty()
                   ? std::string()
                   : "expected a whole number from 0 to 1048576 or all, found \"" + text + "\"";
      })
      ->capture_default_str();
  app.add_option("--controls", shortcut.controls, "sets of random experts")
      ->check(in_range(0, 10000))
      ->capture_default_str();
  shortcut.detect_split = "detect";
  shortcut.test_split = "test";
  app.add_option("--detect", shortcut.detect_split, "value of \"split\" of the records that choose the experts")
      ->capture_default_str();
  app.add_option("--test", shortcut.test_split, "value of \"split\" of the records that are tested")
      ->capture_default_str();
  app.add_option(
         "--split", share,
         "for records without a split: this share of them, drawn by --seed, chooses the experts, and the others "
         "are tested; pairs and records of one prompt stay together")
      ->check(in_range(0.0, 1.0));
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  json::Value spec = common_spec(shortcut);
  json::Value split = json::Value::object();
  split.set("detect", shortcut.detect_split).set("test", shortcut.test_split);
  if (app.count("--split")) {
    if (!(share > 0 && share < 1)) throw UsageError("--split", "expected a share between 0 and 1, found another");
    split.set("share", share).set("seed", shortcut.options.seed);
  }
  spec.set("split", std::move(split));
  json::Value stage = json::Value::object();
  stage.set("contrast", contrast).set("phase", phase);
  if (!span.empty()) stage.set("span", span);
  spec.set("detect", json::Value::object().set("contrast", std::move(stage)));
  const auto ranking = [&](int64_t n, const std::string& which) {
    json::Value out = json::Value::object().set("from", "detect:contrast").set("top", n).set("sign", which);
    if (by != "rd") out.set("by", by);
    return out;
  };
  json::Value off = json::Value::object();
  if (mode == "zero")
    off.set("op", "scale_expert").set("by", 0);
  else
    off.set("op", "deactivate").set("mode", mode);
  off.set("experts", ranking(top, sign));
  spec.set("interventions", json::Value::array().push_back(baseline()).push_back(intervention("off", std::move(off))));
  if (audit != "0") {
    json::Value audited =
        audit == "all" ? json::Value::object().set("experts", "all") : ranking(std::stoll(audit), "both");
    if (mode != "ban") audited.set("mode", mode);
    spec.set("audit", mode == "ban" && audit == "all" ? json::Value("all") : std::move(audited));
  }
  spec.set("controls", json::Value::object().set("random", shortcut.controls).set("bottom", true));
  return run_shortcut(shortcut, spec, argc, argv);
}

int misroute_command(int argc, char** argv) {
  CLI::App app("Sends tokens to other experts, by policy and by share of tokens, and compares with the baseline.",
               "signalbox misroute");
  app.footer(
      "Example:\n  head -40 tools/builtin/heldout/memory.jsonl > /tmp/memory.jsonl\n"
      "  signalbox misroute builtin --data /tmp/memory.jsonl --policies next_best,random --fractions 0.25,0.5,1 \\\n"
      "    --max-tokens 12 --metrics em --out out/misroute");
  Shortcut shortcut;
  std::vector<std::string> policies = {"next_best", "random", "worst"}, layers = {"all"}, weights = {"model"};
  std::vector<double> fractions = {0.25, 0.5, 1};
  std::vector<std::string> spans;
  std::string phase = "generated";
  add_shortcut_options(app, shortcut);
  app.add_option("--policies", policies, "next_best, swap_last, worst, permute, random")
      ->delimiter(',')
      ->check(one_of({"next_best", "swap_last", "worst", "permute", "random"}))
      ->capture_default_str();
  app.add_option("--fractions", fractions, "shares of tokens")
      ->delimiter(',')
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--layers", layers, "bands of layers: all, or 1-4,5-8 as separate bands")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--weights", weights, "weight policies (docs/edits.md)")->delimiter(',')->capture_default_str();
  app.add_option("--phase", phase, "all | given | generated: tokens that are misrouted (given with --span)")
      ->check(one_of({"all", "given", "generated"}))
      ->capture_default_str();
  app.add_option("--span", spans, "only tokens of this span, several as separate points; they are given tokens")
      ->delimiter(',');
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  // A generated token is in no span.
  if (!spans.empty() && app.count("--phase") == 0) phase = "given";
  if (!spans.empty() && phase == "generated")
    throw UsageError("--span",
                     "expected --phase given or all beside it (a generated token is in no span), found generated");

  json::Value grid = json::Value::object(), edit = json::Value::object(), shares = json::Value::array();
  // 1, not 1.0: names of points are those of a spec as people write it.
  for (const double fraction : fractions)
    shares.push_back(fraction == std::floor(fraction) ? json::Value(static_cast<int64_t>(fraction))
                                                      : json::Value(fraction));
  // A key of one value would only make the names of the points longer.
  const auto choose = [&](const char* key, const json::Value& values) {
    if (values.items().size() == 1) return values.items()[0];
    grid.set(key, values);
    return json::Value(std::string("$") + key);
  };
  edit.set("op", "misroute").set("policy", choose("policy", list_of(policies)));
  edit.set("layers", choose("layers", list_of(layers))).set("weights", choose("weights", list_of(weights)));
  json::Value tokens = json::Value::object().set("phase", phase).set("fraction", choose("fraction", shares));
  if (!spans.empty()) tokens.set("span", choose("span", list_of(spans)));
  edit.set("tokens", std::move(tokens));
  json::Value entry = intervention("misroute", std::move(edit));
  if (!grid.members().empty()) entry.set("grid", std::move(grid));
  json::Value spec = common_spec(shortcut);
  spec.set("interventions", json::Value::array().push_back(baseline()).push_back(std::move(entry)));
  return run_shortcut(shortcut, spec, argc, argv);
}

}  // namespace signalbox::tools
