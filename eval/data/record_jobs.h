// Records as jobs for the engine.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// One sample of an encoded record. A plan that changes nothing is left out. Not checked (Session::check), no index.
Job make_job(const EncodedRecord& record, std::variant<Generate, Score> task, std::shared_ptr<const EditPlan> plan,
             int64_t sample = 0);

struct RecordJobs {
  std::vector<std::string> span_names;  // of all records
  std::vector<EncodedRecord> encoded;   // [records]
  std::vector<Job> jobs;                // record by record, its samples one after the other; indices from 0
};

// Encodes every record with session.encode and makes `samples` jobs of each. Everything that can be refused is refused
// here, before the first token. Throws Error naming the record's place (encode_record, Session::check), or the span
// that an edit asks for and no record has.
RecordJobs make_jobs(const Session& session, const std::vector<Record>& records,
                     const std::variant<Generate, Score>& task, const std::shared_ptr<const EditPlan>& plan,
                     int64_t samples = 1);

}  // namespace signalbox::eval
