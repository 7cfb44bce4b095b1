// A small language for phrase rules: a text becomes sentences of plain words, and a rule is a row of words to find in
// one sentence. Rules are data, so that a list of them can carry a version.
#pragma once
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// Words in lower case without apostrophes (don't -> dont, curly ones too); a comma or a colon is a word of its own,
// other punctuation separates words.
using Sentence = std::vector<std::string>;

// Sentences end at . ! ? ; before white space, a closing quote or bracket or the end, and at a line's end. Sentences
// without words are left out. At most `limit` of them.
std::vector<Sentence> sentences(std::string_view text, size_t limit = std::string::npos);

// A rule is items between spaces, each for one word:
//   help             the word        help|assist   one of them        ?just|also  one of them, or nothing
//   *ing             any word that ends so
//   ..               up to three words of any kind
//   ^  $             the sentence's beginning, its end (a comma or colon counts as an end)
//   .                the sentence's end and nothing else
//   !but|*ing        the next word is none of these (or there is none); takes no word
// Commas and colons between the words of a rule are passed over, but not in front of "!".
bool matches_rule(const Sentence& sentence, std::string_view rule);

// The text without what it quotes between double quotation marks ("", “”, „“, «») on one line. A single word in them is
// emphasis and stays, and so does everything where the whole text is quoted.
std::string without_quotations(std::string_view text);

// The places behind the words that a rule takes when it begins at one of `starts` (indices into the sentence, its
// length included); for rules of several parts that are told apart. all_places: every index.
std::set<size_t> rule_ends(const Sentence& sentence, const std::set<size_t>& starts, std::string_view rule);
std::set<size_t> all_places(const Sentence& sentence);

bool matches_any(const Sentence& sentence, std::span<const char* const> rules);

}  // namespace signalbox::eval
