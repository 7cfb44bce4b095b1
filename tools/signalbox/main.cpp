// The signalbox binary: finds the subcommand, and turns every failure into one line and an exit code.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/near_names.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "tools/bench/limits.h"
#include "tools/signalbox/commands.h"
#include "tools/terminal/signals.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;

struct Command {
  const char* name;
  int (*run)(int, char**);
  const char* summary;
};

constexpr Command commands[] = {
    {"inspect", inspect_command, "what a model is: layers, routers, experts, parameters"},
    {"tokenize", tokenize_command, "text to tokens, or tokens to text"},
    {"generate", generate_command, "generate text"},
    {"score", score_command, "log-probabilities of given text"},
    {"trace", trace_command, "record routes and activations"},
    {"lens", lens_command, "which next token each layer, and each part of it, speaks for"},
    {"vocabulary", vocabulary_command, "which tokens each expert raises, and which experts a token"},
    {"run", run_command, "a whole experiment: interventions, controls, scores, statistics"},
    {"deactivate", deactivate_command, "a run from flags: ban the experts of a contrast, and random ones"},
    {"misroute", misroute_command, "a run from flags: send tokens elsewhere, by policy and dose"},
    {"merge", merge_command, "put the shards of a run together"},
    {"rescore", rescore_command, "a finished run with other metrics, without generating again"},
    {"analyze", analyze_command, "which experts differ between conditions: intervals, p-values"},
    {"report", report_command, "one HTML file with pictures"},
    {"judge", judge_command, "hold a rule or a judge against labels, and correct a run's rates"},
    {"regimes", regimes_command, "routing profiles of ways of asking, and recurring experts"},
    {"faithfulness", faithfulness_command, "does the written explanation decide the answer?"},
    {"gradient", gradient_command, "how a metric changes with what stands at each point"},
    {"causal", causal_command, "the effect of every slot on a metric"},
    {"direction", direction_command, "vectors that tell two conditions apart, and what adding them does"},
    {"circuit", circuit_command, "which experts and heads do something together: find, test, draw"},
    {"compress", compress_command, "which experts can go: scores, plans, smaller checkpoints"},
    {"quantize", quantize_command, "weights of 8 or 4 bits, and what they change"},
    {"train", train_command, "change weights by gradients: from records to a checkpoint"},
    {"upcycle", upcycle_command, "carve a sparse mixture of experts out of a dense GGUF model"},
    {"similarity", similarity_command, "how alike the experts of two models are"},
    {"transplant", transplant_command, "an expert of one model in another, judged beside controls"},
    {"rationale", rationale_command, "which tokens an answer rests on: factors, experts, ERASER scores"},
    {"domains", domains_command, "do domains of prompts use experts of their own?"},
    {"data", data_command, "convert, pair, split and generate records"},
    {"diff", diff_command, "compare two traces"},
    {"make-model", make_model_command, "write a random or planted checkpoint"},
    {"download", download_command, "get a model from the Hugging Face hub, by its own tool"},
    {"serve", serve_command, "answer over HTTP: OpenAI's API, with probes and edits"},
    {"bench", bench_command, "measure speed and the cost of probes"},
    {"demo", demo_command, "a first experiment on the built-in model"},
};

void print_help() {
  std::printf(
      "Signalbox: mixture-of-experts inference in which every routing decision can be\n"
      "watched, changed and measured.\n\n"
      "Usage: signalbox COMMAND [ARGUMENTS]\n\nCommands:\n");
  for (const Command& command : commands) std::printf("  %-12s %s\n", command.name, command.summary);
  std::printf(
      "\nMODEL is a directory in Hugging Face layout, org/name[@revision] in the local\n"
      "Hugging Face cache, or builtin. signalbox help COMMAND [SUBCOMMAND] shows flags\n"
      "and an example; signalbox --version [--json] tells what this binary holds.\n\n"
      "Example:\n  signalbox generate builtin --chat \"What is the capital of Beltri?\"\n");
}

const Command& command_of(const std::string& name) {
  for (const Command& command : commands)
    if (name == command.name) return command;
  std::vector<std::string> names = names_of(commands, &Command::name);
  for (const char* other : {"help", "--help", "--version"}) names.emplace_back(other);
  throw UsageError("command", wrong_name("a command", name, names, "signalbox --help"));
}

// signalbox help COMMAND [SUBCOMMAND]: as the command's own --help.
int help(std::vector<char*> words) {
  if (words.empty()) {
    print_help();
    return 0;
  }
  const Command& command = command_of(words[0]);
  if (words.size() > 2)
    throw UsageError("help", std::string("expected COMMAND [SUBCOMMAND], found ") + words[2] + " too");
  char flag[] = "--help";
  words.push_back(flag);
  return command.run(static_cast<int>(words.size()), words.data());
}

int print_version(bool as_json) {
  if (!as_json) {
    std::printf("signalbox %s\n", SIGNALBOX_VERSION);
    return 0;
  }
  json::Value built = json::Value::array(), runnable = json::Value::array();
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    built.push_back(isa);
    if (cpu::has_isa(isa)) runnable.push_back(isa);
  }
  json::Value backends = json::Value::array(), architectures = json::Value::array();
  backends.push_back("cpu");
  if (built_with_cuda()) backends.push_back("cuda");
  std::istringstream names(cuda_architectures());
  for (std::string name; names >> name;) architectures.push_back(name);
  json::Value version = json::Value::object();
  version.set("version", SIGNALBOX_VERSION)
      .set("backends", std::move(backends))
      .set("isas", built)
      .set("isas_of_this_machine", runnable)
      .set("gpu_architectures", std::move(architectures))
      .set("cublas", built_with_cuda() ? cublas_json() : json::Value());
  std::printf("%s\n", json::dump(version).c_str());
  return 0;
}

// One line, whatever a file's bytes put into the message.
void print_error(const std::string& text) {
  std::string line;
  for (char c : text) line += (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) ? ' ' : c;
  std::fflush(stdout);
  std::fprintf(stderr, "signalbox: error: %s\n", line.c_str());
}

int run(int argc, char** argv) {
  if (argc < 2) {
    print_help();
    return 2;
  }
  const std::string name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") return help({argv + 2, argv + argc});
  if (name == "--version") {
    if (argc > 3 || (argc == 3 && std::strcmp(argv[2], "--json") != 0))
      throw UsageError("--version", std::string("expected --json or nothing, found ") + argv[2]);
    return print_version(argc > 2);
  }
  return command_of(name).run(argc - 1, argv + 1);
}

}  // namespace

int main(int argc, char** argv) {
  int code = 1;
  try {
    exit_on_signals();
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of the write
    code = run(argc, argv);
    if (code == 3) std::fprintf(stderr, "signalbox: interrupted\n");
  } catch (const Error& error) {
    print_error(error.what());
    // Whoever found it: what is wrong with a flag is wrong with the command line. Where a command line could be meant
    // and what it names is not there (a device, a port that is free), that is the place, and the flag stands behind it.
    if (dynamic_cast<const UsageError*>(&error) || error.where().starts_with("--")) code = 2;
  } catch (const Interrupted&) {
    std::fprintf(stderr, "signalbox: interrupted\n");
    code = 3;
  } catch (const std::bad_alloc&) {
    print_error("memory: expected enough for this run, found less than it needs");
  } catch (const std::exception& error) {
    print_error(error.what());
  }
  if ((std::fflush(stdout) != 0 || std::ferror(stdout)) && code == 0) {
    print_error("standard output: cannot write");
    code = 1;
  }
  return code;
}
