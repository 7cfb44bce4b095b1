// Prompt programs: the same base records asked in several ways (regimes of reasoning), as derived records.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/records.h"
#include "kernels/sampling.h"

namespace signalbox::eval {

// A solved example that goes before the question.
struct Exemplar {
  std::string user, assistant;
  bool operator==(const Exemplar&) const = default;
};

// How a base record is asked.
struct Program {
  std::string name;
  std::string persona;           // an instruction at the very beginning; empty = none
  bool persona_in_user = false;  // it begins the first user message: for templates without a system role
  std::vector<Exemplar> exemplars;
  std::string suffix;  // after the question, as it is written
  // What replaces the run's own "generate" settings for this program.
  std::optional<int64_t> samples, max_tokens;
  std::optional<double> temperature, top_p;
  std::optional<int32_t> top_k;

  bool has_settings() const { return samples || max_tokens || temperature || top_p || top_k; }
  // `base` with what this program replaces.
  Sampling sampling_over(Sampling base) const;
  bool changes_text() const { return !persona.empty() || !exemplars.empty() || !suffix.empty(); }
};

// From the value of the key "programs": a list of objects, or "regimes" (default_regimes()). An object has "name" and
// any of "persona", "persona_role" ("system" | "user"), "exemplars" (a list of {"user", "assistant"}, or a JSONL file
// of such objects, relative to base_dir), "suffix", "samples", "temperature", "max_tokens", "top_p", "top_k", and
// "like": the name of an earlier program whose settings it begins with. Throws Error naming the key.
std::vector<Program> parse_programs(const json::Ref& programs, const std::filesystem::path& base_dir);

// The four regimes: R0 direct, R1 zero-shot chain of thought, R2 few-shot chain of thought with a persona, R3
// self-consistency (R1 sampled 10 times at temperature 0.7).
std::vector<Program> default_regimes();

// What --programs names: "regimes", or a file that holds the list, or one that holds an object with the key "programs"
// (an experiment's spec). Throws Error.
std::vector<Program> load_programs(const std::string& given);

// Keeps the named programs, in their own order; all where no name is given. Throws UsageError naming --program.
void select_programs(std::vector<Program>& programs, const std::vector<std::string>& names);

// The programs as "programs" would list them, files read and "like" resolved: what a manifest records.
json::Value programs_json(const std::vector<Program>& programs);

// The record as the program asks it: id "BASE@NAME", `base` = the base record's id, `base_prompt` = its
// line_prompt_hash, `condition` = the program's name (a
// condition of the base record stays as `base_condition`), `pair` = the base record's pair, else its id. Everything
// else is carried. In messages the persona begins the system message, exemplars follow it as earlier turns, and the
// suffix ends the last message; in a prompt they are text, and spans move with the text that they name. Throws Error
// for records of tokens, for records that have `base` already, and for spans in messages whose text changes.
Record apply_program(const Program& program, const Record& base);

// One derived record and where it comes from.
struct Derived {
  Record record;
  size_t base = 0, program = 0;  // indices
};

// All programs of the first record, of the second, ... Throws Error when two derived records have the same id.
std::vector<Derived> apply_programs(const std::vector<Program>& programs, const std::vector<Record>& bases);

}  // namespace signalbox::eval
