#include "eval/score/choices.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/unicode.h"
#include "base/utf8.h"
#include "eval/score/answers.h"

namespace signalbox::eval {

namespace {

constexpr int64_t none = -1, several = -2;

bool contains(std::u32string_view set, char32_t c) { return set.find(c) != std::u32string_view::npos; }
bool is_opening(char32_t c) { return contains(U"([{*_\"'`\u201C\u2018", c); }
bool is_closing(char32_t c) { return contains(U")]}*_\"'`\u201D\u2019", c); }
bool is_one_of(std::u32string_view word, std::initializer_list<std::u32string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

class ChoiceReader {
 public:
  ChoiceReader(std::string_view text, const std::vector<std::string>& choices)
      : choices_(choices), text_(code_points(text)) {
    // Spaces at the ends say nothing.
    while (!text_.empty() && is_space(text_.back())) text_.pop_back();
    size_t begin = 0;
    while (begin < text_.size() && is_space(text_[begin])) ++begin;
    text_.erase(0, begin);
  }

  // Rules 1 and 2: what begins the text. `more_may_follow`: an option's text need not be the whole first line.
  int64_t leading(bool more_may_follow) const {
    const std::string normal = normalize_answer(to_utf8(std::u32string_view(text_).substr(0, text_.find(U'\n'))));
    const int64_t whole = only([&](const std::string& option) { return !normal.empty() && option == normal; });
    size_t pos = skip_opening(0);
    const std::u32string word = word_at(pos);
    if (word.size() > 1 && is_one_of(lower_case(word), {U"option", U"choice", U"answer"})) {
      pos += word.size();
      while (pos < text_.size() && (is_space(text_[pos]) || is_opening(text_[pos]) || text_[pos] == U':')) ++pos;
    }
    const int64_t letter = letter_at(pos);
    if (letter != none && (word.size() > 1 || stands_for_option(pos, letter)) && !bare_article(pos, letter))
      return joined_letter(pos) || (whole != none && whole != letter) ? several : letter;
    if (whole != none || !more_may_follow) return whole;
    // The text of an option that begins the text: the longest.
    int64_t best = none;
    size_t longest = 0;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const std::string option = normalize_answer(choices_[i]);
      if (option.size() > longest && (normal + " ").starts_with(option + " ")) {
        best = static_cast<int64_t>(i);
        longest = option.size();
      }
    }
    return best;
  }

  // Rule 3.
  int64_t marked() const {
    std::set<int64_t> found;
    for (size_t pos = 0; pos < text_.size(); ++pos) {
      const int64_t letter = letter_at(pos);
      if (letter == none) continue;
      if (is_marked(pos, letter)) {
        found.insert(letter);
        if (joined_letter(pos)) return several;
      }
    }
    return found.empty() ? none : found.size() > 1 ? several : *found.begin();
  }

  // Rule 4.
  int64_t named() const {
    const std::string padded = " " + normalize_answer(to_utf8(text_)) + " ";
    std::vector<std::string> held;
    int64_t found = none;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const std::string option = normalize_answer(choices_[i]);
      if (option.empty() || padded.find(" " + option + " ") == std::string::npos) continue;
      const auto part_of = [&](const std::string& small, const std::string& large) {
        return small != large && (" " + large + " ").find(" " + small + " ") != std::string::npos;
      };
      if (std::any_of(held.begin(), held.end(), [&](const auto& other) { return part_of(option, other); })) continue;
      std::erase_if(held, [&](const auto& other) { return part_of(other, option); });
      held.push_back(option);
      found = static_cast<int64_t>(i);
    }
    if (held.size() > 1) return several;
    // With one left, it need not be the last that was met.
    for (size_t i = 0; i < choices_.size() && held.size() == 1; ++i)
      if (normalize_answer(choices_[i]) == held.front()) found = static_cast<int64_t>(i);
    return held.empty() ? none : found;
  }

 private:
  template <class Fits>
  int64_t only(Fits fits) const {
    int64_t found = none;
    for (size_t i = 0; i < choices_.size(); ++i)
      if (fits(normalize_answer(choices_[i]))) found = found == none ? static_cast<int64_t>(i) : several;
    return found;
  }

  char32_t at(size_t pos) const { return pos < text_.size() ? text_[pos] : U'\n'; }

  size_t skip_opening(size_t pos) const {
    while (pos < text_.size() && (is_opening(text_[pos]) || is_space(text_[pos]))) ++pos;
    return pos;
  }

  // The run of word characters at pos.
  std::u32string word_at(size_t pos) const {
    size_t end = pos;
    while (end < text_.size() && is_word_character(text_[end])) ++end;
    return text_.substr(pos, end - pos);
  }

  // The option whose letter stands alone at pos. "U.S.", "A-level" and "B's" hold no letter that stands alone.
  int64_t letter_at(size_t pos) const {
    if (pos >= text_.size() || text_[pos] < U'A' || text_[pos] > U'Z') return none;
    const auto index = static_cast<int64_t>(text_[pos] - U'A');
    if (index >= static_cast<int64_t>(choices_.size())) return none;
    const char32_t next = at(pos + 1), after = at(pos + 2), before = pos > 0 ? text_[pos - 1] : U' ';
    if ((is_word_character(next) && next != U'_') || (is_word_character(before) && before != U'_')) return none;
    if (contains(U"-.'\u2019&+", next) && is_word_character(after)) return none;
    if (next == U'+' || (contains(U"-.'\u2019&", before) && pos > 1 && is_word_character(text_[pos - 2]))) return none;
    return index;
  }

  // The position behind what closes the letter at pos, and behind spaces.
  size_t behind(size_t pos) const {
    ++pos;
    while (pos < text_.size() && is_closing(text_[pos])) ++pos;
    while (pos < text_.size() && text_[pos] == U' ') ++pos;
    return pos;
  }

  // "B and C", "B, C", "B/C": a letter joined to another.
  bool joined_letter(size_t pos) const {
    size_t next = behind(pos);
    const std::u32string word = lower_case(word_at(next));
    if (is_one_of(word, {U"and", U"or"})) {
      next += word.size();
    } else if (contains(U",/&", at(next))) {
      ++next;
      while (at(next) == U' ') ++next;
      if (const std::u32string second = lower_case(word_at(next)); is_one_of(second, {U"and", U"or"}))
        next += second.size();
    } else {
      return false;
    }
    next = skip_opening(next);
    const int64_t other = letter_at(next);
    return other != none && other != letter_at(pos) && !bare_article(next, other);
  }

  // Is the letter wrapped or followed by what separates it from a sentence?
  bool is_closed(size_t pos) const {
    const char32_t next = at(pos + 1);
    return next == U'\n' || is_closing(next) || contains(U".,:;!?", next);
  }

  // "A dog", "I think": a word of the language, not a letter.
  bool bare_article(size_t pos, int64_t letter) const {
    const char32_t c = text_[pos];
    if ((c != U'A' && c != U'I') || is_closed(pos)) return false;
    return !goes_on(pos) && !repeats_option(pos, letter);
  }

  // Words that follow a letter, not an article.
  bool goes_on(size_t pos) const {
    const size_t next = behind(pos);
    const std::u32string word = lower_case(word_at(next));
    if (word.empty()) return contains(U"-\u2013\u2014=(/&", at(next)) || at(next) == U'\n';
    if (word == U"is") {
      const std::u32string second = lower_case(word_at(std::min(next + 3, text_.size())));
      return is_one_of(second, {U"the", U"correct", U"right", U"best", U"my", U"true"});
    }
    return is_one_of(word, {U"because", U"since", U"as", U"due", U"and", U"or", U"which"});
  }

  // "B Paris", where Paris is option B.
  bool repeats_option(size_t pos, int64_t letter) const {
    const std::string option = normalize_answer(choices_[static_cast<size_t>(letter)]);
    const std::string rest = normalize_answer(to_utf8(std::u32string_view(text_).substr(pos + 1)));
    return !option.empty() && (rest + " ").starts_with(option + " ");
  }

  bool stands_for_option(size_t pos, int64_t letter) const {
    return is_closed(pos) || goes_on(pos) || repeats_option(pos, letter);
  }

  bool is_marked(size_t pos, int64_t letter) const {
    const char32_t before = pos > 0 ? text_[pos - 1] : U'\n', next = at(pos + 1);
    const bool line_start = before == U'\n';
    if (is_opening(before) && is_closing(next)) return true;
    if (line_start && contains(U").:", next)) return true;
    // Behind a word that announces a letter.
    size_t end = pos;
    while (end > 0 && (text_[end - 1] == U' ' || text_[end - 1] == U':' || is_opening(text_[end - 1]))) --end;
    if (end == pos) return false;
    size_t begin = end;
    while (begin > 0 && is_word_character(text_[begin - 1])) --begin;
    const std::u32string word = lower_case(std::u32string_view(text_).substr(begin, end - begin));
    return is_one_of(word, {U"answer", U"option", U"choice", U"letter", U"pick", U"choose", U"select", U"is"}) &&
           !bare_article(pos, letter);
  }

  const std::vector<std::string>& choices_;
  std::u32string text_;
};

}  // namespace

std::optional<int64_t> parse_choice(std::string_view text, const std::vector<std::string>& choices) {
  if (choices.empty() || choices.size() > 26) return std::nullopt;
  const std::string whole(after_thinking(text));
  const ChoiceReader all(whole, choices);
  int64_t found = none;
  if (has_answer_marker(text)) found = ChoiceReader(answer_of(text), choices).leading(true);
  if (found == none) found = all.leading(false);
  if (found == none) found = all.marked();
  if (found == none) found = all.named();
  if (found < 0) return std::nullopt;
  return found;
}

}  // namespace signalbox::eval
