// An opened model and all that belongs to it: what commands, a server and a notebook share. loaders/open.h fills it.
//
//   Session session = open_session("builtin", {});
//   Job job;
//   job.prompt = std::make_shared<Prompt>("a", encode_prompt("User: hello", session.encode).tokens);
//   job.plan = session.edits(json::Ref(edits, "edits"), ".", 0);            // or null: no edits
//   job.task = Generate{16, {}};                                            // or Score{}
//   session.check("a", job);
//   session.run({job}, session.options, {.on_done = ...}, nullptr);         // generates, scores
//   session.trace({job}, session.options, {dir, points}, record, {});       // the same, recorded
//
// Nothing here reads a command line, prints, ends the process or is global: several sessions stand side by side. One
// session runs on one thread at a time.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/encode.h"
#include "engine/forward.h"
#include "engine/resident_weights.h"
#include "engine/runner.h"
#include "probes/trace.h"

namespace signalbox::engine {

// What a run records, and where.
struct TraceRequest {
  std::filesystem::path dir;
  PointSet points;
  std::vector<std::string> span_names;   // of the bits of Prompt::spans; at most 32
  std::shared_ptr<const EditPlan> plan;  // the edits of all jobs; null: none
  bool compact = false;                  // router.weights as F16
};

// The widest route that the edits of any job ask for; 0: none asks for more than the model's own.
int32_t widest_route(const std::vector<Job>& jobs);

struct Session {
  // The device. It is the last to go: weights lie in its memory.
  std::unique_ptr<Backend> backend;
  std::string numerics = "invariant";  // or "fast", as the backend was opened

  // Whose model it is.
  std::string name;    // as it was asked for
  std::string path;    // its directory, or "builtin"
  std::string commit;  // of a model in the Hugging Face cache: 40 hex digits; else empty
  std::string family;  // for display only
  std::string label;   // what traces call it: the path, or what the caller puts here
  // SHA-256 over config.json and every tensor's name, dtype, shape and file size; of the weight files themselves, by
  // name (reads all bytes of files that were not hashed before; empty where the weights come from no file), with
  // on_progress(bytes, of_bytes), which may be empty.
  std::string model_hash;
  using OnHashed = std::function<void(uint64_t, uint64_t)>;
  std::function<std::vector<std::pair<std::string, std::string>>(const OnHashed& on_progress)> hash_weights;
  std::vector<std::string> unknown_tensors;  // stored, but not of this model
  // Adapters of the model, summed: merged into the weights (engine/adapters.h), or beside them (engine/low_rank.h), for
  // whoever makes jobs to give to these. model_hash and hash_weights tell them too.
  struct AdapterFacts {
    std::string path, hash;
  };
  std::vector<AdapterFacts> adapters;
  std::shared_ptr<const AdapterSum> beside;  // null: all are merged
  std::string label_with_adapters() const;   // "builtin + DIR"

  Model model;
  ModelShape shape;
  WeightMemory weight_memory;                   // of the CPU: where the weights lie
  Weights weights;                              // on the device
  std::vector<int32_t> stop_tokens;             // ascending
  std::unique_ptr<Tokenizer> tokenizer;         // null where the model has none
  std::unique_ptr<ChatTemplate> chat_template;  // null where the model has none

  // What callers may change, for all that follows or in a copy for one run.
  EncodeSetup encode;  // with this session's tokenizer, template and vocabulary
  RunOptions options;  // with this session's tokenizer and stop tokens

  // Edits checked against this model: {"edits": [...]}, the array itself, or a file of the former. `seed` is that of
  // edits that name none. Throws Error naming the key.
  std::shared_ptr<const EditPlan> edits(const json::Ref& edits, const std::filesystem::path& base_dir,
                                        uint64_t seed) const;
  std::shared_ptr<const EditPlan> load_edits(const std::filesystem::path& file, uint64_t seed) const;

  // Throws Error, starting with `where`, for a job that cannot run: see check_length, and what its edits refuse.
  void check(const std::string& where, const Job& job) const;

  // A forward whose routes have room for `max_slots` experts; 0: for the model's own.
  Forward forward(int32_t max_slots) const { return Forward(*backend, model, weights, max_slots); }

  // run_jobs (engine/runner.h) in a forward of their own. False when interrupted.
  bool run(const std::vector<Job>& jobs, const RunOptions& run, const RunEvents& events, ProbeSink* sink) const;

  // What a trace of this model holds, with what it tells of model, device and edits.
  TraceOptions trace_options(const TraceRequest& request) const;
  std::unique_ptr<TraceWriter> open_trace(const TraceRequest& request) const;
  // run() into a trace directory; record(i) is the line of records.jsonl of jobs[i], whose index is i. False when
  // interrupted: then no trace is left.
  bool trace(const std::vector<Job>& jobs, const RunOptions& run, const TraceRequest& request,
             const std::function<json::Value(int64_t)>& record, const RunEvents& events) const;
};

// Completes a trace of these jobs.
void finish_trace(TraceWriter& trace, const std::vector<Job>& jobs, const std::function<json::Value(int64_t)>& record);

}  // namespace signalbox::engine
