// What a refusal of data says at its end: the command that mends it, with the names of the file at hand.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// A word as a shell takes it: in single quotes where it holds more than letters, digits and ._/-=,:@+%.
std::string shell_word(std::string_view text);

// A name beside `file` for what is made of it: "a/pairs.csv" and "split" give "a/pairs_split.jsonl".
std::string made_file(const std::string& file, std::string_view what);

// Commands that make what a file lacks.
// The splits of `names` in equal shares (of three the middle one, for tuning, has half of another's); `replace`: of
// records that have some.
std::string split_command(const std::string& file, bool replace = false,
                          const std::vector<std::string>& names = {"detect", "test"});
// Contrast pairs of records, or of a row alone: by "question" and "document", or by completions. Empty where they have
// neither.
std::string pairs_command(const std::string& file, const std::vector<Record>& records);
// Keys by which other files call what is called otherwise here: theirs, ours.
std::span<const std::pair<std::string_view, std::string_view>> other_names();
// Rows with other keys as records: `object` is one of them.
std::string convert_command(const std::string& file, const json::Value& object);

// What to add to the error of a row of a file: nothing, or "; " and the command that makes records of such rows.
std::string hint_for_row(const std::string& file, const json::Value& object, const Error& error);

// Where to get what a metric needs and records lack ("answers", "target", ...): "; " and a command, or nothing.
std::string hint_for_lacking(const std::string& file, const std::vector<Record>& records, std::string_view lacking);

// How records get a condition that detection asks for, or spans: "; " and a command, or what to write.
std::string hint_for_condition(const std::string& file, const std::vector<Record>& records);
std::string hint_for_span(const std::string& file);

}  // namespace signalbox::eval
