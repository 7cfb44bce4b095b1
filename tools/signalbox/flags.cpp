#include "tools/signalbox/flags.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

namespace {

// CLI11 wraps a negative number around for an unsigned flag, and NaN passes every range.
const CLI::Validator whole_number(
    [](std::string& text) {
      return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos
                 ? std::string()
                 : "expected a whole number that is not negative, found " + text;
    },
    "", "whole number");
const CLI::Validator not_nan(
    [](std::string& text) {
      return text.find_first_of("nN") == std::string::npos ? std::string() : "expected a number, found " + text;
    },
    "", "number");

const CLI::Validator date(
    [](std::string& text) {
      int year, month, day, used = 0;
      const bool good = std::sscanf(text.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &used) == 3 &&
                        used == static_cast<int>(text.size()) && month >= 1 && month <= 12 && day >= 1 && day <= 31;
      return good ? std::string() : "expected a date YYYY-MM-DD, found " + text;
    },
    "", "date");

}  // namespace

const CLI::Validator& not_nan_validator() { return not_nan; }
const CLI::Validator& date_validator() { return date; }

int parse_arguments(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    write_stdout(app.help());
    return 0;
  } catch (const CLI::ParseError& error) {
    throw UsageError(app.get_name(), error.what());
  }
  // An unset shell variable gives an empty value; taking it for "not given" would drop an edit or a trace silently.
  std::vector<const CLI::Option*> options;
  for (const CLI::Option* option : app.get_options()) options.push_back(option);
  for (const CLI::App* group : app.get_subcommands([](const CLI::App*) { return true; }))
    for (const CLI::Option* option : group->get_options()) options.push_back(option);
  for (const CLI::Option* option : options) {
    if (option->get_name() == "--prompt" || option->get_name() == "--chat") continue;
    for (const std::string& value : option->results())
      if (value.empty())
        throw UsageError(app.get_name(), option->get_name() + ": expected a value, found an empty one");
  }
  return -1;
}

void add_device_options(CLI::App& app, CommonOptions& o) {
  app.add_option("--device", o.device, "auto | cpu | cuda[:N]")->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads, 0 = all")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--isa", o.isa, "auto | scalar | avx2 | avx512 | amx")
      ->check(CLI::IsMember({"auto", "scalar", "avx2", "avx512", "amx"}))
      ->capture_default_str();
  app.add_option("--numerics", o.numerics, "invariant | fast (the same on the CPU)")
      ->check(CLI::IsMember({"invariant", "fast"}))
      ->capture_default_str();
  app.add_option("--seed", o.seed, "seed of sampling and of edits that name none")
      ->check(whole_number)
      ->capture_default_str();
  app.add_flag("--json", o.json, "machine output");
  app.add_flag("--quiet", o.quiet, "no progress");
}

void add_run_options(CLI::App& app, CommonOptions& o) {
  app.add_option("MODEL", o.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(app, o);
  app.add_option("--edits", o.edits, "edit spec (docs/edits.md)");
}

void add_experiment_options(CLI::App& app, CommonOptions& o) {
  add_device_options(app, o);
  app.add_option("--batch", o.batch, "sequences at once")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--chunk", o.chunk, "given tokens a forward")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--special", o.special,
                 "special tokens spelt out in prompts and messages: parse | template-only (they stay text)")
      ->check(CLI::IsMember({"parse", "template-only"}))
      ->capture_default_str();
  app.add_option("--template-variables", o.template_variables, "a JSON object for the chat template");
  app.add_option("--date", o.date, "date that chat templates see, YYYY-MM-DD (default: today)")->check(date);
}

void add_generation_config_option(CLI::App& app, CommonOptions& o) {
  app.add_option_function<std::string>(
         "--generation-config", [&o](const std::string& value) { o.ignore_generation_config = value == "ignore"; },
         "keys of the model's generation_config.json that change greedy text and are not applied here "
         "(repetition_penalty, ...): refuse | ignore")
      ->check(CLI::IsMember({"refuse", "ignore"}))
      ->default_str("refuse");
}

void add_sampling_options(CLI::App& app, SamplingOptions& o) {
  app.add_option("--temperature", o.sampling.temperature, "0 = the most probable token")
      ->check(not_nan)
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str();
  app.add_option("--top-p", o.sampling.top_p, "keep the fewest tokens of this probability")
      ->check(not_nan)
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--top-k", o.sampling.top_k, "keep this many tokens, 0 = all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--stop", o.stop, "stop at this text (may be given several times)")->allow_extra_args(false);
  app.add_option("--samples", o.samples, "samples of each prompt")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_flag("--ignore-eos", o.ignore_eos, "go on past an end token");
}

}  // namespace signalbox::tools
