// The record of a request for branches or a score, and the jobs that it makes.
#pragma once
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/records.h"
#include "tools/serve/served_model.h"

namespace signalbox::tools {

// Encoded; edits may name its spans.
struct GivenRecord {
  EncodedRecord encoded;
  std::vector<std::string> span_names;
  json::Value source;  // as it came, with an id
};

// Throws ApiError (400) whose param begins with the path of the record.
GivenRecord read_record(const ServedModel& model, const json::Ref& ref);

// `edits`: where the plan stands in the body, for what it refuses of the record. Throws ApiError (400).
Job job_of(const ServedModel& model, const GivenRecord& record, const std::shared_ptr<const EditPlan>& plan,
           std::variant<Generate, Score> task, const std::string& edits);

json::Value ids_list(const std::vector<int32_t>& ids);

}  // namespace signalbox::tools
