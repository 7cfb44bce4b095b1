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
#include "tools/signalbox/kept.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/position_range.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct MapFlags {
  CommonOptions common;
  std::string input, metric, without = "hole", layers = "all", positions, span, reference, shard;
  int64_t sample = 0, top = 0;
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
  add_cell_options(*map, flags.common);
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
  map->add_option("--sample", flags.sample,
                  "run only so many cells of each layer and expert, drawn by --seed, and estimate the others by one "
                  "gradient of each record")
      ->check(in_range(2, 1 << 30));
  map->add_option("--top", flags.top, "and so many cells of each record with the largest estimates (0)")
      ->check(in_range(0, 1 << 30));
  map->add_option("--shard", flags.shard,
                  "I/N: only records whose index is I mod N (default: Slurm's array variables); signalbox merge puts "
                  "shards together");
  map->add_option("--out", flags.common.trace, "directory of the map")->type_name("DIR")->required();
  return map;
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

// The records that a shard has, with jobs of their own.
RecordJobs jobs_of_shard(const PreparedRun& run, const Shard& shard, std::vector<Record>& records) {
  RecordJobs own;
  own.span_names = run.made.span_names;
  for (size_t i = 0; i < run.records.size(); ++i) {
    if (!shard.has(static_cast<int64_t>(i))) continue;
    records.push_back(run.records[i]);
    own.encoded.push_back(run.made.encoded[i]);
    own.jobs.push_back(run.made.jobs[i]);
    own.jobs.back().index = static_cast<int64_t>(own.jobs.size()) - 1;
  }
  return own;
}

void tell_map(const CommonOptions& options, const MapRequest& request, const MapResult& result) {
  const std::string file = (request.dir / map_file).string();
  if (options.json) {
    write_stdout(json::dump(json::Value::object()
                                .set("map", file)
                                .set("cells", result.counts.cells)
                                .set("share_of_brute_force", result.counts.share())) +
                 "\n");
  } else if (!options.quiet) {
    std::fprintf(stderr, "%s: %s%ld cells, at %.2f of the layers that as many whole runs take\n", file.c_str(),
                 result.was_complete ? "was complete: " : "", static_cast<long>(result.counts.cells),
                 result.counts.share());
  }
}

int run_map(MapFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  MapRequest request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.without = parse_without(flags.without, "--without");
  if (!flags.reference.empty() && request.without != Without::mean)
    throw UsageError("--reference", "expected --without mean beside it, found " + flags.without);
  if (flags.sample > 0) {
    if (request.without == Without::ban)
      throw UsageError("--sample",
                       "expected --without hole or mean (a gradient has no output of the expert that comes "
                       "in after a ban), found ban");
    if (request.metric == Metric::kl)
      throw UsageError("--sample",
                       "expected --metric logprob, nll or logit_diff (at the unedited run the gradient of "
                       "kl is 0 everywhere), found kl");
    request.sample = MapSample{flags.sample, flags.top, options.seed};
  } else if (flags.top > 0) {
    throw UsageError("--top", "expected --sample beside it, found none");
  }
  std::string told;
  const Shard shard = choose_shard(flags.shard, told);
  if (!told.empty() && !options.quiet) std::fprintf(stderr, "%s\n", told.c_str());
  read_positions(flags.positions, request.first_position, request.end_position);
  std::vector<Record> records = read_records(flags.input);
  Session session = open_session(options);
  session.label = session.path;
  keep_date(options, session, records, map_schema);
  request.dir = options.trace;
  request.layers = read_layers(flags.layers, session);
  request.span = flags.span;
  request.step_tokens = options.chunk;
  request.step_cells = options.batch;
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
  if (count_cells(session, run.made, request) == 0)
    throw UsageError("--positions, --span", "expected a token of some record to take out, found none in " +
                                                std::to_string(run.records.size()) + " records");
  json::Value map = json::Value::object();
  map.set("metric", flags.metric).set("without", flags.without).set("layers", layer_ranges(request.layers));
  map.set("positions", flags.positions).set("span", flags.span).set("sample", flags.sample).set("top", flags.top);
  // Where sums depend on what is run together, the steps decide bits.
  if (!session.backend->invariant()) map.set("chunk", request.step_tokens).set("batch", request.step_cells);
  std::optional<std::vector<Record>> reference;
  if (request.without == Without::mean) {
    if (!flags.reference.empty()) reference = read_records(flags.reference);
    request.reference = records_hash(reference ? *reference : run.records);
    map.set("reference", request.reference);
  }
  JobsOfCommand work;
  work.work.set("map", std::move(map));
  work.schema = map_schema;
  request.manifest = manifest_of_work(options, session, run, work, argc, argv);
  request.manifest.shard = shard;
  std::vector<Record> own_records;
  const RecordJobs own = jobs_of_shard(run, shard, own_records);
  std::optional<MeanContributions> means;
  if (request.without == Without::mean) {
    const RecordJobs others = reference ? make_jobs(session, *reference, Generate{}, nullptr) : run.made;
    request.mean_contribution = [&, others](int32_t layer, int32_t expert) -> const std::vector<double>& {
      if (!means) means.emplace(session, others.jobs, request.layers);
      return means->of(layer, expert);
    };
  }
  tell_cpu_fallback(options, session);
  catch_signals();
  request.interrupted = &interrupted;
  std::unique_ptr<Progress> progress;
  const auto lines = std::make_shared<ProgressLines>();
  request.on_stage = [&](const std::string& doing, const char* unit, int64_t total) {
    progress.reset();
    progress = std::make_unique<Progress>(doing, total, options.quiet, unit, lines);
  };
  request.on_progress = [&](int64_t done) { progress->update(done); };
  request.on_kept = tell_kept(options);
  const MapResult result = map_effects(session, own_records, own, request);
  progress.reset();
  if (result.interrupted) return tell_interrupted(options);
  tell_map(options, request, result);
  return 0;
}

}  // namespace

Subcommand add_causal_map(CLI::App& app) {
  auto flags = std::make_shared<MapFlags>();
  CLI::App* added = add_map_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_map(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
