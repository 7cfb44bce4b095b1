// Question answering: SQuAD, FaithEval, MCTest.
#include <algorithm>
#include <filesystem>

#include "eval/data/convert.h"

namespace signalbox::eval {

namespace {

std::string place(const json::Ref& ref) { return ref.where() + ": " + ref.path(); }

// Texts in order of first appearance.
json::Value distinct(const std::vector<std::string>& texts) {
  json::Value list = json::Value::array();
  for (size_t i = 0; i < texts.size(); ++i)
    if (std::find(texts.begin(), texts.begin() + static_cast<std::ptrdiff_t>(i), texts[i]) ==
        texts.begin() + static_cast<std::ptrdiff_t>(i))
      list.push_back(texts[i]);
  return list;
}

// The texts of SQuAD answers: a list of {"text"}, or {"text": [...]} as rows have them.
std::vector<std::string> answer_texts(const json::Ref& answers) {
  std::vector<std::string> texts;
  if (answers.value().type() == json::Type::object) {
    for (const json::Ref& text : answers.at("text").items()) texts.push_back(text.string());
  } else {
    for (const json::Ref& answer : answers.items()) texts.push_back(answer.at("text").string());
  }
  return texts;
}

Row squad_draft(const json::Ref& question, const std::string& document, const json::Value* title,
                const std::string& where) {
  json::Value draft = json::Value::object();
  draft.set("id", id_text(question.at("id")))
      .set("question", question.at("question").string())
      .set("document", document);
  const std::vector<std::string> texts = answer_texts(question.at("answers"));
  const auto impossible = question.find("is_impossible");
  const bool answerable = impossible ? !impossible->boolean() : !texts.empty();
  if (answerable == texts.empty())
    question.at("answers").fail(answerable ? "expected at least one answer, found none"
                                           : "expected no answer where is_impossible is true, found one");
  draft.set("answers", distinct(texts)).set("answerable", answerable);
  if (const auto plausible = question.find("plausible_answers"))
    draft.set("plausible_answers", distinct(answer_texts(*plausible)));
  if (title) draft.set("title", *title);
  carry_rest(question.value(), {"context", "is_impossible"}, draft);
  return {where, std::move(draft)};
}

// An object of rows with a context; the id is "id" or "qid".
json::Value context_draft(const json::Ref& root) {
  json::Value draft = json::Value::object();
  draft.set("id", id_text(root.at(root.value().find("id") ? "id" : "qid")))
      .set("question", root.at("question").string())
      .set("document", root.at("context").string());
  return draft;
}

// Labels and texts of choices: {"label": [...], "text": [...]}, a list of such objects, or a list of texts (A, B, ...).
std::vector<std::pair<std::string, std::string>> read_choices(const json::Ref& choices) {
  std::vector<std::pair<std::string, std::string>> out;
  if (choices.value().type() == json::Type::object) {
    const auto labels = choices.at("label").items(), texts = choices.at("text").items();
    if (labels.size() != texts.size())
      choices.fail("expected as many labels as texts, found " + std::to_string(labels.size()) + " and " +
                   std::to_string(texts.size()));
    for (size_t i = 0; i < texts.size(); ++i) out.emplace_back(id_text(labels[i]), texts[i].string());
  } else {
    for (const json::Ref& item : choices.items()) {
      const bool text = item.value().is_string();
      out.emplace_back(text ? std::string(1, static_cast<char>('A' + out.size())) : id_text(item.at("label")),
                       text ? item.string() : item.at("text").string());
    }
  }
  if (out.size() < 2 || out.size() > 26) choices.fail("expected 2 to 26 choices, found " + std::to_string(out.size()));
  return out;
}

// The place of the right choice. Some rows number their labels and letter their key, or the other way round.
int64_t right_choice(const std::vector<std::pair<std::string, std::string>>& choices, const json::Ref& key) {
  const std::string text = id_text(key);
  for (size_t i = 0; i < choices.size(); ++i)
    if (choices[i].first == text) return static_cast<int64_t>(i);
  for (size_t i = 0; i < choices.size(); ++i)
    if (text == std::string(1, static_cast<char>('A' + i)) || text == std::to_string(i + 1))
      return static_cast<int64_t>(i);
  key.fail("expected one of the choices' labels, found \"" + text + "\"");
}

std::vector<std::string> split_line(std::string_view line, char separator) {
  std::vector<std::string> fields(1);
  for (char c : line) {
    if (c == separator) fields.emplace_back();
    if (c != separator) fields.back() += c;
  }
  return fields;
}

std::vector<std::string> lines_of(const std::string& file) {
  std::vector<std::string> lines = split_line(read_text(file), '\n');
  for (std::string& line : lines)
    if (line.ends_with('\r')) line.pop_back();
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

// MCTest writes line ends and tabs of the text as \newline and \tab.
std::string mctest_text(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i).starts_with("\\newline")) {
      out += '\n';
      i += 8;
    } else if (text.substr(i).starts_with("\\tab")) {
      out += '\t';
      i += 4;
    } else {
      out += text[i++];
    }
  }
  return out;
}

void read_mctest_file(const std::string& file, const std::string& answers_file, std::vector<Row>& drafts) {
  const std::vector<std::string> lines = lines_of(file), keys = lines_of(answers_file);
  if (lines.empty()) throw Error(file, "expected at least one story, found none");
  if (lines.size() != keys.size())
    throw Error(answers_file, "expected a line for each of the " + std::to_string(lines.size()) + " stories, found " +
                                  std::to_string(keys.size()));
  for (size_t s = 0; s < lines.size(); ++s) {
    const std::string where = file + ":" + std::to_string(s + 1);
    expect_utf8(lines[s], where);
    const std::vector<std::string> fields = split_line(lines[s], '\t'), letters = split_line(keys[s], '\t');
    if (fields.size() != 23)
      throw Error(where, "expected 23 fields (id, properties, story, 4 questions with 4 answers each), found " +
                             std::to_string(fields.size()));
    const std::string key_where = answers_file + ":" + std::to_string(s + 1);
    if (letters.size() != 4) throw Error(key_where, "expected 4 letters, found " + std::to_string(letters.size()));
    for (size_t q = 0; q < 4; ++q) {
      const std::string& text = fields[3 + 5 * q];
      const size_t colon = text.find(": ");
      const std::string kind = text.substr(0, colon);
      if (colon == std::string::npos || (kind != "one" && kind != "multiple"))
        throw Error(where, "question " + std::to_string(q + 1) + ": expected \"one: \" or \"multiple: \" before it");
      if (letters[q].size() != 1 || letters[q][0] < 'A' || letters[q][0] > 'D')
        throw Error(key_where, "question " + std::to_string(q + 1) + ": expected a letter from A to D, found \"" +
                                   letters[q] + "\"");
      json::Value choices = json::Value::array(), answers = json::Value::array();
      for (size_t c = 0; c < 4; ++c) choices.push_back(mctest_text(fields[4 + 5 * q + c]));
      const int64_t right = letters[q][0] - 'A';
      answers.push_back(choices.items()[static_cast<size_t>(right)]);
      json::Value draft = json::Value::object();
      draft.set("id", fields[0] + "/" + std::to_string(q + 1))
          .set("question", mctest_text(std::string_view(text).substr(colon + 2)))
          .set("document", mctest_text(fields[2]))
          .set("choices", std::move(choices))
          .set("choice", right)
          .set("answers", std::move(answers))
          .set("story", fields[0])
          .set("sentences_needed", kind)
          .set("properties", fields[1]);
      drafts.push_back({where, std::move(draft)});
    }
  }
}

}  // namespace

std::vector<Row> read_squad(const std::vector<std::string>& files) {
  std::vector<Row> drafts;
  for (const std::string& file : files) {
    if (file.ends_with(".jsonl")) {
      for (const Row& row : read_rows(file)) {
        const json::Ref root(row.object, row.where);
        const json::Value* title = row.object.find("title");
        drafts.push_back(squad_draft(root, root.at("context").string(), title, row.where));
      }
      continue;
    }
    const std::string name = file == "-" ? "standard input" : file;
    const json::Value whole = json::parse(read_text(file), name);
    const json::Ref root(whole, name);
    root.expect_object();
    for (const json::Ref& article : root.at("data").items()) {
      const json::Value* title = article.value().find("title");
      for (const json::Ref& paragraph : article.at("paragraphs").items()) {
        const std::string& document = paragraph.at("context").string();
        for (const json::Ref& question : paragraph.at("qas").items())
          drafts.push_back(squad_draft(question, document, title, place(question)));
      }
    }
  }
  return drafts;
}

std::vector<Row> read_faitheval_counterfactual(const std::vector<std::string>& files) {
  std::vector<Row> drafts;
  for (const std::string& file : files) {
    for (const Row& row : read_rows(file)) {
      const json::Ref root(row.object, row.where);
      json::Value draft = context_draft(root);
      const auto choices = read_choices(root.at("choices"));
      const int64_t right = right_choice(choices, root.at("answerKey"));
      json::Value texts = json::Value::array();
      for (const auto& [label, text] : choices) texts.push_back(text);
      std::vector<std::string> accepted = {choices[static_cast<size_t>(right)].second};
      if (const auto answer = root.find("answer")) accepted.push_back(answer->string());
      draft.set("choices", std::move(texts)).set("choice", right).set("answers", distinct(accepted));
      carry_rest(row.object, {"qid", "context", "answer"}, draft);
      drafts.push_back({row.where, std::move(draft)});
    }
  }
  return drafts;
}

namespace {

// What the two sets without a right answer in the document share: the word that is asked for instead is the answer, and
// the file's own "answers" are kept beside it.
std::vector<Row> read_faitheval(const std::vector<std::string>& files, const char* word, bool unanswerable) {
  std::vector<Row> drafts;
  for (const std::string& file : files) {
    for (const Row& row : read_rows(file)) {
      const json::Ref root(row.object, row.where);
      json::Value draft = context_draft(root), answers = json::Value::array();
      answers.push_back(word);
      draft.set("answers", std::move(answers));
      if (unanswerable) draft.set("answerable", false);
      if (!unanswerable) draft.set("conflict", true);
      if (const auto theirs = root.find("answers")) draft.set("source_answers", theirs->value());
      carry_rest(row.object, {"qid", "context"}, draft);
      drafts.push_back({row.where, std::move(draft)});
    }
  }
  return drafts;
}

}  // namespace

std::vector<Row> read_faitheval_unanswerable(const std::vector<std::string>& files) {
  return read_faitheval(files, "unknown", true);
}

std::vector<Row> read_faitheval_inconsistent(const std::vector<std::string>& files) {
  return read_faitheval(files, "conflict", false);
}

std::vector<Row> read_mctest(const std::vector<std::string>& files) {
  std::vector<Row> drafts;
  for (size_t i = 0; i < files.size(); ++i) {
    if (!files[i].ends_with(".tsv"))
      throw Error(files[i], "expected a .tsv file of stories (an .ans file comes right after its .tsv)");
    std::string answers = std::filesystem::path(files[i]).replace_extension(".ans").string();
    const std::string& file = files[i];
    if (i + 1 < files.size() && files[i + 1].ends_with(".ans")) {
      answers = files[++i];
    } else if (!std::filesystem::exists(answers)) {
      throw Error(file, "expected its answers in " + answers + " or in an .ans file named after it, found none");
    }
    read_mctest_file(file, answers, drafts);
  }
  return drafts;
}

}  // namespace signalbox::eval
