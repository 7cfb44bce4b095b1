// From text to given tokens. Records (eval/data/records.h) and requests go through the same three functions.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/text.h"

namespace signalbox::engine {

// How text becomes tokens. What is pointed to outlives it.
struct EncodeSetup {
  const Tokenizer* tokenizer = nullptr;         // may be null where only tokens are given
  const ChatTemplate* chat_template = nullptr;  // may be null where no messages are given
  bool add_special = true;                      // the begin token of a prompt
  bool template_only_specials = false;          // special tokens in prompts, messages and targets stay text
  json::Value template_variables = json::Value::object();
  int64_t n_vocab = 0;  // > 0: ids are checked against it
};

// Text as tokens.
struct EncodedText {
  std::vector<int32_t> tokens;
  std::vector<CharRange> offsets;  // [tokens] the code points of `text` that each token stands for
  std::string text;                // the prompt as it was given, or the messages as the template printed them
};

// A prompt, with the begin token that the tokenizer adds. Throws Error: no tokenizer, invalid UTF-8.
EncodedText encode_prompt(std::string text, const EncodeSetup& setup);

// An array of messages, rendered by the chat template with its generation prompt; nothing is added to what the template
// prints. Throws Error: no tokenizer, no template, or what the template refuses.
EncodedText encode_messages(const json::Value& messages, const EncodeSetup& setup);

// What follows a prompt: no begin token, no prefix. Throws Error as encode_prompt does.
std::vector<int32_t> encode_target(const std::string& text, const EncodeSetup& setup);

// Throws Error when an id is outside the vocabulary.
void check_vocabulary(std::span<const int32_t> tokens, const EncodeSetup& setup);

}  // namespace signalbox::engine
