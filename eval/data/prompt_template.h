// Prompts made from parts: templates with placeholders, and the places of the parts in the finished prompt.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/text.h"
#include "eval/data/csv_records.h"

namespace signalbox::eval {

// Half-open, in Unicode code points.
using NamedRange = std::pair<std::string, std::pair<int64_t, int64_t>>;

// A text with placeholders: {question} stands for the record's key of that name. {{ and }} are braces; \n, \t and
// \\ are a line end, a tab and a backslash, as one types them in a shell. A list of choices is written "A) first", "B)
// second", one a line. A placeholder may stand once.
class PromptTemplate {
 public:
  PromptTemplate() = default;
  static PromptTemplate parse(std::string_view text, const std::string& where);

  struct Filled {
    std::string text;
    std::vector<NamedRange> spans;  // one for each placeholder, in order
  };
  // Throws Error at `where` for a key that the object lacks or that is no text (nor a list of choices).
  Filled fill(const json::Value& object, const std::string& where) const;

 private:
  struct Part {
    bool placeholder = false;
    std::string text;  // literal, or the key's name
  };
  std::vector<Part> parts_;
};

// How drafts (records without a prompt) become records.
struct PromptStyle {
  std::string text;                             // of the template; empty = the default for the record's keys
  bool plain = false;                           // the default is the question by itself
  std::string instruction;                      // a line that the default adds before the question
  bool chat = false;                            // messages instead of a prompt
  std::string system;                           // chat: a system message, empty = none
  const ChatTemplate* chat_template = nullptr;  // chat: finds spans in the rendered text; null = no spans are written
  json::Value template_variables = json::Value::object();
};

// The template that a draft gets when the style names none: "Document: {document}\nQuestion: {question}\n{choices}",
// each line only where the draft has the key, and "\nAnswer:" at the end of a raw prompt.
std::string default_template(const json::Value& draft, const PromptStyle& style);

// The record of a draft: "prompt" or "messages" and "spans" come after its id, a prompt of its own is replaced.
json::Value place_prompt(const Row& draft, const PromptStyle& style);

// The text right before a target: the prompt, or the rendered messages; empty when no chat template is at hand.
std::string text_before_target(const json::Value& record, const PromptStyle& style);

// A space when the text ends in a letter, a digit or one of . , : ; ? ! ) " ' and the target does not begin with white
// space; else nothing. So "Answer:" and "Assistant:" are followed by " yes", and a template's closing tag by "yes".
std::string target_prefix(std::string_view before, std::string_view target);

// Reads \n, \t and \\ in a text of the command line.
std::string unescape(std::string_view text, const std::string& where);

}  // namespace signalbox::eval
