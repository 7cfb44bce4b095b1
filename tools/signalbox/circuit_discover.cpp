// signalbox circuit discover: finds a circuit in pairs of clean and corrupt records (docs/circuits.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "base/text.h"
#include "base/text_table.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/circuit.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/warning.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct DiscoverFlags {
  CommonOptions common;
  std::string input, metric = "logit_diff", split, ablation = "corrupt", level = "node", out;
  double faithfulness = 0.9;
  int64_t size = -1;
  DiscoverRequest request;
  std::string rank = "atp";
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
      ->check(in_range(0, 1 << 20))
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
      ->add_option("--edge-controls", flags.request.edge_controls,
                   "draws for each pair of either kind of control that an edge must exceed; 0: none")
      ->check(in_range(0, 1000))
      ->capture_default_str();
  discover->add_option("--resamples", flags.request.resamples, "of bootstrap intervals and sign flips")
      ->check(in_range(99, 1000000))
      ->capture_default_str();
  discover->add_flag("--keep-all", flags.request.keep_all, "pairs whose clean run does not prefer its answer too");
  discover->add_option("--out", flags.out, "directory of graph.json and circuit.json")->type_name("DIR")->required();
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

int run_discover(DiscoverFlags& flags) {
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
  request.batch = options.batch;
  require_own_directory(flags.out, {graph_file, circuit_file, test_file}, "a circuit");
  std::vector<Record> records = read_records(flags.input);
  Session session = open_session(options);
  session.label = session.path;
  request.weights = weights_json(model_facts(session, options.quiet));
  request.threads = n_threads(options);
  if (options.chunk > 0) request.batch_tokens = options.chunk;
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  catch_signals();
  request.interrupted = &interrupted;
  StudyBars bars(options.quiet);
  request.progress = bars.progress();
  const Discovery found = discover_circuit(session, run.records, run.made, request, flags.input);
  bars.done();
  if (found.interrupted) {
    std::fprintf(stderr, "interrupted: nothing is left; the same command begins anew\n");
    return 3;
  }
  write_discovery(flags.out, found, request, session);
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
                                .set("faithful_enough", request.size ? json::Value() : json::Value(found.chosen))
                                .set("warnings", std::move(told))
                                .set("graph", flags.out + "/" + graph_file)) +
                 "\n");
  } else {
    print_circuit(found, flags.metric);
    if (!found.chosen)
      write_stdout("not faithful enough: no size reaches --faithfulness on the pairs that choose it\n");
  }
  return 0;
}

}  // namespace

Subcommand add_circuit_discover(CLI::App& app) {
  auto flags = std::make_shared<DiscoverFlags>();
  CLI::App* added = add_discover_flags(app, *flags);
  return {added, [flags](int, char**) { return run_discover(*flags); }};
}

}  // namespace signalbox::tools
