// Input records: JSON lines or CSV rows with a prompt, messages or tokens, and what travels with them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/encode.h"
#include "engine/jobs.h"
#include "probes/edits.h"

namespace signalbox::eval {

// One line of an input file, checked but not yet tokenized.
struct Record {
  std::string where;  // "file:line", for messages
  std::string id;
  enum class Kind : uint8_t { prompt, messages, tokens } kind = Kind::prompt;
  std::string prompt;
  json::Value messages;
  std::vector<int32_t> tokens;
  std::optional<std::string> target;
  std::vector<std::string> answers;
  std::map<std::string, std::pair<int64_t, int64_t>> spans;  // half-open; code points, or token indices for tokens
  std::string condition, pair, domain, split;                // empty when absent
  json::Value source;                                        // the whole line, unknown keys included
};

// Reads and checks a whole file before anything runs: JSON lines, or CSV when the name ends in .csv (csv_records.h says
// which columns are more than text). Throws Error naming file, line and reason: not an object, no or a
// repeated id, not exactly one of prompt, messages, tokens, a wrong type, a span that is not a range. "-" reads JSON
// lines from standard input.
std::vector<Record> read_records(const std::string& file);

// One record from an object; `where` starts messages. Used by read_records and for single prompts.
Record parse_record(const json::Value& object, const std::string& where);

// A record as the engine takes it.
struct EncodedRecord {
  std::shared_ptr<const Prompt> prompt;  // ids of the prompt and then of the target; span bits by `span_names`
  std::optional<int64_t> target_start;   // index into the tokens
  std::string text;                      // rendered text of messages
  std::vector<SpanTokens> spans;         // token ranges, "target" included
};

// All names of spans in the file, in order of first appearance; "target" last where a record has one.
std::vector<std::string> span_names(const std::vector<Record>& records);

// Tokenizes a record. Throws Error naming the record's place: messages without a template, text without a tokenizer, an
// id outside the vocabulary, a span beyond the text, a span named "target" beside a target.
EncodedRecord encode_record(const Record& record, const EncodeSetup& setup, const std::vector<std::string>& names);

// Whether what the chat template prints for these records depends on the date.
bool template_tells_date(const EncodeSetup& setup, const std::vector<Record>& records);

}  // namespace signalbox::eval
