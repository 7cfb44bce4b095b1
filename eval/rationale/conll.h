// Columns of words and tags, a word a line, sentences apart by empty lines: CoNLL 2002 to 2012, WikiANN, WNUT.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

struct ConllColumns {
  int64_t word = 1, tag = -1;  // from 1; from the end below 0
};

struct ConllSentence {
  std::vector<std::string> words, tags;
};

// Columns stand apart by tabs where a line has some, else by white space. Lines that begin with "-DOCSTART-" or "#" and
// a space end a sentence. Where every word of the file has the same prefix of two or three letters and a colon ("en:"),
// it goes. Bracketed tags ("(PERSON*", "*", "*)") become B- and I-. Throws Error naming the line: too few columns.
std::vector<ConllSentence> read_conll(const std::filesystem::path& file, const ConllColumns& columns);

}  // namespace signalbox::eval
