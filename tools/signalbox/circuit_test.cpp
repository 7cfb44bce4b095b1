// signalbox circuit test: what speaks for and against a circuit on pairs that did not find it (docs/circuits.md).
#include "tools/signalbox/circuit.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/text_table.h"
#include "eval/circuit/verify.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/warning.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct TestFlags {
  CommonOptions common;
  std::string dir, input;
  VerifyRequest request;
};

CLI::App* add_test_flags(CLI::App& app, TestFlags& flags) {
  CLI::App* test = app.add_subcommand("test", "what speaks for and against a circuit, on pairs that did not find it");
  test->footer(
      "Example:\n  signalbox circuit test /tmp/circuit builtin \\\n"
      "    --input docs/examples/memory-pairs.jsonl");
  test->add_option("DIR", flags.dir, "directory of circuit.json")->required();
  test->add_option("MODEL", flags.common.model, "the model that the circuit is of")->required();
  add_experiment_options(*test, flags.common);
  test->add_option(
          "--input", flags.input,
          "pairs of records: those that the circuit's study held out where there are any, else all that are new")
      ->type_name("FILE")
      ->required();
  test->add_option("--random", flags.request.random, "random circuits, and random parts put in")
      ->check(in_range(1, 100000))
      ->capture_default_str();
  test->add_option("--permutations", flags.request.permutations, "of the test of independence")
      ->check(in_range(1, 1000000))
      ->capture_default_str();
  test->add_option("--epsilon", flags.request.epsilon,
                   "how far from a half the share of wins may be of what is equivalent")
      ->check(in_range(0.0, 0.49))
      ->capture_default_str();
  test->add_option("--quantile", flags.request.quantile, "share of random circuits that a circuit must beat")
      ->check(in_range(0.01, 0.99))
      ->capture_default_str();
  test->add_option("--alpha", flags.request.alpha, "level of the tests")
      ->check(in_range(0.0001, 0.5))
      ->capture_default_str();
  test->add_flag("--keep-all", flags.request.keep_all, "pairs whose clean run does not prefer its answer too");
  return test;
}

std::string p_text(double p) {
  char text[32];
  std::snprintf(text, sizeof text, p < 1e-4 ? "%.1e" : "%.4f", p);
  return text;
}

void print_tests(const Verification& tested, const KnownCircuit& circuit, const VerifyRequest& request) {
  TextTable table({{"test", false, true}, {"asks", false}, {"found", false}, {"p"}});
  const EquivalenceTest& even = tested.equivalence;
  table.add({"equivalence", "does it do as well as the model?",
             std::to_string(even.wins) + " wins, " + std::to_string(even.losses) + " losses, " +
                 std::to_string(even.ties) + " ties",
             p_text(even.p)});
  table.add({"independence", "does the rest still tell of the answer?", "HSIC " + effect_text(tested.independence.hsic),
             p_text(tested.independence.p)});
  const std::vector<std::string> names = circuit.names();
  std::string superfluous;
  double least = 1;
  for (size_t i = 0; i < tested.minimality.holm.size(); ++i) {
    least = std::min(least, tested.minimality.holm[i]);
    if (tested.minimality.holm[i] <= request.alpha) superfluous += (superfluous.empty() ? "" : " ") + names[i];
  }
  table.add({"minimality", circuit.edges ? "is an edge superfluous?" : "is a part superfluous?",
             superfluous.empty() ? "none" : superfluous, p_text(least)});
  const auto row = [&](const char* name, const char* asks, const RandomCircuitTest& test) {
    table.add({name, asks, std::to_string(test.worse) + " of " + std::to_string(test.n), p_text(test.p)});
  };
  row("sufficiency", "is it nearer to the model than random circuits?", tested.sufficiency);
  row("partial necessity", "does its absence harm more than theirs?", tested.necessity);
  write_stdout(table.text(terminal_width(1)));
  write_stdout("\nfaithfulness " + faithfulness_text(tested.scores.faithfulness) + " on " +
               std::to_string(tested.pairs.pairs.size()) + " pairs that did not find it" +
               (circuit.edges ? ", of " + std::to_string(names.size()) + " edges" : "") + "\n");
}

int run_test(TestFlags& flags) {
  CommonOptions& options = flags.common;
  VerifyRequest& request = flags.request;
  const KnownCircuit circuit = read_known_circuit(flags.dir);
  request.seed = options.seed;
  request.batch = options.batch;
  if (options.chunk > 0) request.batch_tokens = options.chunk;
  std::vector<Record> records = read_records(flags.input);
  Session session = open_session(options);
  session.label = session.path;
  request.weights = weights_json(model_facts(session, options.quiet));
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  catch_signals();
  request.interrupted = &interrupted;
  StudyBars bars(options.quiet);
  request.progress = bars.progress();
  const Verification tested = verify_circuit(session, run.records, run.made, circuit, request, flags.input);
  bars.done();
  if (tested.interrupted) {
    std::fprintf(stderr, "interrupted: nothing is left; the same command begins anew\n");
    return 3;
  }
  write_verification(flags.dir, tested, circuit, request, session);
  tell_warning(dropped_pairs_text(tested.pairs));
  if (!tested.used.empty() && !options.quiet)
    std::fprintf(stderr,
                 "%zu pairs left out: they found the circuit, chose its size, or are not among those it held out\n",
                 tested.used.size());
  if (options.json) {
    write_stdout(json::dump(json::Value::object()
                                .set("equivalence", tested.equivalence.p)
                                .set("independence", tested.independence.p)
                                .set("sufficiency", tested.sufficiency.p)
                                .set("partial_necessity", tested.necessity.p)
                                .set("test", flags.dir + "/" + test_file)) +
                 "\n");
  } else {
    print_tests(tested, circuit, request);
  }
  return 0;
}

}  // namespace

Subcommand add_circuit_test(CLI::App& app) {
  auto flags = std::make_shared<TestFlags>();
  CLI::App* added = add_test_flags(app, *flags);
  return {added, [flags](int, char**) { return run_test(*flags); }};
}

}  // namespace signalbox::tools
