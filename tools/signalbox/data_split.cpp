// signalbox data split and signalbox data structural.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <memory>

#include "eval/data/convert.h"
#include "eval/data/pairs.h"
#include "eval/data/structural.h"
#include "tools/signalbox/data_jobs.h"

namespace signalbox::tools {

namespace {

struct SplitArguments {
  std::string fractions = "detect=0.5,test=0.5";
  std::vector<std::string> files, together;
  SplitOptions options;
};

int split(const SplitArguments& a, const DataOptions& o) {
  SplitOptions options = a.options;
  options.together = a.together;
  double sum = 0;
  for (const auto& [name, share] : parse_key_map(a.fractions)) {
    double value = 0;
    auto [end, failed] = std::from_chars(share.data(), share.data() + share.size(), value);
    if (failed != std::errc() || end != share.data() + share.size() || !(value > 0 && value <= 1))
      throw UsageError("--fractions", name + ": expected a share in (0, 1], found \"" + share + "\"");
    options.fractions.emplace_back(name, value);
    sum += value;
  }
  if (std::abs(sum - 1) > 1e-9)
    throw UsageError("--fractions", "expected shares that sum to 1, found " + std::to_string(sum));
  std::vector<Row> rows = rows_of(a.files);
  assign_splits(rows, options);
  for (const auto& [name, share] : options.fractions) {
    int64_t count = 0;
    for (const Row& row : rows) count += row.object.find(options.key)->string() == name;
    note(o, options.key + " " + name + ": " + std::to_string(count));
  }
  return finish(o, rows);
}

int structural(const StructuralOptions& options, DataOptions o) {
  need_chat_for_model(o);
  if (options.builtin && o.text.empty() && o.model.empty()) {
    o.chat = true;  // that model was trained on conversations
    if (!o.no_spans) o.model = "builtin";
  }
  OpenedStyle opened = open_style(o);
  return finish(o, place_all(structural_drafts(options), opened.style, o));
}

struct StructuralArguments {
  StructuralOptions options;
  std::string wording = "tokens";
};

int structural(const StructuralArguments& a, const CLI::App& app, const DataOptions& o) {
  StructuralOptions options = a.options;
  options.builtin = a.wording == "builtin";
  if (o.no_spans && !options.builtin) throw UsageError("--no-spans", "expected --style builtin, found tokens");
  if (options.builtin && (app.count("--entities") || app.count("--steps")))
    throw UsageError("--entities, --steps", "expected the style tokens, found builtin (always two steps)");
  return structural(options, o);
}

}  // namespace

DataJob add_split_job(CLI::App& app, DataOptions& o) {
  CLI::App* job = app.add_subcommand("split", "detect, tune and test splits");
  job->footer(
      "Example:\n  signalbox data split tools/builtin/heldout/sum.jsonl --replace --fractions "
      "detect=0.5,tune=0.2,test=0.3 "
      "--out sums.jsonl");
  const auto a = std::make_shared<SplitArguments>();
  job->add_option("FILE", a->files, "records")->required();
  job->add_option("--fractions", a->fractions, "NAME=SHARE[,NAME=SHARE...], summing to 1")->capture_default_str();
  job->add_option("--seed", a->options.seed, "of the draw")->capture_default_str();
  job->add_option("--key", a->options.key, "the key to set")->capture_default_str();
  job->add_option("--together", a->together,
                  "a key: records that share its value stay in one split (may be given again)");
  job->add_flag("--replace", a->options.replace, "give records that have a split another");
  add_output(*job, o);
  return {job, [a, &o] { return split(*a, o); }};
}

DataJob add_structural_job(CLI::App& app, DataOptions& o) {
  CLI::App* job = app.add_subcommand("structural", "prompts generated for their structure");
  job->footer("Example:\n  signalbox data structural --n 3 --entities 3 --steps 4 --distractors 2 --seed 1");
  const auto a = std::make_shared<StructuralArguments>();
  job->add_option("--n", a->options.n, "prompts")->capture_default_str();
  job->add_option("--seed", a->options.seed, "of all draws")->capture_default_str();
  job->add_option("--style", a->wording, "tokens (holders of counted things) | builtin (what that model knows)")
      ->check(one_of({"tokens", "builtin"}))
      ->capture_default_str();
  job->add_option("--entities", a->options.entities, "tokens: that the answer depends on")->capture_default_str();
  job->add_option("--steps,--hops", a->options.steps, "tokens: dependent steps to the answer")->capture_default_str();
  job->add_option("--distractors", a->options.distractors, "sentences that the answer does not need")
      ->capture_default_str();
  job->add_flag("--no-spans", o.no_spans, "builtin: without spans, which prompt programs cannot move in messages");
  add_prompt(*job, o);
  add_output(*job, o);
  return {job, [a, job, &o] { return structural(*a, *job, o); }};
}

}  // namespace signalbox::tools
