// The tokenizer that a GGUF file holds, as the files of a model directory.
#pragma once
#include <optional>
#include <string>

#include "base/namespaces.h"
#include "loaders/gguf/gguf_file.h"

namespace signalbox::loaders::gguf {

struct TokenizerTexts {
  std::string tokenizer_json, tokenizer_config_json, generation_config_json;
};

// Of a byte-level BPE ("gpt2") whose splitting of texts ("pre") is known. n_vocab: rows of the embedding. Throws Error
// naming file and key: another kind, a number of tokens other than n_vocab, tokens that come twice, merges that are no
// two tokens.
TokenizerTexts tokenizer_texts(const File& file, int64_t n_vocab);

}  // namespace signalbox::loaders::gguf
