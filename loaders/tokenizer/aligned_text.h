// A text under change that remembers where each of its bytes comes from.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::loaders::tokenizer {

// Half-open, in bytes.
struct ByteRange {
  uint32_t begin = 0, end = 0;
  bool operator==(const ByteRange&) const = default;
};

// One code point of a rewritten text. `change` says what became of the old ones: 0 it replaces one, -n it replaces one
// and n more that follow, 1 it is new.
struct Change {
  char32_t c;
  int change;
};

struct AlignedText {
  std::string text;               // valid UTF-8
  std::vector<ByteRange> source;  // for each byte of text: the bytes of the original text it stands for
  uint32_t base = 0;              // where this piece begins in the original text

  // The piece [range) of an original text, as yet unchanged.
  static AlignedText original(std::string_view whole, ByteRange range);
  // A part of this text, range in bytes of `text`.
  AlignedText slice(ByteRange range) const;

  // The bytes of the original text that the bytes [begin, end) stand for; begin < end.
  ByteRange source_of(uint32_t begin, uint32_t end) const { return {source[begin].begin, source[end - 1].end}; }

  // Replaces the whole text. `removed_in_front` code points are dropped before the first change. A new code point has
  // the source of the old byte in front of it, a replacing one that of the first it replaces.
  void rewrite(const std::vector<Change>& changes, size_t removed_in_front = 0);

  // Puts `prefix` in front of a text that is not empty; it shares the source of the first code point.
  void prepend(std::string_view prefix);
};

}  // namespace signalbox::loaders::tokenizer
