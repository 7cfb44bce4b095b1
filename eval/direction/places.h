// Which tokens of a record a direction is read at and written to.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/record_jobs.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// "last": the last token before the target, of the whole record where there is none; "all": the given tokens before the
// target; "span:NAME": the tokens of that span.
struct Places {
  std::string text = "last";
};
Places parse_places(const std::string& text, const std::string& where);

// Ascending positions. Throws Error naming the record's place where there is none.
std::vector<int64_t> positions_at(const Places& places, const Record& record, const EncodedRecord& encoded);

// Runs of neighbouring positions, half-open.
std::vector<std::pair<int64_t, int64_t>> runs_of(const std::vector<int64_t>& positions);

}  // namespace signalbox::eval
