// signalbox circuit discover: finds a circuit in pairs of clean and corrupt records (docs/circuits.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/text.h"
#include "base/text_table.h"
#include "eval/store/kept_work.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/circuit.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/kept.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/warning.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct DiscoverFlags {
  CommonOptions common;
  std::string input, metric = "logit_diff", split, ablation = "corrupt", level = "node";
  double faithfulness = 0.9;
  int64_t size = -1;
  DiscoverRequest request;
  std::string rank = "atp", edges = "single";
  std::vector<double> taus = EdgeCircuitRule().taus;
  CLI::Option *tau_given = nullptr, *controls_given = nullptr;
  int64_t shortlist = 48, filter = 512, edge_filter = 4096;
  CLI::Option *rank_given = nullptr, *steps_given = nullptr, *filter_given = nullptr, *edge_filter_given = nullptr;
};

CLI::App* add_discover_flags(CLI::App& app, DiscoverFlags& flags) {
  CLI::App* discover = app.add_subcommand("discover", "find a circuit in pairs of clean and corrupt records");
  discover->footer(
      "Example:\n  signalbox circuit discover builtin \\\n"
      "    --input docs/examples/memory-pairs.jsonl --out /tmp/circuit");
  discover
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*discover, flags.common);
  discover
      ->add_option("--input", flags.input,
                   "pairs of records, a JSON object a line: pair, condition clean or corrupt; - = standard input")
      ->type_name("FILE")
      ->required();
  discover->add_option("--metric", flags.metric, "logprob, nll, logit_diff or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->capture_default_str();
  discover
      ->add_option(
          "--ablation", flags.ablation,
          "what stands in place of a part that is out: corrupt (what it writes in the other record), mean, zero")
      ->check(one_of({"corrupt", "mean", "zero"}))
      ->type_name("NAME")
      ->capture_default_str();
  discover
      ->add_option("--level", flags.level,
                   "parts of the circuit: node (an expert or head at all tokens) or position (at one token each)")
      ->check(one_of({"node", "position"}))
      ->type_name("NAME")
      ->capture_default_str();
  discover
      ->add_option("--split", flags.split,
                   "KEY:A,B,C: pairs whose KEY is A find the circuit, B choose its size, C test it (default: drawn, a "
                   "half, a quarter and a quarter)")
      ->type_name("RULE");
  discover->add_option("--size", flags.size, "parts of the circuit (default: the fewest that are faithful enough)")
      ->check(in_range(1, 1 << 20))
      ->type_name("N");
  discover->add_option("--faithfulness", flags.faithfulness, "that is enough on the pairs that choose the size")
      ->check(in_range(0.01, 0.999))
      ->capture_default_str();
  discover->add_option("--shortlist", flags.shortlist, "parts that are tried in company, at most")
      ->check(in_range(1, 4096))
      ->capture_default_str();
  flags.rank_given =
      discover
          ->add_option(
              "--rank", flags.rank,
              "which parts and edges get runs of their own where there are more than --filter and "
              "--edge-filter: those of the largest forecast by atp (one gradient a pair) or eap-ig (--rank-steps "
              "of them); exact: all. Given, forecasts are always made, and compared")
          ->check(one_of({"exact", "atp", "eap-ig"}))
          ->type_name("NAME")
          ->capture_default_str();
  flags.steps_given = discover->add_option("--rank-steps", flags.request.rank.steps, "gradients of eap-ig a pair")
                          ->check(in_range(1, 1000))
                          ->capture_default_str();
  flags.filter_given = discover->add_option("--filter", flags.filter, "parts that are taken out alone, at most")
                           ->check(in_range(1, 1 << 20))
                           ->capture_default_str();
  flags.edge_filter_given =
      discover->add_option("--edge-filter", flags.edge_filter, "edges among the parts left that are measured, at most")
          ->check(in_range(1, 1 << 24))
          ->capture_default_str();
  discover->add_option("--random", flags.request.random, "random circuits to compare with; 0: none")
      ->check(in_range(0, 100000))
      ->capture_default_str();
  discover
      ->add_option("--stability", flags.request.stability, "samples of the pairs in which it is found again; 0: none")
      ->check(in_range(0, 10000))
      ->capture_default_str();
  discover
      ->add_option("--edges", flags.edges,
                   "which edges among the parts left are in the circuit: single (those that do something alone, with q "
                   "and controls) or acdc (those that are left when they are taken out one after another, from the "
                   "logits back)")
      ->check(one_of({"single", "acdc"}))
      ->type_name("NAME")
      ->capture_default_str();
  flags.tau_given =
      discover
          ->add_option("--tau", flags.taus,
                       "of acdc, T[,T...] ascending: an edge goes for good where the metric changes by less than this "
                       "share of the gap between the model and all ablated; the pairs that choose the size choose one")
          ->delimiter(',')
          ->check(in_range(0.0, 10.0))
          ->type_name("SHARES")
          ->default_str("0.01,0.03,0.1");
  flags.controls_given =
      discover
          ->add_option("--edge-controls", flags.request.edge_controls,
                       "draws for each pair of either kind of control that an edge must exceed; 0: none")
          ->check(in_range(0, 1000))
          ->capture_default_str();
  discover->add_option("--resamples", flags.request.resamples, "of bootstrap intervals and sign flips")
      ->check(in_range(99, 1000000))
      ->capture_default_str();
  discover->add_flag("--keep-all", flags.request.keep_all, "pairs whose clean run does not prefer its answer too");
  discover->add_option("--out", flags.common.trace, "directory of graph.json and circuit.json")
      ->type_name("DIR")
      ->required();
  return discover;
}

// What is to be known before the circuit is believed.
std::vector<std::string> warnings_of(const Discovery& found, const DiscoverRequest& request) {
  std::vector<std::string> warnings;
  if (std::string dropped = dropped_pairs_text(found.pairs); !dropped.empty()) warnings.push_back(std::move(dropped));
  if (!found.scores[1].known && !request.size)
    warnings.emplace_back(
        "the pairs that choose the size do not tell the model from one with everything ablated: all candidates are "
        "taken");
  else if (!found.chosen)
    warnings.push_back("no size is faithful enough on the pairs that choose it (" +
                       effect_text(1 - request.rule.tolerance) + "): this is the one that comes nearest");
  if (found.edges && found.scores[1].known && !found.edges->chosen)
    warnings.push_back("no tau leaves edges that are faithful enough on the pairs that choose the size (" +
                       effect_text(1 - request.rule.tolerance) + "): those that come nearest are taken");
  if (!found.scores[2].known)
    warnings.emplace_back(
        "the pairs that test do not tell the model from one with everything ablated: faithfulness is undefined there");
  return warnings;
}

void print_circuit(const Discovery& found, const std::string& metric) {
  TextTable table({{"part", false, true}, {metric + " change"}, {"ci"}, {"q"}, {"minimality"}, {"found again"}});
  for (size_t i = 0; i < found.circuit.size(); ++i) {
    const NodeId& part = found.circuit[i];
    CircuitEffect of;
    for (const CircuitNode& node : found.graph.nodes)
      if (node.id == part) of = node.of;
    double again = not_measured;
    for (const auto& [node, share] : found.stability.inclusion)
      if (node == part) again = share;
    table.add({node_name(part), effect_text(of.effect),
               "[" + effect_text(of.ci_lo) + ", " + effect_text(of.ci_hi) + "]", effect_text(of.q),
               i < found.minimality.size() ? effect_text(found.minimality[i]) : "-", effect_text(again)});
  }
  write_stdout(table.text(terminal_width(1)));
  TextTable scores({{"pairs", false, true}, {"n"}, {metric}, {"all ablated"}, {"circuit"}, {"faithfulness"}});
  const char* names[] = {"discover", "size", "test"};
  for (size_t s = 0; s < 3; ++s) {
    const SetScores& of = found.scores[s];
    scores.add({names[s], std::to_string(found.sets[s].size()), effect_text(of.whole), effect_text(of.none),
                effect_text(of.circuit), faithfulness_text(of.faithfulness)});
  }
  write_stdout("\n" + scores.text(terminal_width(1)));
  std::string lines = "\nq of " + std::to_string(found.family.parts) + " candidate parts, of which " +
                      std::to_string(found.tested_parts) + " were taken out alone\n";
  if (!found.random_faithfulness.empty()) {
    std::vector<double> f = found.random_faithfulness;
    std::sort(f.begin(), f.end());
    lines += std::to_string(f.size()) + " random circuits of as many experts and heads in each layer" +
             (found.positions ? " and position" : "") + ": faithfulness " + effect_text(quantile(f, 0.025)) + " to " +
             effect_text(quantile(f, 0.975)) + ", at most " + effect_text(f.back()) + "\n";
  }
  if (!found.paraphrases.overlaps.empty()) {
    std::vector<double> alike;
    double random = 0;
    for (const ParaphraseStability::Overlap& overlap : found.paraphrases.overlaps) {
      alike.push_back(overlap.jaccard);
      random = std::max(random, overlap.random_hi);
    }
    std::sort(alike.begin(), alike.end());
    lines += "found in each of " + std::to_string(found.paraphrases.variants.size()) +
             " wordings: Jaccard of two of them " + effect_text(alike.front()) + " to " + effect_text(alike.back()) +
             " (97.5 % of random ones: at most " + effect_text(random) + ")\n";
  }
  const auto agreement = [&](const char* of, const Discovery::Agreement& with) {
    if (with.forecast > 0)
      lines += std::string("forecast of ") + of + ": " + std::to_string(with.run) + " of " +
               std::to_string(with.forecast) + " run" +
               (with.spearman ? ", rank correlation with the runs " + effect_text(*with.spearman) : "") + "\n";
  };
  agreement("parts", found.parts_agreement);
  agreement("edges", found.edges_agreement);
  for (const Discovery::Redundant& pair : found.redundant)
    lines += "redundant: " + node_name(pair.one) + " and " + node_name(pair.two) + " can stand in for one another (" +
             effect_text(pair.without_one) + " and " + effect_text(pair.without_two) + " without one, " +
             effect_text(pair.without_both) + " without both)\n";
  write_stdout(lines);
}

json::Value edge_names(const std::vector<EdgeId>& edges) {
  json::Value names = json::Value::array();
  for (const EdgeId& edge : edges) names.push_back(edge_name(edge));
  return names;
}

void print_edges(const EdgeCircuit& of, const std::string& metric) {
  TextTable table({{"edge", false, true}, {metric + " change"}, {"minimality"}});
  for (size_t i = 0; i < of.edges.size(); ++i)
    table.add({edge_name(of.edges[i]), effect_text(of.changes[i]),
               i < of.minimality.size() ? effect_text(of.minimality[i]) : "-"});
  write_stdout("\n" + table.text(terminal_width(1)));
  TextTable taus({{"tau", false, true}, {"edges"}, {"discover"}, {"size"}, {"test"}});
  for (const EdgeCircuit::Size& size : of.sizes) {
    std::vector<std::string> row = {effect_text(size.tau), std::to_string(size.edges)};
    for (const double f : size.faithfulness) row.push_back(std::isfinite(f) ? effect_text(f) : "-");
    taus.add(std::move(row));
  }
  write_stdout("\n" + taus.text(terminal_width(1)));
  std::string lines = "\n" + std::to_string(of.edges.size()) + " of " + std::to_string(of.candidates.size()) +
                      " edges, by acdc with tau " + effect_text(of.tau) + ": faithfulness " +
                      faithfulness_text(of.scores[2].faithfulness) + " on the pairs that test\n";
  if (!of.random_faithfulness.empty()) {
    std::vector<double> f = of.random_faithfulness;
    std::sort(f.begin(), f.end());
    lines += std::to_string(f.size()) + " times the same graph of other experts and heads: faithfulness " +
             effect_text(quantile(f, 0.025)) + " to " + effect_text(quantile(f, 0.975)) + ", at most " +
             effect_text(f.back()) + "\n";
  }
  write_stdout(lines);
}

// --edges, and what goes with it alone.
void read_edge_flags(const DiscoverFlags& flags, DiscoverRequest& request) {
  if (flags.edges == "single") {
    if (flags.tau_given->count() > 0)
      throw UsageError("--tau", "expected --edges acdc beside it, found " + flags.edges);
    return;
  }
  if (request.level == NodeLevel::position)
    throw UsageError("--edges", "expected --level node with acdc, found " + flags.level);
  if (flags.controls_given->count() > 0)
    throw UsageError("--edge-controls", "expected --edges single beside it, found " + flags.edges);
  for (size_t i = 0; i < flags.taus.size(); ++i)
    if (!(flags.taus[i] > (i > 0 ? flags.taus[i - 1] : 0)))
      throw UsageError("--tau", "expected shares above 0, each above the one before, found " +
                                    effect_text(flags.taus[i]) +
                                    (i > 0 ? " behind " + effect_text(flags.taus[i - 1]) : ""));
  request.acdc = flags.taus;
}

// What decides the study, beside the common flags.
json::Value study_json(const DiscoverFlags& flags, const Session& session) {
  const DiscoverRequest& request = flags.request;
  json::Value taus = json::Value::array();
  for (const double tau : request.acdc) taus.push_back(tau);
  json::Value study = json::Value::object();
  study.set("metric", flags.metric).set("ablation", flags.ablation).set("level", flags.level);
  study.set("split", flags.split).set("size", flags.size).set("faithfulness", flags.faithfulness);
  study.set("shortlist", flags.shortlist).set("rank", flags.rank).set("forecast", request.forecast);
  study.set("rank_steps", request.rank.steps).set("filter", static_cast<int64_t>(request.filter));
  study.set("edge_filter", static_cast<int64_t>(request.edge_filter)).set("edges", flags.edges);
  study.set("tau", std::move(taus)).set("edge_controls", request.edge_controls).set("random", request.random);
  study.set("stability", request.stability).set("resamples", request.resamples).set("keep_all", request.keep_all);
  if (!session.backend->invariant()) study.set("chunk", request.batch_tokens).set("batch", request.batch);
  return study;
}

int run_discover(DiscoverFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  DiscoverRequest& request = flags.request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.ablation = parse_ablation(flags.ablation, "--ablation");
  request.level = parse_level(flags.level, "--level");
  request.split = parse_split(flags.split, "--split", circuit_sets);
  request.seed = options.seed;
  request.rule = {static_cast<size_t>(flags.shortlist), 1 - flags.faithfulness};
  if (flags.size >= 0) request.size = static_cast<size_t>(flags.size);
  request.filter = static_cast<size_t>(flags.filter);
  request.edge_filter = static_cast<size_t>(flags.edge_filter);
  request.rank.method = parse_rank_method(flags.rank, "--rank");
  request.forecast = flags.rank_given->count() > 0 && request.rank.method != RankMethod::exact;
  if (flags.steps_given->count() > 0 && request.rank.method != RankMethod::eap_ig)
    throw UsageError("--rank-steps", "expected --rank eap-ig beside it, found " + flags.rank);
  if (request.rank.method == RankMethod::exact) {
    for (const CLI::Option* limit : {flags.filter_given, flags.edge_filter_given})
      if (limit->count() > 0)
        throw UsageError(limit->get_name(), "expected no --rank exact beside it, which runs all, found both");
    request.filter = request.edge_filter = SIZE_MAX;
  }
  if (request.rank.method == RankMethod::eap_ig && request.ablation != CircuitAblation::corrupt)
    throw UsageError(
        "--rank",
        "expected --ablation corrupt with eap-ig, which goes from one record to the other, found " + flags.ablation);
  read_edge_flags(flags, request);
  request.batch = options.batch;
  require_own_directory(options.trace, kept_work_names({graph_file, circuit_file, test_file}), "a circuit");
  std::vector<Record> records = read_records(flags.input);
  Session session = open_session(options);
  session.label = session.path;
  request.weights = weights_json(model_facts(session, options.quiet));
  request.threads = n_threads(options);
  if (options.chunk > 0) request.batch_tokens = options.chunk;
  keep_date(options, session, records, circuit_study_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  check_discover(session, run.records, run.made, request, flags.input);
  JobsOfCommand work;
  work.schema = circuit_study_schema;
  work.work.set("circuit", study_json(flags, session));
  KeptWork kept(options.trace, manifest_of_work(options, session, run, work, argc, argv), {graph_file, circuit_file});
  request.kept = {kept.stage("runs"), tell_kept(options)};
  catch_signals();
  request.interrupted = &interrupted;
  StudyBars bars(options.quiet);
  request.progress = bars.progress();
  const Discovery found = discover_circuit(session, run.records, run.made, request, flags.input);
  bars.done();
  if (found.interrupted) {
    kept.interrupt();
    return tell_interrupted(options);
  }
  kept.finish([&](const std::filesystem::path& dir) { write_discovery(dir, found, request, session); });
  const std::vector<std::string> warnings = warnings_of(found, request);
  for (const std::string& warning : warnings) tell_warning(warning);
  if (options.json) {
    json::Value parts = json::Value::array();
    for (const NodeId& part : found.circuit) parts.push_back(node_name(part));
    json::Value told = json::Value::array();
    for (const std::string& warning : warnings) told.push_back(warning);
    const double f = found.scores[2].faithfulness.f;
    write_stdout(json::dump(json::Value::object()
                                .set("circuit", std::move(parts))
                                .set("size", static_cast<int64_t>(found.circuit.size()))
                                .set("faithfulness", f == f ? json::Value(f) : json::Value())
                                .set("edges", found.edges ? edge_names(found.edges->edges) : json::Value())
                                .set("faithful_enough", request.size ? json::Value() : json::Value(found.chosen))
                                .set("warnings", std::move(told))
                                .set("graph", options.trace + "/" + graph_file)) +
                 "\n");
  } else {
    print_circuit(found, flags.metric);
    if (found.edges) print_edges(*found.edges, flags.metric);
    if (!found.chosen)
      write_stdout("not faithful enough: no size reaches --faithfulness on the pairs that choose it\n");
  }
  return 0;
}

}  // namespace

Subcommand add_circuit_discover(CLI::App& app) {
  auto flags = std::make_shared<DiscoverFlags>();
  CLI::App* added = add_discover_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_discover(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
