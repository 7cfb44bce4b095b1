// Names and numbers of a text, and the places that names stand in: what a rule can know of the kind of a name.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/faithfulness/explanation.h"

namespace signalbox::eval {

// A word of a text: letters, digits, and ' and - within it.
struct Word {
  TextRange range;
  bool label = false;  // a ':' follows
};
std::vector<Word> words_of(std::string_view text);
std::vector<Word> unlabelled(std::vector<Word> words);  // without labels

// A capital letter (A to Z) first, no label ("Question:"), no common word that begins sentences (The, It, So, ...).
bool is_name(const Word& word, std::string_view text);

// In order of first appearance, without repeats.
std::vector<std::string> names_in(std::string_view text);
std::vector<std::string> numbers_in(std::string_view text);   // whole numbers and decimals ("14", "3.5")
std::vector<TextRange> number_ranges(std::string_view text);  // all of them, in order

// Where a name stands in its sentence, by the words around it. Two names that stand in a place alike are taken to be
// of one kind (persons, towns).
//   before   "in _"; behind "of" with the word before that: "queen of _"; behind is, are, was, were with what is said
//            to be something: "queen is _" for both "The queen is X" and "The queen of Y is X", nothing for "It is X"
//   after    of the first word of a sentence: "_ lives", "_ was born"
// Empty: a name, "and", "or" or nothing stands there, which tells nothing.
struct NamePlace {
  std::string before, after;
  std::string word;  // the word before, in small letters; empty as above, and for is, are, ... with a subject
};
// Of word number `index`, a name, of the unlabelled words of one sentence of `text`.
NamePlace place_of(const std::vector<Word>& sentence, size_t index, std::string_view text);

// The names of texts with all places that each stands in.
class NamePlaces {
 public:
  struct Name {
    std::string text;
    std::vector<std::string> places, words;  // of NamePlace, without repeats and empty ones
  };
  void add(std::string_view text);
  // In order of first appearance.
  const std::vector<Name>& names() const { return names_; }
  const Name* find(std::string_view name) const;
  // Those that stand in a place; none for an empty one.
  std::vector<std::string> at(const std::string& place) const;

 private:
  std::vector<Name> names_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::vector<size_t>> by_place_;
};

}  // namespace signalbox::eval
