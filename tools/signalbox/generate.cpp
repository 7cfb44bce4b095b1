// signalbox generate: text from prompts.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <deque>

#include "base/text.h"
#include "eval/score/sample_lines.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

namespace {

// Prints each token on a terminal as soon as it is there; with a layer, in the colour of the expert of the highest
// weight that its own forward used, which is known one step later.
class Painter : public ProbeSink {
 public:
  explicit Painter(int32_t layer) : layer_(layer) {}
  void set_next(ProbeSink* next) { next_ = next; }

  void print(const std::string& text) {
    if (layer_ < 0) {
      write_stdout(text);
      std::fflush(stdout);
    } else {
      waiting_.push_back(text);
    }
  }
  void rest() {
    for (const std::string& text : waiting_) write_stdout(text);
    waiting_.clear();
  }

  bool wants(Point point, int32_t layer) const override {
    return (point == Point::router_ids && layer == layer_) || (next_ && next_->wants(point, layer));
  }
  void begin(const StepRows& rows) override {
    generated_ = rows.phase && rows.phase[rows.n_rows - 1];
    n_rows_ = rows.n_rows;
    if (next_) next_->begin(rows);
  }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    if (next_) next_->take(point, layer, data, width);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override {
    if (layer == layer_ && generated_ && !waiting_.empty()) {
      const int32_t expert = ids[(n_rows_ - 1) * n_slots];
      // 6 x 6 x 6 colour cube without its darkest corner; neighbours in index are far apart in hue.
      const int colour = 20 + (expert * 67 + 31) % 210;
      char prefix[24];
      std::snprintf(prefix, sizeof prefix, "\033[38;5;%dm", colour);
      write_stdout(prefix + waiting_.front() + "\033[0m");
      std::fflush(stdout);
      waiting_.pop_front();
    }
    if (next_ && next_->wants(Point::router_ids, layer)) next_->take_ids(layer, ids, original_ids, n_slots);
  }
  void end() override {
    if (next_) next_->end();
  }
  void abandon() override {
    if (next_) next_->abandon();
  }

 private:
  int32_t layer_;
  ProbeSink* next_ = nullptr;
  bool generated_ = false;
  int64_t n_rows_ = 0;
  std::deque<std::string> waiting_;
};

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
  std::string prompt, chat, input;
  int colour_layer = -1;
  add_run_options(app, options);
  auto* source = app.add_option_group("source");
  auto* prompt_option = source->add_option("--prompt", prompt, "raw text");
  auto* chat_option = source->add_option("--chat", chat, "one user message, rendered by the chat template");
  source->add_option("--input", input, "records, a JSON object a line; - = standard input");
  source->require_option(1);
  app.add_option("--max-tokens", sampling.max_tokens, "generate this many tokens at most")
      ->check(in_range(0, 1 << 24))
      ->capture_default_str();
  add_sampling_options(app, sampling);
  add_generation_config_option(app, options);
  app.add_option("--trace", options.trace, "write a trace into this directory, or go on with it");
  app.add_option("--points", options.points, "points of the trace");
  app.add_flag("--compact", options.compact, "F16 weights in the trace");
  app.add_option("--colour-layer,--color-layer", colour_layer,
                 "on a terminal: colour each token by its first expert at this layer")
      ->check(in_range(0, 100000));
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.trace.empty() && (!options.points.empty() || options.compact))
    throw UsageError("--points, --compact", "expected --trace beside them, found none");
  sampling.sampling.seed = options.seed;

  std::vector<Record> records;
  if (!input.empty()) {
    records = read_records(input);
  } else {
    json::Value record = json::Value::object();
    record.set("id", "prompt");
    if (chat_option->count() > 0) {
      json::Value message = json::Value::object();
      message.set("role", "user").set("content", chat);
      record.set("messages", json::Value::array().push_back(message));
    } else {
      record.set("prompt", prompt);
    }
    records.push_back(parse_record(record, prompt_option->count() > 0 ? "--prompt" : "--chat"));
  }
  if (sampling.max_tokens > 0) check_generation(options);
  // The last token is run for a trace alone.
  const int64_t n_generated = sampling.max_tokens - (options.trace.empty() ? 1 : 0);
  check_edits(options, records,
              n_generated > 0            ? ""
              : sampling.max_tokens == 1 ? "with --max-tokens 1 the new token comes from the last given one"
                                         : "with --max-tokens 0 there are none");
  Session session = open_session(options);
  if (colour_layer >= 0 && (colour_layer >= session.shape.n_layers() || !session.shape.layers[colour_layer].moe))
    throw UsageError("--colour-layer", "expected a layer with a router, found " + std::to_string(colour_layer));
  keep_date(options, session, records, recorded_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{sampling.max_tokens, sampling.sampling},
                                sampling.samples);

  const bool streaming = !options.json && run.jobs().size() == 1 && session.tokenizer;
  const bool painted = streaming && colour_layer >= 0 && stdout_is_terminal();
  Painter painter(painted ? colour_layer : -1);
  // A stop string may begin in text that is final but not yet complete: stream only without one.
  const bool live = streaming && sampling.stop.empty();
  bool streamed = false;  // the text of a trace that was complete comes whole

  OrderedOutput output;
  JobsOfCommand jobs;
  jobs.doing = "generating";
  jobs.work.set("command", "generate");
  jobs.generate = settings_of(sampling);
  jobs.running = run_options(session, sampling);
  jobs.shows_progress = !(streaming && stdout_is_terminal());
  if (live)
    jobs.on_token = [&](const Job&, int32_t, const std::string& text) {
      streamed = true;
      painter.print(text);
    };
  jobs.on_result = [&](Result result) {
    const Job& job = run.jobs()[result.index];
    const Record& record = run.record_of(result.index);
    if (options.json) {
      output.put(result.index, json::dump(line_of(record, *job.prompt, job, result, session.tokenizer != nullptr,
                                                  run.plan != nullptr)) +
                                   "\n");
    } else if (streamed) {
      if (!painted) write_stdout("\n");
    } else {
      std::string text = result.text;
      if (!session.tokenizer)
        for (int32_t token : result.tokens) text += (text.empty() ? "" : " ") + std::to_string(token);
      const std::string title =
          run.jobs().size() == 1 ? ""
                                 : record.id + (sampling.samples > 1 ? " #" + std::to_string(job.sample) : "") + ": ";
      output.put(result.index, title + text + "\n");
    }
  };
  if (painted)
    jobs.in_front = [&](ProbeSink* next) {
      painter.set_next(next);
      return &painter;
    };
  const RecordingEnd end = run_jobs_of_command(options, session, run, jobs, argc, argv);
  if (streamed && painted) {  // the routes of the last tokens arrive at the end of the run
    painter.rest();
    write_stdout("\n");
  }
  return end == RecordingEnd::interrupted ? 3 : 0;
}

}  // namespace signalbox::tools
