#include "eval/rationale/conll.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

std::vector<std::string> columns_of(std::string_view line) {
  const bool tabs = line.find('\t') != std::string_view::npos;
  std::vector<std::string> columns;
  size_t begin = 0;
  const auto ends = [&](char c) { return tabs ? c == '\t' : is_ascii_space(c); };
  for (size_t i = 0; i <= line.size(); ++i) {
    if (i < line.size() && !ends(line[i])) continue;
    if (tabs || i > begin) columns.emplace_back(line.substr(begin, i - begin));
    begin = i + 1;
  }
  return columns;
}

const std::string& column_at(const std::vector<std::string>& columns, int64_t at, const std::string& where) {
  const auto n = static_cast<int64_t>(columns.size()), index = at > 0 ? at - 1 : n + at;
  if (index < 0 || index >= n)
    throw Error(where, "expected a column " + std::to_string(at) + ", found " + std::to_string(n) + " columns");
  return columns[static_cast<size_t>(index)];
}

size_t language_prefix(const std::string& word) {
  const size_t colon = word.find(':');
  const bool fits = (colon == 2 || colon == 3) && colon + 1 < word.size() &&
                    std::all_of(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(colon), is_ascii_small);
  return fits ? colon + 1 : 0;
}

void drop_language(std::vector<ConllSentence>& sentences) {
  if (sentences.empty()) return;
  const std::string& first = sentences.front().words.front();
  const std::string prefix = first.substr(0, language_prefix(first));
  if (prefix.empty()) return;
  for (const ConllSentence& sentence : sentences)
    for (const std::string& word : sentence.words)
      if (!word.starts_with(prefix) || word.size() == prefix.size()) return;
  for (ConllSentence& sentence : sentences)
    for (std::string& word : sentence.words) word.erase(0, prefix.size());
}

// "(PERSON*" ... "*)" of the 2011 and 2012 files; other tags stay.
void unfold_brackets(std::vector<std::string>& tags) {
  std::string open;
  for (std::string& tag : tags) {
    if (tag.empty() || (tag.front() != '(' && tag.front() != '*')) continue;
    const bool begins = tag.front() == '(', ends = tag.back() == ')';
    if (begins) open = tag.substr(1, tag.find_first_of("*)", 1) - 1);
    tag = open.empty() ? "O" : (begins ? "B-" : "I-") + open;
    if (ends) open.clear();
  }
}

}  // namespace

std::vector<ConllSentence> read_conll(const std::filesystem::path& file, const ConllColumns& columns) {
  std::vector<ConllSentence> sentences;
  ConllSentence sentence;
  const auto end_sentence = [&] {
    if (!sentence.words.empty()) sentences.push_back(std::move(sentence));
    sentence = {};
  };
  LineReader lines(file);
  for (std::string_view line; lines.next(line);) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (trimmed(line).empty() || line.starts_with("-DOCSTART-") || line.starts_with("# ")) {
      end_sentence();
      continue;
    }
    const std::vector<std::string> of = columns_of(line);
    if (of.size() < 2) throw Error(lines.where(), "expected a word and a tag in columns, found one column");
    const std::string& word = column_at(of, columns.word, lines.where());
    if (trimmed(word).empty() || word.find(' ') != std::string::npos)
      throw Error(lines.where(), "expected a word without spaces, found " + in_quotes(word));
    sentence.words.push_back(word);
    sentence.tags.push_back(column_at(of, columns.tag, lines.where()));
  }
  end_sentence();
  if (sentences.empty()) throw Error(file.string(), "expected at least one sentence, found none");
  drop_language(sentences);
  for (ConllSentence& one : sentences) unfold_brackets(one.tags);
  return sentences;
}

}  // namespace signalbox::eval
