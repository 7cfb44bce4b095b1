// Converters from the formats in which public data sets come to input records, and back to one checked file.
#pragma once
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/csv_records.h"
#include "eval/data/prompt_template.h"

namespace signalbox::eval {

// A format. `read` gives drafts: objects with an id, a question and what else the format knows, under our keys
// (docs/data.md), without a prompt; all other keys of the source are carried. It throws Error at the place of what is
// missing or of a wrong type.
struct Converter {
  std::string_view name;
  std::string_view summary;      // one line: the files it takes
  bool plain = false;            // PromptStyle::plain
  std::string_view instruction;  // PromptStyle::instruction
  std::vector<Row> (*read)(const std::vector<std::string>& files) = nullptr;
};
std::span<const Converter> converters();
const Converter* find_converter(std::string_view name);  // null when there is none

// Keys of ours by keys of theirs, where a dot goes into an object ("choices" from "choices.text").
using KeyMap = std::vector<std::pair<std::string, std::string>>;
// Drafts, or whole records, from CSV or JSON of any keys ("csv" and "jsonl"). Keys that are not mapped are carried; a
// row without an id gets FILE-N; with `new_ids` every row does, and an id of its own becomes "source_id".
std::vector<Row> read_mapped(const std::vector<std::string>& files, const KeyMap& map, bool new_ids = false);
// What ids made for a file's rows begin with: its name without folder and ending, "input" for standard input ("-").
std::string file_stem(const std::string& file);
// "ours=theirs,ours=theirs". Throws UsageError.
KeyMap parse_key_map(const std::string& text);

// Checks every row as a record, and that ids are unique. Throws Error at the place.
void check_records(const std::vector<Row>& rows);

// All records as JSON lines.
std::string dump_records(const std::vector<Row>& rows);

// Keys of `from` that are neither in `used` nor in `to` are added to `to`.
void carry_rest(const json::Value& from, std::initializer_list<std::string_view> used, json::Value& to);
// A string, or a number as text. For ids, which some files keep as numbers.
std::string id_text(const json::Ref& value);

// The readers of the single formats (convert_*.cpp).
std::vector<Row> read_squad(const std::vector<std::string>& files);
std::vector<Row> read_faitheval_counterfactual(const std::vector<std::string>& files);
std::vector<Row> read_faitheval_unanswerable(const std::vector<std::string>& files);
std::vector<Row> read_faitheval_inconsistent(const std::vector<std::string>& files);
std::vector<Row> read_mctest(const std::vector<std::string>& files);
std::vector<Row> read_xstest(const std::vector<std::string>& files);
std::vector<Row> read_advbench(const std::vector<std::string>& files);
std::vector<Row> read_beavertails(const std::vector<std::string>& files);

}  // namespace signalbox::eval
