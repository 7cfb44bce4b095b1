// The files of the experts' vocabulary, and their table for people.
#pragma once
#include <cstddef>
#include <filesystem>
#include <string>

#include "base/namespaces.h"
#include "eval/lens/expert_vocabulary.h"

namespace signalbox::eval {

inline constexpr const char* vocabulary_schema = "signalbox.vocabulary/1";  // of its summary.json

// expert_vocabulary.csv: layer, expert, rank, token, text, mean, n; token_experts.csv: token, text, rank, layer,
// expert, mean, n.
void write_expert_vocabulary(const ExpertVocabulary& found, const Tokenizer* tokenizer,
                             const std::filesystem::path& dir);
// The experts that raise one token most, a line for each.
std::string expert_vocabulary_text(const ExpertVocabulary& found, const Tokenizer* tokenizer, size_t most, int width);

}  // namespace signalbox::eval
