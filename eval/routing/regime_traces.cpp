#include "eval/routing/regime_traces.h"

#include "base/sha256.h"
#include "engine/session.h"

namespace signalbox::eval {

std::vector<Job> jobs_of_programs(const std::vector<Job>& single, const std::vector<Derived>& derived,
                                  const std::vector<Program>& programs, const RegimeSettings& settings,
                                  int64_t max_positions) {
  std::vector<Job> jobs;
  for (size_t r = 0; r < derived.size(); ++r) {
    const Program& program = programs[derived[r].program];
    Job job = single[r];
    const int64_t max_tokens = program.max_tokens.value_or(settings.max_tokens);
    job.task = Generate{max_tokens, program.sampling_over(settings.sampling)};
    check_length(derived[r].record.where + ": program \"" + program.name + "\"", job.n_given(), job.max_new(),
                 max_positions);
    for (int64_t s = 0; s < program.samples.value_or(settings.samples); ++s) {
      job.index = static_cast<int64_t>(jobs.size());
      job.sample = static_cast<uint32_t>(s);
      jobs.push_back(job);
    }
  }
  return jobs;
}

json::Value regimes_identity(const RegimeInputs& inputs) {
  Sha256 records;
  for (const Derived& one : *inputs.derived) records.update(json::dump(one.record.source) + "\n");
  json::Value hashes = model_hashes(inputs.model);
  hashes.set("data", records.hex());
  const bool edited = !inputs.edits.is_null();
  hashes.set("files", edited ? file_hashes(files_of_edits(json::Ref(inputs.edits, "--edits"), inputs.edits_dir),
                                           inputs.edits_dir)
                             : json::Value::object());
  const RegimeSettings& settings = inputs.settings;
  json::Value stop = json::Value::array();
  for (const std::string& text : settings.stop) stop.push_back(text);
  json::Value generate = json::Value::object();
  generate.set("max_tokens", settings.max_tokens)
      .set("samples", settings.samples)
      .set("temperature", static_cast<double>(settings.sampling.temperature))
      .set("top_p", static_cast<double>(settings.sampling.top_p))
      .set("top_k", int64_t{settings.sampling.top_k})
      .set("stop", std::move(stop))
      .set("ignore_eos", settings.ignore_eos);
  return json::Value::object()
      .set("signalbox_version", inputs.model.signalbox_version)
      .set("model", inputs.model_name)
      .set("hashes", std::move(hashes))
      .set("programs", programs_json(*inputs.programs))
      .set("generate", std::move(generate))
      .set("seed", inputs.seed)
      .set("edits", inputs.edits)
      .set("points", inputs.points)
      .set("compact", inputs.compact)
      .set("stop_tokens", stop_tokens_json(inputs.model))
      .set("device", inputs.model.device)
      .set("isa", inputs.model.isa)
      .set("numerics", inputs.model.numerics)
      .set("special", inputs.special)
      .set("template_variables", inputs.template_variables);
}

}  // namespace signalbox::eval
