// What the subcommands share: flags, opened models, progress and ordered output.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/forward.h"
#include "engine/runner.h"
#include "engine/text.h"
#include "eval/data/records.h"
#include "loaders/model/load.h"
#include "probes/trace.h"

namespace CLI {
class App;
class Validator;
}  // namespace CLI

namespace signalbox {

// Parses; prints help or one error line. Returns -1 to go on, else the exit code.
int parse_arguments(CLI::App& app, int argc, char** argv);

// Refuse NaN, and what is no date, on the command line.
const CLI::Validator& not_nan_validator();
const CLI::Validator& date_validator();

struct CommonOptions {
  std::string model;
  std::string device = "auto", isa = "auto", numerics = "fast";
  int threads = 0;
  int64_t batch = 8, chunk = 512;
  uint64_t seed = 0;
  bool json = false, quiet = false;
  std::string special = "parse";
  std::string edits;   // file, empty = none
  std::string trace;   // directory, empty = none
  std::string points;  // globs of --points
  bool compact = false;
  std::string date;                // of strftime_now in templates
  std::string template_variables;  // a JSON object
};

// MODEL and the flags of every command that runs records.
void add_run_options(CLI::App& app, CommonOptions& options);
// The same without MODEL and --edits, which an experiment has in its spec.
void add_experiment_options(CLI::App& app, CommonOptions& options);
void add_device_options(CLI::App& app, CommonOptions& options);

struct SamplingOptions {
  Sampling sampling;
  int64_t max_tokens = 128, samples = 1;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};
void add_sampling_options(CLI::App& app, SamplingOptions& options);

// A model ready to run: its weights mapped, its text tools, its backend.
struct OpenedModel {
  std::unique_ptr<Tokenizer> tokenizer;         // null when the directory has none
  std::unique_ptr<ChatTemplate> chat_template;  // null when the model has none
  LoadedModel loaded;
  ModelShape shape;
  std::vector<int32_t> stop_tokens;
  std::unique_ptr<Backend> backend;
};
OpenedModel open_model(const CommonOptions& options);

// Tokenizer and template alone, from a directory that may hold nothing else.
struct OpenedText {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
};
OpenedText open_text(const std::string& model, const CommonOptions& options, bool tokenizer_required);

std::unique_ptr<Backend> open_backend(const CommonOptions& options);

// Records, encoded and with their edits bound: everything that can be refused has been.
struct PreparedRun {
  std::vector<Record> records;
  std::vector<EncodedRecord> encoded;
  std::vector<std::string> span_names;
  std::shared_ptr<const EditPlan> plan;  // null: no edits
  std::vector<Job> jobs;                 // record-major, samples within
  int32_t max_slots = 0;
  int64_t total_tokens = 0;  // given tokens and the most that can be generated
};
PreparedRun prepare_run(const CommonOptions& options, OpenedModel& model, std::vector<Record> records,
                        const SamplingOptions& sampling, bool score);

// How text becomes tokens, from --special, --template-variables and --date. Throws Error.
EncodeSetup encode_setup(const CommonOptions& options, const OpenedModel& model);

// TraceOptions::metadata but for "edits". `name` stands for the model.
std::vector<std::pair<std::string, std::string>> trace_metadata(const CommonOptions& options, const OpenedModel& model,
                                                                const std::string& name);

// What --trace, --points and --compact ask for.
TraceOptions trace_options(const CommonOptions& options, const OpenedModel& model, const PreparedRun& run);
// A trace writer for the run, or null when no directory was asked for. finish_trace completes it.
std::unique_ptr<TraceWriter> open_trace(const CommonOptions& options, const OpenedModel& model, const PreparedRun& run);
void finish_trace(TraceWriter& trace, const PreparedRun& run);

// Says once on standard error why --device auto has taken the CPU. run_options does it: when everything that can be
// refused has been.
void tell_cpu_fallback(const CommonOptions& options, const Backend& backend);
RunOptions run_options(const CommonOptions& options, const OpenedModel& model, const SamplingOptions& sampling);

// Keys of the record that travel to the output line: all but its text and what `line` has itself.
void carry_keys(const Record& record, json::Value& line);

// Emits strings in the order of their index, whatever finishes first.
class OrderedOutput {
 public:
  void put(int64_t index, std::string text);

 private:
  std::map<int64_t, std::string> waiting_;
  int64_t next_ = 0;
};

// A bar with the time left on a terminal, else a line every few seconds, on standard error. Nothing when quiet.
class Progress {
 public:
  Progress(std::string what, int64_t total, bool quiet);
  ~Progress() { done(); }
  void update(int64_t count);
  void done();

 private:
  std::string what_;
  int64_t total_;
  bool quiet_, terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

// Set by SIGINT, SIGTERM and SIGUSR1.
extern std::atomic<bool> interrupted;
// From here on a signal only sets `interrupted`. Before, it ends the process with code 3.
void catch_signals();
void exit_on_signals();
// Ends the command with exit code 3, destructors included.
struct Interrupted {};
void stop_if_interrupted();

bool stdout_is_terminal();
void write_stdout(const std::string& text);  // whole; Error when it cannot
std::string hex64(uint64_t value);

// Makes the files of the built-in model known to the loaders.
void register_builtin_model();

}  // namespace signalbox
