// signalbox causal map: the effect of every expert's slot of every token (docs/causal-map.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/near_names.h"
#include "eval/causal/map.h"
#include "eval/causal/mean_contribution.h"
#include "probes/edit_spec.h"
#include "tools/signalbox/causal.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct MapFlags {
  CommonOptions common;
  std::string input, metric, without = "hole", layers = "all", positions, span, reference;
};

CLI::App* add_map_flags(CLI::App& app, MapFlags& flags) {
  CLI::App* map = app.add_subcommand("map", "the effect of every expert's slot of every token (docs/causal-map.md)");
  map->footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox causal map "
      "builtin "
      "--input - --metric logprob --out /tmp/map");
  map->add_option("MODEL", flags.common.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*map, flags.common);
  map->add_option("--input", flags.input, "records, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  map->add_option("--metric", flags.metric, "logprob, nll, logit_diff or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  map->add_option("--without", flags.without, "what stands in its place: hole (nothing), ban (the next best), mean")
      ->check(one_of({"hole", "ban", "mean"}))
      ->type_name("NAME")
      ->capture_default_str();
  map->add_option("--layers", flags.layers, "\"3-20,25\", absolute; all: those with a router")->type_name("LIST");
  map->add_option("--positions", flags.positions, "tokens taken, \"8:32\": half-open, the begin token counted")
      ->type_name("RANGE");
  map->add_option("--span", flags.span, "only tokens of this span")->type_name("NAME");
  map->add_option("--reference", flags.reference, "records of the means, for --without mean; default: the input")
      ->type_name("FILE");
  map->add_option("--out", flags.common.trace, "directory of the map")->type_name("DIR")->required();
  return map;
}

void read_positions(const std::string& text, MapRequest& request) {
  if (text.empty()) return;
  const size_t colon = text.find(':');
  const auto number = [&](const std::string& part) -> std::optional<int64_t> {
    if (part.empty() || part.size() > 9 || part.find_first_not_of("0123456789") != std::string::npos)
      return std::nullopt;
    return std::stoll(part);
  };
  const auto first = number(text.substr(0, colon)),
             end = colon == std::string::npos ? std::nullopt : number(text.substr(colon + 1));
  if (!first || !end || *first >= *end)
    throw UsageError("--positions", "expected two positions such as 8:32, the second larger, found \"" + text + "\"");
  request.first_position = *first;
  request.end_position = *end;
}

// The layers with a router among those named; one that is named alone must have one.
std::vector<int32_t> read_layers(const std::string& text, const Session& session) {
  const json::Value value(text);
  const std::vector<int32_t> moe = session.model.moe_layers();
  const LayerList list = LayerList::parse(json::Ref(value, "--layers"));
  if (list.all) return moe;
  std::vector<int32_t> layers;
  for (const LayerList::Item& item : list.items) {
    for (int32_t l = item.first; l <= item.last; ++l) {
      if (l >= session.shape.n_layers())
        throw UsageError("--layers", "expected layers below " + std::to_string(session.shape.n_layers()) + ", found " +
                                         std::to_string(l));
      if (std::binary_search(moe.begin(), moe.end(), l))
        layers.push_back(l);
      else if (!item.range)
        throw UsageError("--layers",
                         "expected layers with a router (" + layer_ranges(moe) + "), found " + std::to_string(l));
    }
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  if (layers.empty())
    throw UsageError("--layers", "expected a layer with a router (" + layer_ranges(moe) + "), found none in " + text);
  return layers;
}

int run_map(MapFlags& flags) {
  CommonOptions& options = flags.common;
  MapRequest request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.without = parse_without(flags.without, "--without");
  if (!flags.reference.empty() && request.without != Without::mean)
    throw UsageError("--reference", "expected --without mean beside it, found " + flags.without);
  read_positions(flags.positions, request);
  std::vector<Record> records = read_records(flags.input);
  Session session = open_session(options);
  session.label = session.path;
  request.dir = options.trace;
  request.layers = read_layers(flags.layers, session);
  request.span = flags.span;
  if (options.chunk > 0) request.step_tokens = options.chunk;
  if (request.without == Without::ban)
    for (const int32_t l : request.layers)
      if (const Router& router = session.model.layers[static_cast<size_t>(l)].moe()->router;
          router.n_active >= router.n_experts)
        throw UsageError("--without ban", "expected more experts than active ones, found " +
                                              std::to_string(router.n_experts) + " and all of them active in layer " +
                                              std::to_string(l));
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  if (!flags.span.empty() &&
      std::find(run.made.span_names.begin(), run.made.span_names.end(), flags.span) == run.made.span_names.end())
    throw UsageError("--span", wrong_name("a span of the records", flags.span, run.made.span_names, ""));
  std::optional<MeanContributions> means;
  if (request.without == Without::mean) {
    const RecordJobs others =
        flags.reference.empty() ? run.made : make_jobs(session, read_records(flags.reference), Generate{}, nullptr);
    means.emplace(session, others.jobs, request.layers);
    request.mean_contribution = [&](int32_t layer, int32_t expert) -> const std::vector<double>& {
      return means->of(layer, expert);
    };
  }
  const int64_t n_cells = count_cells(session, run.made, request);
  if (n_cells == 0)
    throw UsageError("--positions, --span", "expected a token of some record to take out, found none in " +
                                                std::to_string(run.records.size()) + " records");
  catch_signals();
  request.interrupted = &interrupted;
  Progress progress("mapping", n_cells, options.quiet, "cells");
  request.on_progress = [&](int64_t cells) { progress.update(cells); };
  const MapResult result = map_effects(session, run.records, run.made, request);
  progress.done();
  if (result.interrupted) {
    std::fprintf(stderr, "interrupted: no map is left; the same command begins anew\n");
    return 3;
  }
  const double share = result.layers_of_brute_force > 0 ? result.layers_run / result.layers_of_brute_force : 0;
  const std::string file = (request.dir / "map.safetensors").string();
  if (options.json) {
    write_stdout(
        json::dump(
            json::Value::object().set("map", file).set("cells", result.cells).set("share_of_brute_force", share)) +
        "\n");
  } else if (!options.quiet) {
    std::fprintf(stderr, "%s: %ld cells, at %.2f of the layers that as many whole runs take\n", file.c_str(),
                 static_cast<long>(result.cells), share);
  }
  return 0;
}

}  // namespace

Subcommand add_causal_map(CLI::App& app) {
  auto flags = std::make_shared<MapFlags>();
  CLI::App* added = add_map_flags(app, *flags);
  return {added, [flags] { return run_map(*flags); }};
}

}  // namespace signalbox::tools
