// Tables of code points as Hugging Face `tokenizers` has them; see tests/tokenizer/make_unicode_tables.py.
#pragma once
#include <cstdint>
#include <span>

#include "base/namespaces.h"

namespace signalbox::loaders::tokenizer {

enum Category : uint8_t {
  Lu,
  Ll,
  Lt,
  Lm,
  Lo,
  Mn,
  Mc,
  Me,
  Nd,
  Nl,
  No,
  Pc,
  Pd,
  Ps,
  Pe,
  Pi,
  Pf,
  Po,
  Sm,
  Sc,
  Sk,
  So,
  Zs,
  Zl,
  Zp,
  Cc,
  Cf,
  Co,
  Cn,
};
constexpr int n_categories = Cn + 1;

struct CategoryRun {
  uint32_t first;
  Category category;
};

struct CodePointRange {
  uint32_t first, last;  // both included
};

extern const std::span<const CategoryRun> category_runs;

// Properties of regular expressions.
extern const std::span<const CodePointRange> property_word, property_alpha, property_han, property_hiragana,
    property_katakana, property_hangul, property_latin, property_greek, property_cyrillic, property_arabic,
    property_hebrew, property_thai, property_devanagari;

// Of pre-tokenizers and normalizers.
extern const std::span<const CodePointRange> numeric_extra, punctuation, combining_marks, plain_word_extra,
    plain_word_missing, lower_extra, normalizer_unknown;

}  // namespace signalbox::loaders::tokenizer
