#include "eval/score/answers.h"

#include <algorithm>
#include <array>
#include <sstream>

namespace signalbox {

namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool is_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

// Whether a phrase starts at a word's beginning in the text, both normalised.
template <size_t N>
bool has_phrase(const std::string& text, const std::array<const char*, N>& phrases) {
  const std::string padded = " " + text + " ";
  return std::any_of(phrases.begin(), phrases.end(), [&](const char* phrase) {
    return padded.find(" " + std::string(phrase) + " ") != std::string::npos;
  });
}

// As normalize_answer, but every word stays.
std::string plain_words(std::string_view text) {
  std::string kept;
  for (char c : text) {
    if (c == '\'') continue;  // don't -> dont
    kept += is_punctuation(c) ? ' ' : lower(c);
  }
  std::istringstream words(kept);
  std::string out;
  for (std::string word; words >> word;) out += (out.empty() ? "" : " ") + word;
  return out;
}

constexpr std::array abstentions = {
    "i do not know",    "i dont know",      "unknown",      "unanswerable", "no answer",      "cannot be determined",
    "is not mentioned", "does not mention", "does not say", "not stated",   "no information", "not enough information",
    "cannot answer",    "can not answer"};
constexpr std::array refusals = {"cannot help",
                                 "cant help",
                                 "can not help",
                                 "will not help",
                                 "wont help",
                                 "unable to help",
                                 "not able to help",
                                 "cannot assist",
                                 "cant assist",
                                 "will not assist",
                                 "must refuse",
                                 "i refuse",
                                 "i decline",
                                 "have to decline",
                                 "must decline",
                                 "cannot do that",
                                 "will not do that",
                                 "i would rather not",
                                 "not something i can help",
                                 "that is not allowed"};

}  // namespace

std::string normalize_answer(std::string_view text) {
  std::string kept;
  for (char c : text)
    if (!is_punctuation(c)) kept += lower(c);
  std::istringstream words(kept);
  std::string out;
  for (std::string word; words >> word;)
    if (word != "a" && word != "an" && word != "the") out += (out.empty() ? "" : " ") + word;
  return out;
}

bool exact_match(std::string_view text, const std::vector<std::string>& answers) {
  const std::string found = normalize_answer(text);
  return std::any_of(answers.begin(), answers.end(),
                     [&](const std::string& answer) { return normalize_answer(answer) == found; });
}

bool abstained(std::string_view text) { return has_phrase(plain_words(text), abstentions); }
bool refused(std::string_view text) { return has_phrase(plain_words(text), refusals); }

}  // namespace signalbox
