// Tokenizers from files in Hugging Face layout. tokenizer.json is the truth; tokenizer.model (SentencePiece) serves
// where there is none. Ids, offsets and decoded text are those of Hugging Face's `tokenizers`.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/namespaces.h"
#include "engine/text.h"

namespace signalbox::loaders {

// The contents of the files that make up a tokenizer; nullopt for a file that is not there.
struct TokenizerFiles {
  std::optional<std::string> tokenizer_json, tokenizer_model;
  std::optional<std::string> tokenizer_config_json, special_tokens_map_json, added_tokens_json;
  std::string where;  // put in front of file names in error messages: "DIR/" or "builtin/"
};

// True when the directory holds a tokenizer.json or a tokenizer.model.
bool has_tokenizer(const std::filesystem::path& directory);

// Reads the files of a directory. Throws Error when one that is there cannot be read or is no regular file.
TokenizerFiles read_tokenizer_files(const std::filesystem::path& directory);

// Builds a tokenizer. Throws Error (file: key: what was expected, what was found) on anything that is wrong, or that
// would change the ids and is not supported.
std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerFiles& files);

// Both of the above.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory);

}  // namespace signalbox::loaders
