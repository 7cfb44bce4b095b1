// Prompts chosen by structure, not by subject: entities that come again, steps that depend on each other, a state that
// must be kept in mind. Their answers are computed, and their structure is measured from the finished text.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/csv_records.h"

namespace signalbox::eval {

struct StructuralOptions {
  int64_t n = 100;
  uint64_t seed = 0;
  // "tokens": holders of counted things, whose counts change step by step.
  // "builtin": the wording that the built-in model was trained on, with names that it never saw: two-hop questions on a
  // document and sums of three, by turns.
  bool builtin = false;
  int64_t entities = 3;     // that the answer depends on, 2..12; steps + 1 at most
  int64_t steps = 4;        // of the chain that leads to the answer, 1..24 (builtin: always 2)
  int64_t distractors = 2;  // sentences that change nothing of the answer, 0..24 (builtin: further facts, 0..3)
};

// What a text holds, read from its sentences alone.
struct Structure {
  int64_t entities = 0;       // names in the document
  int64_t recurring = 0;      // of them, those in more than one sentence
  int64_t steps = 0;          // links of the longest chain of statements, each using what the one before it made, that
                              // ends in what the question asks for
  int64_t state_changes = 0;  // times that the value of some entity was set after the beginning
  std::string answer;
};
// Reads a document and a question of either wording. Throws Error at `where` for a sentence that is of neither.
Structure measure_structure(const std::string& document, const std::string& question, const std::string& where);

// Drafts (convert.h): id, question, document (none for sums), answers, steps (the chain as sentences), structure,
// domain. Throws UsageError for options that cannot be met.
std::vector<Row> structural_drafts(const StructuralOptions& options);

}  // namespace signalbox::eval
