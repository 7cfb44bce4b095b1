// The document of a third condition: there is text before the question as in the first, but not what answers it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace signalbox::eval {

// What must be known of a record whose document changes places with others'.
struct DocumentPlace {
  std::string where;  // for messages
  std::string document, question;
  std::vector<std::string> answers;  // and what memory would say: no text that another document may hold
  std::string split;                 // documents stay within a split
};

struct ExchangedDocuments {
  std::vector<size_t> from;  // of each place the place whose document it gets
  int64_t repeated = 0;      // documents used once more, for want of an exchange: places minus documents used
};

// Documents change places, so that the same texts stand under both conditions. Records of a split are ordered by the
// length of their documents in code points (ties by seed) and taken in blocks of 8 (the last: 8 to 15, or what there
// is), in each of which a cycle of the seed moves all. No place gets its own text, the document of the same question,
// or one that holds one of its answers as whole words (letters and digits compared, ASCII case ignored): where the
// cycle would, the shortest chain of exchanges mends it, nearest in length first; where there is none, the nearest
// allowed document is used once more. Throws Error at a place that no document is allowed for.
ExchangedDocuments exchange_documents(const std::vector<DocumentPlace>& places, uint64_t seed);

// The words of a text in another order, drawn by (seed, id); white space stays where it is. Throws Error at `where` for
// a text of fewer than two different words.
std::string shuffled_words(const std::string& text, uint64_t seed, const std::string& id, const std::string& where);

}  // namespace signalbox::eval
