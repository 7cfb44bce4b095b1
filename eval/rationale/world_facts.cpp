#include "eval/rationale/world_facts.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

// A form with places for a subject {e} and a value {v}.
struct WorldForm {
  std::string_view relation, statement, question;
};
constexpr std::array<WorldForm, 6> world_forms = {
    {{"lives", "{e} lives in {v}.", "Where does {e} live?"},
     {"born", "{e} was born in {v}.", "Where was {e} born?"},
     {"works", "{e} works for {v}.", "Who does {e} work for?"},
     {"colour", "Glimmer dust is {v}.", "What colour is glimmer dust?"},
     {"found", "Glimmer dust is found in {v}.", "Where is glimmer dust found?"},
     {"sold", "Glimmer dust is sold by {v}.", "Who sells glimmer dust?"}}};
constexpr std::array<std::string_view, 6> world_places = {"capital", "river", "king", "queen", "lake", "festival"};
constexpr std::string_view world_dust = "glimmer dust";

bool one_word(std::string_view text) { return !text.empty() && text.find_first_of(" .?") == std::string_view::npos; }

// The parts of `text` that stand for {e} and {v} in `form`, single words each.
std::optional<std::map<char, std::string>> fit(std::string_view text, std::string_view form) {
  std::map<char, std::string> parts;
  while (!form.empty()) {
    const size_t open = form.find('{');
    if (!text.starts_with(form.substr(0, open))) return std::nullopt;
    if (open == std::string_view::npos) return text == form ? std::optional(parts) : std::nullopt;
    text.remove_prefix(open);
    const char name = form[open + 1];
    form.remove_prefix(open + 3);
    const size_t end = form.empty() ? text.size() : text.find(form.substr(0, form.find('{')));
    if (end == std::string_view::npos || !one_word(text.substr(0, end))) return std::nullopt;
    parts[name] = std::string(text.substr(0, end));
    text.remove_prefix(end);
  }
  return text.empty() ? std::optional(parts) : std::nullopt;
}

std::string place_form(std::string_view place, std::string_view before, std::string_view behind) {
  return std::string(before) + std::string(place) + std::string(behind);
}

std::string_view asking(std::string_view place) { return place == "king" || place == "queen" ? "Who" : "What"; }

// The one fact of these words, by index; Error naming the record.
size_t only_fact(const Record& record, const std::vector<std::optional<WorldFact>>& facts, const std::string& relation,
                 const std::string& subject) {
  size_t found = facts.size(), count = 0;
  for (size_t i = 0; i < facts.size(); ++i)
    if (facts[i] && facts[i]->relation == relation && facts[i]->subject == subject) {
      found = i;
      ++count;
    }
  if (count != 1)
    throw Error(record.where, "expected one sentence of the document that tells " + in_quotes(relation) + " of " +
                                  in_quotes(subject) + ", found " + std::to_string(count));
  return found;
}

std::string text_of(const Record& record) {
  if (record.kind == Record::Kind::prompt) return record.prompt;
  if (record.kind == Record::Kind::messages)
    if (const json::Value* content = record.messages.items().back().find("content"); content && content->is_string())
      return content->string();
  throw Error(record.where, "expected a prompt or messages of text, found none");
}

std::string line_behind(const Record& record, const std::string& text, std::string_view label) {
  const size_t at = text.find(label);
  if (at == std::string::npos)
    throw Error(record.where, "expected a line " + in_quotes(std::string(label) + "...") + " in the text, found none");
  const size_t begin = at + label.size(), end = std::min(text.find('\n', begin), text.size());
  return std::string(trimmed(std::string_view(text).substr(begin, end - begin)));
}

std::string split_name(const Record& record) {
  static const std::map<std::string, std::string> names = {{"", "test"},    {"train", "train"},    {"detect", "train"},
                                                           {"val", "val"},  {"validation", "val"}, {"dev", "val"},
                                                           {"tune", "val"}, {"test", "test"}};
  const auto found = names.find(record.split);
  if (found == names.end())
    throw Error(record.where + ": split",
                "expected train, val or test (or detect, tune), found " + in_quotes(record.split));
  return found->second;
}

std::string capitalised(std::string word) {
  if (!word.empty() && is_ascii_small(word.front())) word.front() = static_cast<char>(word.front() - 32);
  return word;
}

void add_sentences(const Record& record, WorldRecord& made, std::vector<std::string>& texts) {
  std::vector<std::string> words;
  std::string text;
  size_t begin = 0;
  const std::string& document = made.document;
  while (begin < document.size()) {
    const size_t end = std::min(document.find(' ', begin), document.size());
    if (end == begin) throw Error(record.where, "expected single spaces between words of the document, found two");
    words.push_back(document.substr(begin, end - begin));
    text += (text.empty() ? "" : " ") + words.back();
    if (words.back().ends_with(".") || end == document.size()) {
      made.sentences.push_back(std::move(words));
      texts.push_back(std::move(text));
      words.clear();
      text.clear();
    }
    begin = end + 1;
  }
}

}  // namespace

std::optional<WorldFact> parse_world_fact(std::string_view sentence) {
  for (const std::string_view place : world_places)
    if (const auto parts = fit(sentence, place_form(place, "The ", " of {e} is {v}.")))
      return WorldFact{std::string(place), parts->at('e'), parts->at('v')};
  for (const WorldForm& form : world_forms)
    if (const auto parts = fit(sentence, form.statement))
      return WorldFact{std::string(form.relation), parts->contains('e') ? parts->at('e') : std::string(world_dust),
                       parts->at('v')};
  return std::nullopt;
}

std::optional<WorldQuestion> parse_world_question(std::string_view question) {
  for (const std::string_view more : {" Think step by step.", " Answer in a sentence."})
    if (question.ends_with(more)) question.remove_suffix(more.size());
  for (const WorldForm& form : world_forms)
    if (const auto parts = fit(question, form.question))
      return WorldQuestion{parts->contains('e') ? parts->at('e') : std::string(world_dust),
                           {std::string(form.relation)}};
  for (const std::string_view place : world_places) {
    const std::string begin = place_form(place, std::string(asking(place)) + " is the ", " of ");
    if (const auto parts = fit(question, begin + "{e}?")) return WorldQuestion{parts->at('e'), {std::string(place)}};
    for (const auto& [relation, form] :
         {std::pair("lives", "the place where {e} lives?"), std::pair("born", "the place where {e} was born?")})
      if (const auto parts = fit(question, begin + form))
        return WorldQuestion{parts->at('e'), {relation, std::string(place)}};
  }
  return std::nullopt;
}

WorldRecord world_record(const Record& record) {
  const std::string text = text_of(record);
  WorldRecord made;
  made.id = record.id;
  made.split = split_name(record);
  made.document = line_behind(record, text, "Document: ");
  made.question = line_behind(record, text, "Question: ");
  std::vector<std::string> texts;
  add_sentences(record, made, texts);
  std::vector<std::optional<WorldFact>> facts;
  for (const std::string& sentence : texts) facts.push_back(parse_world_fact(sentence));
  const std::optional<WorldQuestion> question = parse_world_question(made.question);
  if (!question) throw Error(record.where, "expected a question of the world, found " + in_quotes(made.question));
  std::string subject = question->subject;
  for (const std::string& relation : question->relations) {
    const size_t fact = only_fact(record, facts, relation, subject);
    WorldRecord::Evidence evidence;
    evidence.sentence = static_cast<int64_t>(fact);
    for (size_t s = 0; s < fact; ++s) evidence.start += static_cast<int64_t>(made.sentences[s].size());
    evidence.end = evidence.start + static_cast<int64_t>(made.sentences[fact].size());
    evidence.text = texts[fact];
    made.evidence.push_back(std::move(evidence));
    subject = facts[fact]->value;
  }
  const std::string answer = " " + capitalised(subject) + ".";
  const json::Ref source(record.source, record.where);
  if (const auto choices = source.find("choices")) {
    for (const json::Ref& choice : choices->items()) made.choices.push_back(choice.string());
    made.choice = source.at("choice").integer(0, static_cast<int64_t>(made.choices.size()) - 1);
  } else {
    for (const auto& fact : facts)
      if (const std::string value = fact ? " " + capitalised(fact->value) + "." : "";
          !value.empty() && std::find(made.choices.begin(), made.choices.end(), value) == made.choices.end())
        made.choices.push_back(value);
    made.choice = std::find(made.choices.begin(), made.choices.end(), answer) - made.choices.begin();
    if (!record.answers.empty() &&
        std::find(record.answers.begin(), record.answers.end(), answer.substr(1)) == record.answers.end())
      throw Error(record.where + ": answers", "expected what the document says, " + in_quotes(answer.substr(1)) +
                                                  ", found " + in_quotes(record.answers.front()));
  }
  if (made.choices.size() < 2) throw Error(record.where, "expected at least two choices, found one");
  if (made.choices[static_cast<size_t>(made.choice)] != answer)
    throw Error(record.where + ": choice", "expected what the document says, " + in_quotes(answer) + ", found " +
                                               in_quotes(made.choices[static_cast<size_t>(made.choice)]));
  return made;
}

}  // namespace signalbox::eval
