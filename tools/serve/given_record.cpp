#include "tools/serve/given_record.h"

#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/request_fields.h"

namespace signalbox::tools {

GivenRecord read_record(const ServedModel& model, const json::Ref& ref) {
  ref.expect_object();
  GivenRecord out;
  out.source = ref.value();
  if (!out.source.find("id")) out.source.set("id", "prompt");
  try {
    const Record record = parse_record(out.source, "record");
    out.span_names = span_names({record});
    out.encoded = encode_record(record, model.session.encode, out.span_names);
    if (out.encoded.prompt->tokens.empty()) throw Error("record", "expected tokens, found none");
  } catch (const Error& error) {
    // "prompt: expected a string": a path within the record.
    const std::string& reason = error.reason();
    const size_t end = reason.find(": ");
    const std::string path = end != std::string::npos && reason.find(' ') > end ? reason.substr(0, end) : "";
    const std::string param = ref.path() + (path.empty() ? "" : "." + path);
    throw ApiError(400, param + ": " + (path.empty() ? reason : reason.substr(end + 2)), param);
  }
  return out;
}

Job job_of(const ServedModel& model, const GivenRecord& record, const std::shared_ptr<const EditPlan>& plan,
           std::variant<Generate, Score> task, const std::string& edits) {
  Job job;
  job.prompt = record.encoded.prompt;
  job.task = std::move(task);
  job.adapters = model.session.beside;
  if (plan && !plan->empty()) {
    job.plan = plan;
    job.spans = record.encoded.spans;
  }
  const int64_t n = job.max_positions();
  if (n > model.max_model_len)
    throw ApiError(400,
                   "record: expected at most " + std::to_string(model.max_model_len) + " tokens, found " +
                       std::to_string(n) + " given and to be generated",
                   "record", "context_length_exceeded");
  try {
    model.session.check("record", job);
  } catch (const Error& error) {
    const std::string field = job.plan ? edits : "record";
    throw ApiError(400, field + ": " + without_paths(error.reason()), field);
  }
  return job;
}

json::Value ids_list(const std::vector<int32_t>& ids) {
  json::Value out = json::Value::array();
  for (const int32_t id : ids) out.push_back(int64_t{id});
  return out;
}

}  // namespace signalbox::tools
