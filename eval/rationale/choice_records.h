// Records with a document, a question and choices, as the engine takes them: which tokens are which word, and the
// probability of each choice where words are taken out.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/data/records.h"
#include "eval/rationale/eraser.h"

namespace signalbox::eval {

// What a choice is called where all records have the same classes: A, B, ..., Z, choice 27, ...
std::string choice_name(size_t choice);

struct ChoiceRecord {
  std::string id, where;
  std::vector<int32_t> tokens;                // of the prompt
  std::vector<std::vector<int64_t>> words;    // [words of the document] positions of its tokens; may be none
  std::vector<bool> gold;                     // [words] evidence
  std::vector<std::string> names;             // [choices] choice_name of each
  std::vector<std::vector<int32_t>> choices;  // [choices] their tokens
  int64_t choice = 0;                         // the right one
  int64_t n_words() const { return static_cast<int64_t>(words.size()); }
  int64_t n_gold() const;
};

// `document`, `choices`, `choice` and `evidence` ([start, end) words of the document, words being what stands between
// spaces) of a record, which `signalbox rationale convert world` writes. The document's words are looked for in the
// rendered text. Throws Error at the record.
ChoiceRecord choice_record(const Record& record, const engine::EncodeSetup& setup);

// How words are taken out. remove: their tokens are not there, and those behind move up. mask: their keys are hidden
// from all others, which keep their places.
enum class Removal : uint8_t { remove, mask };
inline constexpr const char* removal_names[] = {"delete", "mask"};

// Throws Error where masking cannot be exact: a sliding window that is shorter than the record.
void check_masking(const engine::Session& session, const std::vector<ChoiceRecord>& records);

// p(choice | text): softmax over the choices of the sum of their tokens' log p. Runs of one record are kept.
class ChoiceRuns {
 public:
  ChoiceRuns(const engine::Session& session, const ChoiceRecord& record) : session_(session), record_(record) {}

  // Of texts without some words: out[w] = word w is taken out. Those asked for before cost nothing.
  std::vector<ClassScores> without(Removal how, const std::vector<std::vector<bool>>& out);
  // Of the whole text under edits.
  std::vector<ClassScores> under(const std::vector<std::shared_ptr<const probes::EditPlan>>& plans);

 private:
  struct Text {
    std::vector<int32_t> tokens, places;
    std::shared_ptr<const probes::EditPlan> plan;
  };
  std::vector<ClassScores> run(const std::vector<Text>& texts);
  ClassScores run_masked(const Text& text);
  ClassScores shares(const std::vector<double>& sums) const;
  const engine::Session& session_;
  const ChoiceRecord& record_;
  std::map<std::pair<Removal, std::vector<bool>>, ClassScores> known_;
};

// The class of the largest score, the first of equals.
size_t predicted_class(const ClassScores& scores);

}  // namespace signalbox::eval
