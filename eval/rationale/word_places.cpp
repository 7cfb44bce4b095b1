#include "eval/rationale/word_places.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "base/utf8.h"

namespace signalbox::eval {

using engine::CharRange;

std::vector<CharRange> places_of_words(const std::string& where, const std::string& text, size_t from,
                                       const std::vector<std::string>& words) {
  std::vector<CharRange> places;
  auto point = static_cast<uint32_t>(count_code_points(std::string_view(text).substr(0, from)));
  for (const std::string& word : words) {
    const size_t at = word.empty() ? std::string::npos : text.find(word, from);
    if (at == std::string::npos)
      throw Error(where, "expected the words in the order of the text, found " + in_quotes(word) +
                             " nowhere behind the ones before it");
    point += static_cast<uint32_t>(count_code_points(std::string_view(text).substr(from, at - from)));
    const auto end = point + static_cast<uint32_t>(count_code_points(word));
    places.push_back({point, end});
    point = end;
    from = at + word.size();
  }
  return places;
}

int32_t word_of(CharRange token, std::span<const CharRange> words) {
  int32_t best = -1;
  uint32_t most = 0;
  for (size_t w = 0; w < words.size(); ++w) {
    const uint32_t begin = std::max(token.begin, words[w].begin), end = std::min(token.end, words[w].end);
    if (end > begin && end - begin > most) {
      most = end - begin;
      best = static_cast<int32_t>(w);
    }
  }
  return best;
}

}  // namespace signalbox::eval
