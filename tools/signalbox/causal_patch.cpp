// signalbox causal patch: a run with what another run has at one place (docs/causal-patch.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/near_names.h"
#include "base/text_table.h"
#include "eval/causal/patch_study.h"
#include "eval/findings/format.h"
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
#include "tools/terminal/warning.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

constexpr size_t shown_rows = 12;

struct PatchFlags {
  CommonOptions common;
  std::string input, metric, direction, by = "natural", units, neurons, positions, span, with, shard;
  bool keep_all = false;
};

CLI::App* add_patch_flags(CLI::App& app, PatchFlags& flags) {
  CLI::App* patch = app.add_subcommand("patch", "runs with what another run has at one place (docs/causal-patch.md)");
  patch->footer(
      "Example:\n"
      "  f='{\"id\":\"%s\",\"condition\":\"%s\",\"prompt\":\"The %s\",'\n"
      "  f=$f'\"pair\":\"p\",\"answer\":\" is\",\"foil\":\" are\"}\\n'\n"
      "  printf \"$f\" a clean cat b corrupt dog > /tmp/pairs.jsonl\n"
      "  signalbox causal patch builtin --input /tmp/pairs.jsonl \\\n"
      "    --metric logit_diff --direction denoising \\\n"
      "    --points '*.resid_in' --keep-all --out /tmp/patch");
  patch
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*patch, flags.common);
  add_cell_options(*patch, flags.common);
  patch->add_option("--input", flags.input, "pairs of records, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  patch->add_option("--metric", flags.metric, "logit_diff, logprob, nll or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  patch
      ->add_option("--points", flags.common.points,
                   "what is exchanged: points and globs of them, \"*.attn.z,*.moe.out\"")
      ->type_name("GLOBS")
      ->required();
  patch
      ->add_option("--direction", flags.direction,
                   "noising: values of the corrupt run into the clean one; denoising: the other way round")
      ->check(one_of({"noising", "denoising"}))
      ->required();
  patch
      ->add_option("--by", flags.by,
                   "what is exchanged at once: all of one token (position), one head, expert or neuron in all tokens "
                   "(unit), one of them in one token (both), everything (whole); natural: unit where there are units")
      ->check(one_of({"natural", "position", "unit", "both", "whole"}))
      ->capture_default_str();
  patch->add_option("--units", flags.units, "only these heads or experts, \"0-3,7\"")->type_name("LIST");
  patch->add_option("--neurons", flags.neurons, "of expert.hidden these neurons apart, \"0-31\" or all")
      ->type_name("LIST");
  patch
      ->add_option("--positions", flags.positions,
                   "tokens of the clean record, \"8:32\": half-open, the begin token counted")
      ->type_name("RANGE");
  patch->add_option("--span", flags.span, "only tokens of this span of the clean record")->type_name("NAME");
  patch
      ->add_option(
          "--with", flags.with,
          "exchanged already in the run that is patched, \"layer.3.attn.z:2,layer.4.resid_out@5\": effects are "
          "against that run")
      ->type_name("LIST");
  patch->add_flag("--keep-all", flags.keep_all, "pairs whose clean run does not prefer its answer too");
  patch->add_option("--shard", flags.shard,
                    "I/N: only pairs whose index is I mod N (default: Slurm's array variables); signalbox merge puts "
                    "shards together");
  patch->add_option("--out", flags.common.trace, "directory of patch.csv")->type_name("DIR")->required();
  return patch;
}

// "0-3,7", ascending.
std::vector<int32_t> read_numbers(const std::string& text, const std::string& flag, int64_t all) {
  std::vector<int32_t> numbers;
  if (text.empty()) return numbers;
  const json::Value value(text);
  LayerList list;
  try {
    list = LayerList::parse(json::Ref(value, flag));
  } catch (const Error&) {
    throw UsageError(flag, "expected \"all\" or numbers such as \"0-3,7\", each once, found \"" + text + "\"");
  }
  if (list.all)
    for (int64_t i = 0; i < all; ++i) numbers.push_back(static_cast<int32_t>(i));
  for (const LayerList::Item& item : list.items)
    for (int32_t i = item.first; i <= item.last; ++i) numbers.push_back(i);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

// The rows of all pairs, largest effects first.
void print_patches(const PatchFlags& flags, const PatchStudy& study, const PatchOutcome& outcome) {
  std::vector<const PatchEstimate*> rows;
  for (const PatchEstimate& row : outcome.rows)
    if (row.pair.empty()) rows.push_back(&row);
  const auto number = [](double x) { return std::isnan(x) ? json::Value() : json::Value(x); };
  if (flags.common.json) {
    for (const PatchEstimate* row : rows) {
      const PointAt& at = study.request.points[row->point];
      write_stdout(json::dump(json::Value::object()
                                  .set("point", std::string(point_info(at.point).name))
                                  .set("layer", at.layer < 0 ? json::Value() : json::Value(int64_t{at.layer}))
                                  .set("unit", row->unit)
                                  .set("effect", row->effect)
                                  .set("normalised", number(row->normalised))
                                  .set("ci_lo", number(row->ci_lo))
                                  .set("ci_hi", number(row->ci_hi))
                                  .set("routes", row->routes)
                                  .set("flipped", row->flipped)) +
                   "\n");
    }
    return;
  }
  const size_t n_rows = rows.size();
  std::stable_sort(rows.begin(), rows.end(), [](const PatchEstimate* a, const PatchEstimate* b) {
    return std::fabs(a->effect) > std::fabs(b->effect);
  });
  rows.resize(std::min(rows.size(), shown_rows));
  TextTable table({{"point", false, true}, {"layer"}, {"unit"}, {"effect"}, {"normalised"}, {"95 %"}, {"flips"}});
  for (const PatchEstimate* row : rows) {
    const PointAt& at = study.request.points[row->point];
    const std::string interval =
        std::isnan(row->ci_lo) ? "-" : format_value(row->ci_lo, 4) + " .. " + format_value(row->ci_hi, 4);
    const double share = row->routes > 0 ? static_cast<double>(row->flipped) / static_cast<double>(row->routes) : NAN;
    table.add({std::string(point_info(at.point).name), at.layer < 0 ? "-" : std::to_string(at.layer),
               row->unit.empty() ? "all" : row->unit, format_value(row->effect, 4), format_value(row->normalised, 4),
               interval, format_value(share, 4)});
  }
  write_stdout(table.text(terminal_width(1)));
  if (flags.common.quiet) return;
  if (n_rows > rows.size())
    std::fprintf(stderr, "the %zu largest of %zu rows; all are in %s\n", rows.size(), n_rows,
                 (study.dir / "patch.csv").c_str());
}

int run_patch(PatchFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  PatchStudy study;
  PatchRequest& request = study.request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.denoising = flags.direction == "denoising";
  request.by = parse_patch_by(flags.by, "--by");
  request.span = flags.span;
  std::string told;
  const Shard shard = choose_shard(flags.shard, told);
  if (!told.empty() && !options.quiet) std::fprintf(stderr, "%s\n", told.c_str());
  read_positions(flags.positions, request.first_position, request.end_position);
  request.units = read_numbers(flags.units, "--units", 0);
  std::vector<Record> records = read_records(flags.input);
  Session session = open_session(options);
  session.label = session.path;
  PatchPoints points = patch_points(options.points, session.shape);
  request.points = std::move(points.points);
  study.left_out = std::move(points.left_out);
  if (!flags.with.empty()) request.with = named_exchanges(flags.with, session.shape, "--with");
  int64_t d_ff = 0;
  for (const PointAt& at : request.points)
    if (at.point == Point::expert_hidden) d_ff = session.shape.layers[static_cast<size_t>(at.layer)].d_ff;
  request.neurons = read_numbers(flags.neurons, "--neurons", d_ff);
  request.step_tokens = options.chunk;
  request.step_cells = options.batch;
  keep_date(options, session, records, patch_schema);
  const PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  if (!flags.span.empty() &&
      std::find(run.made.span_names.begin(), run.made.span_names.end(), flags.span) == run.made.span_names.end())
    throw UsageError("--span", wrong_name("a span of the records", flags.span, run.made.span_names, ""));
  std::vector<CausalPair> pairs = causal_pairs(request.metric, run.records, run.made, session.encode);
  check_patch(request, run.records, pairs, run.made, session.shape);
  for (const std::string& name : study.left_out)
    if (!options.quiet) std::fprintf(stderr, "--points: %s cannot be patched and is left out\n", name.c_str());
  study.dir = options.trace;
  study.keep_all = flags.keep_all;
  study.input = flags.input == "-" ? "standard input" : flags.input;
  study.seed = options.seed;
  JobsOfCommand work;
  work.schema = patch_schema;
  work.work.set("metric", flags.metric).set("direction", flags.direction).set("by", flags.by).set("units", flags.units);
  work.work.set("neurons", flags.neurons).set("positions", flags.positions).set("span", flags.span);
  work.work.set("with", flags.with).set("keep_all", flags.keep_all);
  // Where sums depend on what is run together, the steps decide bits.
  if (!session.backend->invariant()) work.work.set("chunk", options.chunk).set("batch", options.batch);
  study.manifest = manifest_of_work(options, session, run, work, argc, argv);
  study.manifest.shard = shard;
  catch_signals();
  request.interrupted = &interrupted;
  const int64_t n_points = static_cast<int64_t>(request.points.size()),
                n_pairs = shard.records_of(static_cast<int64_t>(pairs.size()));
  Progress progress("patching", n_pairs * n_points, options.quiet, "points");
  request.on_progress = [&](int64_t done) { progress.update(done); };
  study.on_kept = [&](int64_t done) {
    tell_kept(options)(std::to_string(done / n_points) + " of " + std::to_string(n_pairs) + " pairs");
    progress.start_at(done);
  };
  const PatchOutcome outcome = conduct_patch(session, run.made, std::move(pairs), study);
  progress.done();
  if (outcome.interrupted) return tell_interrupted(options);
  tell_warning(dropped_pairs_text(outcome.selected));
  if (outcome.undefined > 0)
    tell_warning(std::to_string(outcome.undefined) +
                 " places of experts that only one run of a pair selects have no counterpart");
  print_patches(flags, study, outcome);
  return 0;
}

}  // namespace

Subcommand add_causal_patch(CLI::App& app) {
  auto flags = std::make_shared<PatchFlags>();
  CLI::App* added = add_patch_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_patch(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
