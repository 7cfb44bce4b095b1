// Who writes mistakes and paraphrases: the rules (alterations.h), the loaded model, or a command; and what is made of
// what came back.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/faithfulness/alterations.h"

namespace signalbox::eval {

enum class Alteration : uint8_t { mistake, paraphrase };
const char* alteration_name(Alteration alteration);  // "mistake", "paraphrase"

struct AlterSource {
  enum class Kind : uint8_t { rule, model, command } kind = Kind::rule;
  std::vector<std::string> command;  // without a shell; the first word is looked up in PATH
  std::string text() const;          // as parse_alter_source reads it
};

// "rule", "model" or "command:WORDS", the words between spaces or as a JSON list of texts. Throws UsageError that
// begins with `where`.
AlterSource parse_alter_source(const std::string& text, const std::string& where);

// A sentence to be altered.
struct AlterRequest {
  std::string record, question;  // id and text of the record
  std::string before;            // the explanation's earlier sentences
  std::string sentence;
};

// What the model is given: three examples, then the sentence; without the question and the earlier sentences where
// `bare`. It goes on to the end of the line.
std::string alter_prompt(Alteration alteration, const AlterRequest& request, bool bare);

// Runs a command for one sentence. It gets the sentence, without white space around it, on standard input, and in the
// environment SIGNALBOX_ALTERATION (mistake or paraphrase), SIGNALBOX_ID, SIGNALBOX_PROMPT (the question) and
// SIGNALBOX_EXPLANATION (the earlier sentences). Returns its standard output. Throws Error as a judge does
// (eval/score/judge.h), and where that is no UTF-8.
std::string run_alter_command(const std::vector<std::string>& command, double timeout_seconds, Alteration alteration,
                              const AlterRequest& request);

// Why a text that came back is not used.
enum class AlterFault : uint8_t { empty, unchanged, names_answer };
const char* alter_fault_name(AlterFault fault);  // "empty", "unchanged", "names an answer"

// The first line that is not white space, without white space around it and behind the sentence's own leading white
// space; or what is wrong with it: there is none, it is the sentence (but for case, white space and closing stops), or
// it names an answer that the sentence does not hold (alterations.h).
struct CheckedText {
  std::string text;
  std::optional<AlterFault> fault;
};
CheckedText check_altered(std::string_view text, std::string_view sentence, std::span<const std::string> answers);

}  // namespace signalbox::eval
