// Words of a text and the tokens that are theirs.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "engine/text.h"

namespace signalbox::eval {

// [words] the code points of a text that each word stands for, from byte `from` on: the words follow each other, with
// anything between them. Throws Error that begins with `where` for a word that does not come.
std::vector<engine::CharRange> places_of_words(const std::string& where, const std::string& text, size_t from,
                                               const std::vector<std::string>& words);

// The word that a token covers most of, the first of equals; -1: none.
int32_t word_of(engine::CharRange token, std::span<const engine::CharRange> words);

}  // namespace signalbox::eval
