#include "eval/faithfulness/restated.h"

#include <algorithm>
#include <array>

#include "eval/faithfulness/names.h"
#include "eval/score/answers.h"

namespace signalbox::eval {

namespace {

using Words = std::vector<std::string>;

constexpr std::array<std::string_view, 12> leading = {"so",   "then",    "thus", "therefore", "hence",   "first",
                                                      "next", "finally", "now",  "and",       "because", "since"};

Words split(const std::string& text) {
  Words words;
  for (size_t i = 0; i < text.size();) {
    const size_t end = std::min(text.find(' ', i), text.size());
    if (end > i) words.push_back(text.substr(i, end - i));
    i = end + 1;
  }
  return words;
}

Words normal_words(std::string_view text) {
  Words words = split(normalize_answer(text));
  if (!words.empty() && std::find(leading.begin(), leading.end(), words.front()) != leading.end())
    words.erase(words.begin());
  return words;
}

// The words before the last name, or the last number where that comes later.
Words main_part(std::string_view sentence) {
  size_t end = 0;
  for (const Word& word : words_of(sentence))
    if (is_name(word, sentence)) end = std::max(end, word.range.begin);
  for (const TextRange& number : number_ranges(sentence)) end = std::max(end, number.begin);
  Words words = normal_words(sentence.substr(0, end));
  const size_t n = words.size();
  if (n >= 2 && words[n - 2] == "answer" && words[n - 1] == "is") words.clear();  // "The answer is ..." is an answer
  return words;
}

bool begins(const Words& words, const Words& with) {
  return words.size() >= with.size() && std::equal(with.begin(), with.end(), words.begin());
}

// A sentence of an explanation, to be compared with many.
struct Known {
  Words whole, main;

  bool restated_by(const Words& words, bool cut) const {
    if (words.size() >= 2 && words == whole) return true;
    if (main.size() >= 2 && words.size() > main.size() && begins(words, main)) return true;
    return cut && words.size() >= 3 && begins(whole, Words(words.begin(), words.end() - 1));
  }
};

std::vector<Words> sentences_of(std::string_view text) {
  std::vector<Words> out;
  for (const TextRange& range : split_sentences(text)) out.push_back(normal_words(range.of(text)));
  return out;
}

}  // namespace

int restated_sentence(std::string_view answer, bool cut, const std::vector<std::string>& sentences,
                      std::string_view full_answer) {
  const std::vector<Words> said = sentences_of(answer), right = sentences_of(full_answer);
  for (size_t s = 0; s < sentences.size(); ++s) {
    const Known known{normal_words(sentences[s]), main_part(sentences[s])};
    const auto restates = [&](const std::vector<Words>& list, bool list_cut) {
      for (size_t i = 0; i < list.size(); ++i)
        if (known.restated_by(list[i], list_cut && i + 1 == list.size())) return true;
      return false;
    };
    if (restates(said, cut) && !restates(right, false)) return static_cast<int>(s);
  }
  return -1;
}

}  // namespace signalbox::eval
