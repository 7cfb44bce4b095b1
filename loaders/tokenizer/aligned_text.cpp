#include "loaders/tokenizer/aligned_text.h"

#include <algorithm>

#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {

AlignedText AlignedText::original(std::string_view whole, ByteRange range) {
  AlignedText result;
  result.text = std::string(whole.substr(range.begin, range.end - range.begin));
  result.base = range.begin;
  result.source.reserve(result.text.size());
  for (uint32_t pos = range.begin; pos < range.end;) {
    const uint32_t end = pos + static_cast<uint32_t>(utf8_length(static_cast<unsigned char>(whole[pos])));
    result.source.insert(result.source.end(), end - pos, ByteRange{pos, end});
    pos = end;
  }
  return result;
}

AlignedText AlignedText::slice(ByteRange range) const {
  AlignedText result;
  result.text = text.substr(range.begin, range.end - range.begin);
  result.source.assign(source.begin() + range.begin, source.begin() + range.end);
  result.base = result.source.empty() ? base : result.source.front().begin;
  return result;
}

void AlignedText::rewrite(const std::vector<Change>& changes, size_t removed_in_front) {
  std::string new_text;
  std::vector<ByteRange> new_source;
  new_text.reserve(text.size());
  new_source.reserve(source.size());
  size_t old = 0;
  auto skip = [&](size_t n) {
    for (; n > 0 && old < text.size(); --n) old += utf8_length(static_cast<unsigned char>(text[old]));
  };
  skip(removed_in_front);
  for (const auto& [c, change] : changes) {
    ByteRange from{base, base};
    if (change <= 0 && old < source.size())
      from = source[old];
    else if (old > 0)
      from = source[old - 1];
    const size_t before = new_text.size();
    append_utf8(new_text, c);
    new_source.insert(new_source.end(), new_text.size() - before, from);
    if (change <= 0) skip(1 + static_cast<size_t>(-change));
  }
  text = std::move(new_text);
  source = std::move(new_source);
}

void AlignedText::prepend(std::string_view prefix) {
  if (text.empty()) return;
  text.insert(0, prefix);
  source.insert(source.begin(), prefix.size(), ByteRange(source.front()));
}

}  // namespace signalbox::loaders::tokenizer
