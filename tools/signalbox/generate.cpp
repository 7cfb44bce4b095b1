// signalbox generate: text from prompts.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/near_names.h"
#include "base/text.h"
#include "eval/score/sample_lines.h"
#include "probes/trace.h"
#include "tools/signalbox/choice_flags.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/route_view.h"
#include "tools/signalbox/source.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

// The first expert of every row of a sample, from a trace that has them; else nothing.
std::vector<int32_t> first_experts(const TraceReader& trace, const Job& job, int32_t layer) {
  const std::vector<int32_t> layers = trace.layers();
  const auto found = std::find(layers.begin(), layers.end(), layer);
  if (!trace.has("router.ids") || found == layers.end()) return {};
  const TraceReader::Rows rows = trace.rows(job.index);
  const std::vector<int32_t> ids = trace.ids(rows);
  const int64_t n_slots = trace.n_slots(), n_layers = static_cast<int64_t>(layers.size());
  std::vector<int32_t> first;
  for (int64_t row = 0; row < rows.size(); ++row)
    first.push_back(ids[static_cast<size_t>((row * n_layers + (found - layers.begin())) * n_slots)]);
  return first;
}

json::Value line_of(const Record& record, const Prompt& prompt, const Job& job, const Result& result, bool has_text,
                    bool edited) {
  json::Value line = json::Value::object(), tokens = json::Value::array(), timings = json::Value::object();
  for (int32_t token : result.tokens) tokens.push_back(int64_t{token});
  timings.set("prefill_seconds", result.prefill_seconds).set("decode_seconds", result.decode_seconds);
  line.set("id", record.id)
      .set("sample", int64_t{job.sample})
      .set("text", has_text ? json::Value(result.text) : json::Value())
      .set("tokens", std::move(tokens))
      .set("prompt_tokens", static_cast<int64_t>(prompt.tokens.size()))
      .set("finish_reason", result.finish_reason)
      .set("logits_hash", hex64(result.logits_hash))
      .set("timings", std::move(timings));
  if (edited) put_edit_counts(line, result.edits());
  carry_keys(record, line);
  return line;
}

}  // namespace

int generate_command(int argc, char** argv) {
  CLI::App app("Generates text from a prompt, a chat message, or a file of records.", "signalbox generate");
  app.footer(
      "Examples:\n  signalbox generate builtin --chat \"Question: What is the capital of Velmora?\"\n"
      "  signalbox generate builtin --prompt \"Once upon a time\" --max-tokens 40 --temperature 0.8 --seed 3\n"
      "  signalbox generate MODEL --input records.jsonl --edits off.json --json");
  CommonOptions options;
  SamplingOptions sampling;
  ChoiceRules choice;
  RecordSource source;
  std::vector<int> colour_layers;
  bool colour_prompt = false;
  add_run_options(app, options);
  add_unmerged_option(app, options);
  add_source_options(app, source);
  app.add_option("--max-tokens", sampling.max_tokens, "generate this many tokens at most")
      ->check(in_range(0, 1 << 24))
      ->capture_default_str();
  add_sampling_options(app, sampling);
  add_choice_options(app, choice);
  add_generation_config_option(app, options);
  app.add_option("--trace", options.trace, "write a trace into this directory, or go on with it")->type_name("DIR");
  app.add_option("--points", options.points, "points of the trace")->type_name("GLOBS");
  app.add_flag("--compact", options.compact, "F16 weights in the trace");
  auto* colour = app.add_option("--colour-layer,--color-layer", colour_layers,
                                "show which expert each token went to first at these layers, and how often each: in "
                                "colours on a terminal, else as [EXPERT] before each token")
                     ->type_name("L")
                     ->delimiter(',')
                     ->check(in_range(0, 100000));
  app.add_flag("--colour-prompt,--color-prompt", colour_prompt, "the prompt's tokens too")->needs(colour);
  if (int code = parse_arguments(app, argc, argv, "a prompt goes behind --prompt or --chat"); code >= 0) return code;
  if (options.json && !colour_layers.empty())
    throw UsageError("--colour-layer",
                     "expected no --json beside it, found it (--trace DIR keeps routes for programs)");
  if (options.trace.empty() && (!options.points.empty() || options.compact))
    throw UsageError("--points, --compact", "expected --trace beside them, found none");
  if (!options.trace.empty() && !choice.empty())
    throw UsageError("--logit-bias, --force-token", "expected no --trace beside them, found it");
  sampling.sampling.seed = options.seed;

  std::vector<Record> records = source.records();
  if (sampling.max_tokens > 0) check_generation(options);
  // The last token is run for a trace alone.
  const int64_t n_generated = sampling.max_tokens - (options.trace.empty() ? 1 : 0);
  check_edits(options, records,
              n_generated > 0            ? ""
              : sampling.max_tokens == 1 ? "with --max-tokens 1 the new token comes from the last given one"
                                         : "with --max-tokens 0 there are none");
  Session session = open_session(options);
  require_routers(colour_layers, session.shape, "--colour-layer");
  keep_date(options, session, records, recorded_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{sampling.max_tokens, sampling.sampling},
                                sampling.samples);
  check_choice(choice, session.model.n_vocab, run.jobs());

  const auto title_of = [&](const Job& job) {
    const Record& record = run.record_of(job.index);
    return record.id + (sampling.samples > 1 ? " #" + std::to_string(job.sample) : "") + ": ";
  };
  const bool coloured = !colour_layers.empty(), single = run.jobs().size() == 1;
  std::unique_ptr<RouteView> view;
  if (coloured) {
    RouteViewOptions shown;
    shown.layers = colour_layers;
    shown.colours = may_colour(STDOUT_FILENO);
    shown.prompt = colour_prompt;
    shown.width = terminal_width(STDOUT_FILENO);
    shown.tokenizer = session.tokenizer.get();
    view = std::make_unique<RouteView>(shown, run.jobs(),
                                       single ? std::vector<std::string>() : names_of(run.jobs(), title_of),
                                       [](const std::string& text) {
                                         write_stdout(text);
                                         std::fflush(stdout);
                                       });
  }
  // A stop string may begin in text that is final but not yet complete: stream only without one.
  const bool live = !options.json && !coloured && single && session.tokenizer && sampling.stop.empty();
  bool streamed = false;  // the text of a trace that was complete comes whole

  OrderedOutput output;
  JobsOfCommand jobs;
  jobs.doing = "generating";
  jobs.work.set("command", "generate");
  jobs.generate = settings_of(sampling);
  jobs.running = run_options(session, sampling);
  jobs.shows_progress = !(live && stdout_is_terminal());
  if (live)
    jobs.on_token = [&](const Job&, int32_t, const std::string& text) {
      streamed = true;
      write_stdout(text);
      std::fflush(stdout);
    };
  jobs.on_result = [&](Result result) {
    const Job& job = run.jobs()[result.index];
    const Record& record = run.record_of(result.index);
    if (view) {
      view->result(std::move(result));
    } else if (options.json) {
      output.put(result.index, json::dump(line_of(record, *job.prompt, job, result, session.tokenizer != nullptr,
                                                  run.plan != nullptr)) +
                                   "\n");
    } else if (streamed) {
      write_stdout("\n");
    } else {
      std::string text = result.text;
      if (!session.tokenizer)
        for (int32_t token : result.tokens) text += (text.empty() ? "" : " ") + std::to_string(token);
      output.put(result.index, (single ? "" : title_of(job)) + text + "\n");
    }
  };
  if (view)
    jobs.in_front = [&](ProbeSink* next) {
      view->set_next(next);
      return view.get();
    };
  const RecordingEnd end = choice.empty() ? run_jobs_of_command(options, session, run, jobs, argc, argv)
                                          : run_choosing(options, session, run, jobs, choice);
  if (view) {
    // What an earlier process did has its routes in the trace.
    std::optional<TraceReader> trace;
    if (!options.trace.empty() && end != RecordingEnd::interrupted) trace.emplace(options.trace);
    view->finish([&](int64_t job, int32_t layer) {
      return trace ? first_experts(*trace, run.jobs()[static_cast<size_t>(job)], layer) : std::vector<int32_t>();
    });
  }
  return end == RecordingEnd::interrupted ? 3 : 0;
}

}  // namespace signalbox::tools
