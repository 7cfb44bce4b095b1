#include "tools/signalbox/record.h"

#include <cstdio>

#include "eval/routing/trace_texts.h"
#include "probes/trace_schema.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

namespace fs = std::filesystem;

// What prints a result does not write behind a bar.
std::function<void(Result)> behind_bar(Progress& progress, const std::function<void(Result)>& on_result) {
  if (!on_result) return {};
  return [&progress, &on_result](Result result) {
    progress.done();
    on_result(std::move(result));
  };
}

RecordingEnd record(const CommonOptions& options, const Session& session, PreparedRun& run, const JobsOfCommand& jobs,
                    int argc, char** argv) {
  const Manifest manifest = manifest_of_work(options, session, run, jobs, argc, argv);
  TraceRecording recording;
  recording.trace = session.trace_options(trace_request(options, session, run));
  recording.jobs = run.jobs();
  recording.record = [&](int64_t job) { return run.record_of(job).source; };
  recording.text = [&](int64_t job, const Result& result) {
    return text_line(run.record_of(job), run.encoded_of(job), run.jobs()[static_cast<size_t>(job)], result,
                     session.tokenizer.get());
  };
  tell_cpu_fallback(options, session);  // not before what can be refused
  Progress progress(jobs.doing, tokens_to_record(run.jobs()), options.quiet || !jobs.shows_progress, "tokens");
  RecordingEvents events;
  events.on_kept = [&](int64_t samples, int64_t tokens) {
    if (!options.quiet)
      std::fprintf(stderr, "%s: kept: %ld of %zu samples\n", options.trace.c_str(), static_cast<long>(samples),
                   run.jobs().size());
    progress.start_at(tokens);
  };
  events.on_progress = [&](int64_t tokens) { progress.update(tokens); };
  events.on_token = jobs.on_token;
  events.on_result = behind_bar(progress, jobs.on_result);
  events.in_front = jobs.in_front;
  Forward forward = session.forward(widest_route(run.jobs()));
  const RecordingEnd end = record_trace(recording, manifest, forward, jobs.running, events);
  progress.done();
  if (options.quiet) return end;
  if (end == RecordingEnd::interrupted)
    std::fprintf(stderr, "%s: the same command goes on from here\n", options.trace.c_str());
  if (end == RecordingEnd::was_complete) std::fprintf(stderr, "%s: was complete\n", options.trace.c_str());
  return end;
}

}  // namespace

std::string records_hash(const std::vector<Record>& records) {
  RecordsHash hash;
  for (const Record& record : records) hash.add(record);
  return hash.hex();
}

Manifest manifest_of_records(const CommonOptions& options, const Session& session, const Session& encoder,
                             const std::vector<Record>& records, RecordingInputs inputs, const std::string& schema,
                             int argc, char** argv) {
  inputs.model = model_facts(session, options.quiet);
  inputs.data_hash = records_hash(records);
  inputs.seed = options.seed;
  inputs.model_name = session.path;
  inputs.special = options.special;
  inputs.template_variables = encoder.encode.template_variables;
  Manifest manifest;
  manifest.schema = schema;
  manifest.identity = recording_identity(inputs);
  manifest.info = work_info(options, session, argc, argv);
  return manifest;
}

Manifest manifest_of_work(const CommonOptions& options, const Session& session, const PreparedRun& run,
                          const JobsOfCommand& jobs, int argc, char** argv) {
  RecordingInputs inputs;
  inputs.work = jobs.work;
  inputs.generate = jobs.generate;
  if (run.plan) inputs.edits = run.plan->source();
  inputs.edits_dir = fs::path(options.edits).parent_path();
  inputs.points = options.points.empty() ? std::string(default_points) : options.points;
  inputs.compact = options.compact;
  return manifest_of_records(options, session, session, run.records, std::move(inputs), jobs.schema, argc, argv);
}

GenerationSettings settings_of(const SamplingOptions& sampling) {
  return {sampling.max_tokens, sampling.samples, sampling.sampling, sampling.stop, sampling.ignore_eos};
}

void keep_date_of(const std::string& dir, const CommonOptions& options, Session& session,
                  const std::vector<Record>& records, const std::string& schema) {
  if (!dir.empty() && options.date.empty() && template_tells_date(session.encode, records))
    session.encode.template_variables.set("date", date_of_work(dir, schema));
}

void keep_date(const CommonOptions& options, Session& session, const std::vector<Record>& records,
               const std::string& schema) {
  keep_date_of(options.trace, options, session, records, schema);
}

RecordingEnd run_jobs_of_command(const CommonOptions& options, const Session& session, PreparedRun& run,
                                 const JobsOfCommand& jobs, int argc, char** argv) {
  if (!options.trace.empty()) {
    catch_signals();
    return record(options, session, run, jobs, argc, argv);
  }
  tell_cpu_fallback(options, session);
  Progress progress(jobs.doing, run.total_tokens, options.quiet || !jobs.shows_progress, "tokens");
  RunEvents events;
  events.on_progress = [&](int64_t tokens) { progress.update(tokens); };
  events.on_token = jobs.on_token;
  events.on_done = behind_bar(progress, jobs.on_result);
  catch_signals();
  ProbeSink* sink = jobs.in_front ? jobs.in_front(nullptr) : nullptr;
  return session.run(run.jobs(), jobs.running, events, sink) ? RecordingEnd::complete : RecordingEnd::interrupted;
}

int64_t samples_kept_of(const CommonOptions& options, const Session& session, const PreparedRun& run,
                        const JobsOfCommand& jobs, int argc, char** argv) {
  if (options.trace.empty() || !fs::exists(options.trace)) return 0;  // weights need not be hashed
  TraceRecording recording;
  recording.trace.dir = options.trace;
  recording.jobs = run.made.jobs;
  return samples_recorded(recording, manifest_of_work(options, session, run, jobs, argc, argv));
}

void tell_trace(const CommonOptions& options) {
  const TraceReader trace(options.trace);
  const std::string file = (fs::path(options.trace) / trace_file).string();
  if (options.json) {
    json::Value summary = json::Value::object();
    summary.set("trace", file).set("samples", trace.n_samples()).set("tokens", trace.n_tokens());
    write_stdout(json::dump(summary) + "\n");
  } else if (!options.quiet) {
    std::fprintf(stderr, "%s: %ld samples, %ld tokens\n", file.c_str(), static_cast<long>(trace.n_samples()),
                 static_cast<long>(trace.n_tokens()));
  }
}

}  // namespace signalbox::tools
