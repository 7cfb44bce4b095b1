// signalbox causal pipelines: do experts that go together through depth act on each other? (docs/causal-pipelines.md)
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "base/file_hash.h"
#include "base/text_table.h"
#include "eval/causal/pipelines.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/causal.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/warning.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

constexpr size_t printed_links = 20;
constexpr int64_t units_of_any_p = 6;  // signs of fewer units have no p below 0.05

struct PipelineFlags {
  CommonOptions common;
  std::string input, pipelines, pairs, out;
  int64_t controls = 20, matched = 8, resamples = default_resamples;
};

CLI::App* add_pipeline_flags(CLI::App& app, PipelineFlags& flags) {
  CLI::App* command = app.add_subcommand(
      "pipelines", "do experts that go together through depth act on each other? (docs/causal-pipelines.md)");
  command->footer(
      "Example:\n  signalbox trace builtin --input tools/builtin/heldout/pairs.jsonl --out /tmp/routes --quiet\n"
      "  signalbox analyze /tmp/routes --tables pipelines --quiet\n"
      "  signalbox causal pipelines builtin --input tools/builtin/heldout/pairs.jsonl --pipelines /tmp/routes/analysis "
      "--out /tmp/pipelines");
  command
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*command, flags.common);
  command->add_option("--input", flags.input, "records, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--pipelines", flags.pipelines,
                   "the directory of an analysis, or its pipelines.csv: consecutive steps are tested")
      ->type_name("PATH");
  command
      ->add_option("--pairs", flags.pairs, "the directory of an analysis, or its across_layers.csv: rows with q < 0.05")
      ->type_name("PATH");
  command->add_option("--controls", flags.controls, "random vectors, and vectors of other tokens, for each link")
      ->check(in_range(int64_t{19}, int64_t{1000}))
      ->capture_default_str();
  command
      ->add_option("--matched", flags.matched,
                   "other experts of the sender's layer, selected about as often, that are banned too")
      ->check(in_range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  command->add_option("--resamples", flags.resamples, "replicates of intervals and of the null")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  command->add_option("--out", flags.out, "directory of links.csv")->type_name("DIR")->required();
  return command;
}

std::string link_number(double x, const char* format) {
  if (std::isnan(x)) return "-";
  char text[32];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

json::Value link_source(const std::filesystem::path& file) {
  json::Value source = json::Value::object().set("path", file.string());
  return source.set("sha256", hash_file(file, HashCache(std::filesystem::path())));
}

int run_pipelines(PipelineFlags& flags) {
  CommonOptions& options = flags.common;
  if (flags.pipelines.empty() && flags.pairs.empty())
    throw Error("causal pipelines", "expected --pipelines or --pairs, found neither");
  require_own_directory(flags.out, pipeline_study_files(), "a study of pipelines");
  json::Value sources = json::Value::object();
  for (const auto& [path, name] : {std::pair(flags.pipelines, "pipelines.csv"), {flags.pairs, "across_layers.csv"}})
    if (!path.empty()) sources.set(name, link_source(table_at(path, name)));
  std::vector<Record> records = read_records(flags.input);
  if (flags.input != "-") sources.set("input", link_source(flags.input));
  Session session = open_session(options);
  session.label = session.path;
  PipelineRequest request;
  for (const std::string& path : {flags.pipelines, flags.pairs})
    if (!path.empty()) require_analysis_of(path, session.model_hash);
  request.links = read_expert_links(flags.pipelines, flags.pairs, session.shape);
  request.draws = flags.controls;
  request.matched = flags.matched;
  request.resamples = {flags.resamples, options.seed, options.threads};
  const PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  catch_signals();
  request.interrupted = &interrupted;
  const auto n_records = static_cast<int64_t>(run.records.size());
  std::optional<Progress> progress;
  request.on_surveyed = [&](int64_t done) {
    if (!progress) progress.emplace("looking for tokens", n_records, options.quiet, "records");
    progress->update(done);
  };
  bool measuring = false;
  request.on_measured = [&](int64_t done) {
    if (!std::exchange(measuring, true)) {
      progress->done();
      progress.emplace("banning experts", n_records, options.quiet, "records");
    }
    progress->update(done);
  };
  const PipelineStudy study = study_pipelines(session, run.records, run.made, request);
  if (progress) progress->done();
  if (study.interrupted) {
    std::fprintf(stderr, "interrupted: nothing is left; the same command begins anew\n");
    return 3;
  }
  write_pipeline_study(flags.out, study, request, session, sources);
  if (study.units < units_of_any_p)
    tell_warning(std::to_string(study.units) + " records or pairs of records: at least " +
                 std::to_string(units_of_any_p) + " are needed for any p below 0.05");
  if (options.json) {
    for (size_t i = 0; i < study.links.size(); ++i) {
      const LinkEffects& link = study.links[i];
      write_stdout(json::dump(json::Value::object()
                                  .set("from", node_name(request.links[i].from))
                                  .set("to", node_name(request.links[i].to))
                                  .set("verdict", verdict_text(link.verdict))
                                  .set("tokens", link.tokens)
                                  .set("ban_selected", link.ban_selected.mean)
                                  .set("ban_logit", link.ban_logit.mean)
                                  .set("direct_logit", link.direct_logit.mean)
                                  .set("feeds", link.feeds.mean)) +
                   "\n");
    }
    return 0;
  }
  std::vector<size_t> order(study.links.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (order.size() > printed_links) {
    const auto size = [&](size_t i) {
      return std::isnan(study.links[i].ban_selected.mean) ? 0 : std::fabs(study.links[i].ban_selected.mean);
    };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size(a) > size(b); });
    order.resize(printed_links);
  }
  TextTable table({{"from", false, true},
                   {"to", false, true},
                   {"tokens"},
                   {"ban"},
                   {"logit"},
                   {"direct"},
                   {"feeds"},
                   {"verdict", false}});
  for (const size_t i : order) {
    const LinkEffects& link = study.links[i];
    table.add({node_name(request.links[i].from), node_name(request.links[i].to), std::to_string(link.tokens),
               link_number(link.ban_selected.mean, "%+.2f"), link_number(link.ban_logit.mean, "%+.3f"),
               link_number(link.direct_logit.mean, "%+.3f"), link_number(100 * link.feeds.mean, "%.0f %%"),
               verdict_text(link.verdict)});
  }
  const int width = terminal_width(1);
  const std::string sentence = pipelines_sentence(study, request);
  write_stdout(table.text(width) + "\n" + (width > 0 ? wrapped(sentence, width) : sentence) + "\n");
  if (study.links.size() > order.size() && !options.quiet)
    std::fprintf(stderr, "the %zu largest of %zu pairs; all are in %s/links.csv\n", order.size(), study.links.size(),
                 flags.out.c_str());
  return 0;
}

}  // namespace

Subcommand add_causal_pipelines(CLI::App& app) {
  auto flags = std::make_shared<PipelineFlags>();
  CLI::App* added = add_pipeline_flags(app, *flags);
  return {added, [flags](int, char**) { return run_pipelines(*flags); }};
}

}  // namespace signalbox::tools
