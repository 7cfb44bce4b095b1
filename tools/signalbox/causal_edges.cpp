// signalbox causal edges: what a node does to another directly, and to a metric through it (docs/causal-edges.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/text_table.h"
#include "eval/causal/edge_study.h"
#include "eval/findings/format.h"
#include "eval/store/staged_files.h"
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

constexpr size_t printed_edges = 12;

struct EdgeFlags {
  CommonOptions common;
  std::string input, metric, direction, senders = "*", receivers, by = "all", positions;
  bool margins = false, keep_all = false;
};

CLI::App* add_edge_flags(CLI::App& app, EdgeFlags& flags) {
  CLI::App* edges = app.add_subcommand(
      "edges", "what a node does to another with all between them held, and to a metric (docs/causal-edges.md)");
  edges->footer(
      "Example:\n"
      "  f='{\"id\":\"%s\",\"condition\":\"%s\",\"prompt\":\"The %s\",'\n"
      "  f=$f'\"pair\":\"p\",\"answer\":\" is\",\"foil\":\" are\"}\\n'\n"
      "  printf \"$f\" a clean cat b corrupt dog > /tmp/pairs.jsonl\n"
      "  signalbox causal edges builtin --input /tmp/pairs.jsonl \\\n"
      "    --metric logit_diff --direction denoising \\\n"
      "    --receivers 'L3.router,logits' --keep-all --out /tmp/edges");
  edges
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*edges, flags.common);
  add_cell_options(*edges, flags.common);
  edges->add_option("--input", flags.input, "pairs of records, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  edges->add_option("--metric", flags.metric, "logit_diff, logprob, nll or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  edges
      ->add_option("--direction", flags.direction,
                   "noising: a sender's values of the corrupt run in the clean one; denoising: the other way round")
      ->check(one_of({"noising", "denoising"}))
      ->required();
  edges->add_option("--senders", flags.senders, "names and globs: embed, L3.H2, L3.E5, L3.shared, L3.mlp, \"L3.*\"")
      ->type_name("GLOBS")
      ->capture_default_str();
  edges
      ->add_option("--receivers", flags.receivers,
                   "likewise: L3.router, L3.E5, L3.shared, L3.mlp, L3.Q2, L3.K1, L3.V1, logits")
      ->type_name("GLOBS")
      ->required();
  edges->add_option("--by", flags.by, "all tokens at once (all), or each apart (position)")
      ->check(one_of({"all", "position"}))
      ->capture_default_str();
  edges
      ->add_option("--positions", flags.positions,
                   "tokens of the clean record, \"8:32\": half-open, the begin token counted")
      ->type_name("RANGE");
  edges->add_flag("--margins", flags.margins, "also which parts make the margins of the routers that receive");
  edges->add_flag("--keep-all", flags.keep_all, "pairs whose clean run does not prefer its answer too");
  edges->add_option("--out", flags.common.trace, "directory of edges.csv")->type_name("DIR")->required();
  return edges;
}

int run_edges(EdgeFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  EdgeRequest request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.denoising = flags.direction == "denoising";
  request.by_position = flags.by == "position";
  request.margins = flags.margins;
  request.keep_all = flags.keep_all;
  request.input = flags.input == "-" ? "standard input" : flags.input;
  request.seed = options.seed;
  request.step_tokens = options.chunk;
  request.step_cells = options.batch;
  read_positions(flags.positions, request.first_position, request.end_position);
  require_own_directory(options.trace, kept_work_names(edge_files(request)), "edges");
  std::vector<Record> records = read_records(flags.input);
  Session session = open_session(options);
  session.label = session.path;
  request.senders = find_nodes(flags.senders, true, session.shape, "--senders");
  request.receivers = find_nodes(flags.receivers, false, session.shape, "--receivers");
  keep_date(options, session, records, edges_schema);
  const PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  std::vector<CausalPair> pairs = causal_pairs(request.metric, run.records, run.made, session.encode);
  check_edges(request, run.records, pairs, session.shape);
  JobsOfCommand work;
  work.schema = edges_schema;
  json::Value edges = json::Value::object();
  edges.set("metric", flags.metric).set("direction", flags.direction).set("senders", flags.senders);
  edges.set("receivers", flags.receivers).set("by", flags.by).set("positions", flags.positions);
  edges.set("margins", flags.margins).set("keep_all", flags.keep_all);
  if (!session.backend->invariant()) edges.set("chunk", request.step_tokens).set("batch", request.step_cells);
  work.work.set("edges", std::move(edges));
  KeptWork kept(options.trace, manifest_of_work(options, session, run, work, argc, argv), edge_files(request));
  request.kept = {kept.stage("edges"), tell_kept(options)};
  catch_signals();
  request.interrupted = &interrupted;
  Progress progress("measuring edges", static_cast<int64_t>(pairs.size() * request.receivers.size()), options.quiet,
                    "receivers");
  request.on_progress = [&](int64_t done) { progress.update(done); };
  const EdgeStudy study = measure_edges(session, run.made, std::move(pairs), request);
  progress.done();
  if (study.interrupted) {
    kept.interrupt();
    return tell_interrupted(options);
  }
  kept.finish([&](const std::filesystem::path& dir) { write_edges(dir, study, request, session); });
  tell_warning(dropped_pairs_text(study.selected));
  std::vector<const PatchEstimate*> rows;
  for (const PatchEstimate& row : study.estimates)
    if (row.pair.empty()) rows.push_back(&row);
  const size_t n_rows = rows.size(), n_receivers = request.receivers.size();
  if (!options.json) {
    std::stable_sort(rows.begin(), rows.end(), [](const PatchEstimate* a, const PatchEstimate* b) {
      return std::fabs(a->effect) > std::fabs(b->effect);
    });
    rows.resize(std::min(rows.size(), printed_edges));
  }
  TextTable table(
      {{"sender", false, true}, {"receiver", false}, {"position"}, {"effect"}, {"normalised"}, {"95 %"}, {"flips"}});
  for (const PatchEstimate* row : rows) {
    const CausalNode &sender = request.senders[row->point / n_receivers],
                     &receiver = request.receivers[row->point % n_receivers];
    const bool routes = receiver.kind == CausalNode::Kind::router;
    if (options.json) {
      const auto number = [](double x) { return std::isnan(x) ? json::Value() : json::Value(x); };
      write_stdout(json::dump(json::Value::object()
                                  .set("sender", node_name(sender))
                                  .set("receiver", node_name(receiver))
                                  .set("position", row->unit)
                                  .set("effect", row->effect)
                                  .set("normalised", number(row->normalised))
                                  .set("ci_lo", number(row->ci_lo))
                                  .set("ci_hi", number(row->ci_hi))
                                  .set("tokens", row->routes)
                                  .set("flipped", routes ? json::Value(row->flipped) : json::Value())) +
                   "\n");
      continue;
    }
    const std::string interval =
        std::isnan(row->ci_lo) ? "-" : format_value(row->ci_lo, 4) + " .. " + format_value(row->ci_hi, 4);
    table.add({node_name(sender), node_name(receiver), row->unit.empty() ? "all" : row->unit,
               format_value(row->effect, 4), format_value(row->normalised, 4), interval,
               routes ? std::to_string(row->flipped) + "/" + std::to_string(row->routes) : "-"});
  }
  if (options.json) return 0;
  write_stdout(table.text(terminal_width(1)));
  if (n_rows > rows.size() && !options.quiet)
    std::fprintf(stderr, "the %zu largest of %zu edges; all are in %s/edges.csv\n", rows.size(), n_rows,
                 options.trace.c_str());
  return 0;
}

}  // namespace

Subcommand add_causal_edges(CLI::App& app) {
  auto flags = std::make_shared<EdgeFlags>();
  CLI::App* added = add_edge_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_edges(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
