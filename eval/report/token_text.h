// Tokens as people read them: the pieces of texts.jsonl, which a vocabulary spells in its own way.
#pragma once
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// How a vocabulary writes bytes: byte-level BPE as letters of its own ("Ġthe"), sentencepiece as "▁" for a blank and
// "<0x0A>" for a byte, or plain.
enum class Spelling { plain, byte_level, sentencepiece };

// Which of them these pieces are written in, told by the signs for a blank or a line end, which only one of them has.
Spelling spelling_of(const std::vector<std::vector<std::string>>& texts);

// What each piece of one text says, in UTF-8. Where a character is spread over several tokens the last one shows it,
// and each of those before shows its bytes as "‹e2 80›"; so do bytes that form no character.
std::vector<std::string> token_texts_of(const std::vector<std::string>& pieces, Spelling spelling);

}  // namespace signalbox::eval
