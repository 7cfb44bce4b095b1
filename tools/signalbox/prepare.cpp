// From records to jobs: everything that can be refused is refused here, before the first token.
#include <algorithm>
#include <cstdio>

#include "engine/run_plan.h"
#include "tools/signalbox/common.h"

namespace signalbox {

EncodeSetup encode_setup(const CommonOptions& options, const OpenedModel& model) {
  EncodeSetup setup;
  setup.tokenizer = model.tokenizer.get();
  setup.chat_template = model.chat_template.get();
  setup.n_vocab = model.loaded.model.n_vocab;
  setup.template_only_specials = options.special == "template-only";
  if (!options.template_variables.empty())
    setup.template_variables = json::parse(options.template_variables, "--template-variables");
  json::Ref(setup.template_variables, "--template-variables").expect_object();
  if (!options.date.empty()) setup.template_variables.set("date", options.date);
  return setup;
}

PreparedRun prepare_run(const CommonOptions& options, OpenedModel& model, std::vector<Record> records,
                        const SamplingOptions& sampling, bool score) {
  PreparedRun run;
  run.records = std::move(records);
  run.span_names = span_names(run.records);
  if (!options.trace.empty() && run.span_names.size() > 32)
    throw Error("spans", "expected at most 32 names in a traced input, found " + std::to_string(run.span_names.size()));
  if (!options.edits.empty()) {
    run.plan = EditPlan::load(options.edits, model.shape, options.seed);
    run.plan->require_spans(run.span_names);
  }

  const EncodeSetup setup = encode_setup(options, model);
  const int64_t limit = model.loaded.model.max_positions;
  for (const Record& record : run.records) {
    run.encoded.push_back(encode_record(record, setup, run.span_names));
    const EncodedRecord& encoded = run.encoded.back();
    const int64_t n_given = static_cast<int64_t>(encoded.prompt->tokens.size());
    if (n_given == 0) throw Error(record.where, "expected at least one token, found none");
    if (limit > 0 && n_given + sampling.max_tokens > limit)
      throw Error(record.where, "expected at most the model's " + std::to_string(limit) + " positions, found " +
                                    std::to_string(n_given) + " given and up to " +
                                    std::to_string(sampling.max_tokens) + " generated tokens");
  }
  const bool edited = run.plan && !run.plan->empty();
  for (size_t r = 0; r < run.records.size(); ++r) {
    for (int64_t s = 0; s < sampling.samples; ++s) {
      Job job;
      job.index = static_cast<int64_t>(run.jobs.size());
      job.prompt = run.encoded[r].prompt;
      job.sample = static_cast<uint32_t>(s);
      if (score)
        job.task = Score{};
      else
        job.task = Generate{sampling.max_tokens, sampling.sampling};
      if (edited) {
        job.plan = run.plan;
        job.spans = run.encoded[r].spans;
        run.plan->check(sequence_info(job));
      }
      run.jobs.push_back(std::move(job));
    }
  }
  run.total_tokens = planned_tokens(run.jobs, !options.trace.empty());
  run.max_slots = edited ? run.plan->max_slots() : model.shape.n_active();
  return run;
}

std::vector<std::pair<std::string, std::string>> trace_metadata(const CommonOptions& options, const OpenedModel& model,
                                                                const std::string& name) {
  return {{"model", name},
          {"model_hash", model.loaded.model_hash},
          {"tokenizer", model.tokenizer ? name + " " + model.tokenizer->hash() : ""},
          {"numerics", options.numerics},
          {"isa", model.backend->isa()},
          {"device", model.backend->name()},
          {"signalbox_version", SIGNALBOX_VERSION}};
}

TraceOptions trace_options(const CommonOptions& options, const OpenedModel& model, const PreparedRun& run) {
  TraceOptions trace;
  trace.dir = options.trace;
  trace.shape = model.shape;
  trace.points =
      PointSet::parse(options.points.empty() ? default_points : std::string_view(options.points), model.shape);
  trace.n_slots = run.max_slots;
  trace.original_ids = run.plan && run.plan->has_router_edits();
  trace.compact = options.compact;
  trace.span_names = run.span_names;
  json::Value edits = json::Value::object();
  if (run.plan) edits.set("edits", run.plan->source());
  trace.metadata = trace_metadata(options, model, model.loaded.resolved.path);
  trace.metadata.emplace_back("edits", run.plan ? json::dump(edits) : "");
  return trace;
}

std::unique_ptr<TraceWriter> open_trace(const CommonOptions& options, const OpenedModel& model,
                                        const PreparedRun& run) {
  if (options.trace.empty()) return nullptr;
  return std::make_unique<TraceWriter>(trace_options(options, model, run));
}

void finish_trace(TraceWriter& trace, const PreparedRun& run) {
  std::vector<std::string> ids;
  const int64_t samples = static_cast<int64_t>(run.jobs.size() / run.records.size());
  for (const Job& job : run.jobs) ids.push_back(job.prompt->id);
  trace.finish(ids, [&](int64_t sample) { return run.records[sample / samples].source; });
}

void tell_cpu_fallback(const CommonOptions& options, const Backend& backend) {
  static bool told = false;
  if (told || options.quiet || options.device != "auto" || !built_with_cuda() || backend.name() != "cpu") return;
  told = true;
  std::fprintf(stderr, "running on the CPU: %s\n", cuda_unavailable().c_str());
}

RunOptions run_options(const CommonOptions& options, const OpenedModel& model, const SamplingOptions& sampling) {
  tell_cpu_fallback(options, *model.backend);
  RunOptions run;
  run.batch = options.batch;
  run.chunk = options.chunk;
  run.stop_tokens = model.stop_tokens;
  run.stop_strings = sampling.stop;
  run.ignore_eos = sampling.ignore_eos;
  run.tokenizer = model.tokenizer.get();
  run.interrupted = &interrupted;
  if (!sampling.stop.empty() && !model.tokenizer)
    throw Error("--stop", "expected a model with a tokenizer, found none");
  for (const std::string& stop : sampling.stop)
    if (stop.empty()) throw UsageError("--stop", "expected some text, found none");
  return run;
}

void carry_keys(const Record& record, json::Value& line) {
  for (const auto& [key, value] : record.source.members()) {
    if (key == "prompt" || key == "messages" || key == "tokens" || line.find(key)) continue;
    line.set(key, value);
  }
}

}  // namespace signalbox
