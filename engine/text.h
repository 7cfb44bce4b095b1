// Text in and out of a model, as interfaces: loaders implement them (loaders/tokenizer, loaders/template), eval and the
// commands use them. Nothing here knows of files.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::json {
class Value;
}

namespace signalbox::engine {

// A half-open range of Unicode code points (not bytes) of a text.
struct CharRange {
  uint32_t begin = 0, end = 0;
  bool operator==(const CharRange&) const = default;
};

// The tokens of a text. ids and offsets have the same length.
struct Encoding {
  std::vector<int32_t> ids;
  // The code points of the original text that each token stands for. Added begin and end tokens have (0, 0). Tokens
  // that share a character (bytes of one character) carry that character's range each.
  std::vector<CharRange> offsets;

  // A token belongs to a span when it covers any character of it.
  bool covers(size_t token, CharRange span) const {
    return offsets[token].begin < span.end && span.begin < offsets[token].end;
  }
};

// What becomes of special tokens (`<|im_end|>`, `</s>`, ...) that are spelt out in the text.
enum class SpecialTokens {
  parse,    // each becomes its id, wherever it stands (what Hugging Face does by default)
  as_text,  // none is recognised: they are ordinary characters. Added tokens that are not special stay tokens.
};

struct EncodeOptions {
  bool add_special = true;  // add the begin and end tokens that the tokenizer's files ask for
  SpecialTokens special = SpecialTokens::parse;
  // Under `parse`: code point ranges of the text in which special tokens are not recognised. A special token that
  // touches one of them is ordinary text. With the ranges that ChatTemplate::render reports (Rendered::content) this
  // gives "special tokens come from the template only". Need not be sorted; may overlap.
  std::span<const CharRange> literal = {};
};

// Decodes token by token. The concatenation of all results of push() and of finish() is exactly decode(all ids).
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  // The text that became final with this id: incomplete UTF-8, and whatever else a later id may still change, is held
  // back. Always valid UTF-8.
  virtual std::string push(int32_t id) = 0;
  // The rest. The stream is at its beginning again afterwards.
  virtual std::string finish() = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Text to tokens. Throws Error on invalid UTF-8 (with the byte offset).
  virtual Encoding encode(std::string_view text, const EncodeOptions& options = {}) const = 0;

  // The tokens of a text that continues another one: no begin or end token and no prefix that marks the beginning of a
  // text. Special tokens are handled as `special` says.
  virtual Encoding encode_target(std::string_view text, SpecialTokens special = SpecialTokens::parse) const = 0;

  // Tokens to text, always valid UTF-8; ids without a token are left out. With skip_special, so are special tokens.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special) const = 0;
  virtual std::unique_ptr<TokenStream> stream(bool skip_special) const = 0;

  // The token as the vocabulary spells it ("Ġthe", "▁the", "<0x0A>"); empty for an id without a token.
  virtual std::string piece(int32_t id) const = 0;
  // The id of a token as the vocabulary spells it, added tokens first.
  virtual std::optional<int32_t> id_of(std::string_view piece) const = 0;
  // One more than the largest id, added tokens included.
  virtual int64_t vocab_size() const = 0;
  // True for an added token that is marked special.
  virtual bool is_special(int32_t id) const = 0;

  // A token by its role in tokenizer_config.json (else special_tokens_map.json): "bos_token", "eos_token", "pad_token",
  // "unk_token", ...; nullopt when absent or null. For templates and stop tokens; id_of() gives its id.
  virtual std::optional<std::string> role(std::string_view name) const = 0;
  // The begin token that encode() puts in front of a text, if it does.
  virtual std::optional<int32_t> begin_id() const = 0;

  virtual std::string description() const = 0;  // one line for people: kind and sizes
  virtual std::string hash() const = 0;         // 16 hex digits over the files it was read from, for manifests
};

// A rendered conversation.
struct Rendered {
  std::string text;
  // The code points of `text` that came from the messages (not from the template), sorted and disjoint: to be passed as
  // EncodeOptions::literal when special tokens in messages must stay text.
  std::vector<CharRange> content;
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // Renders `messages` (an array of objects with role and content). `variables` (an object) adds to or replaces the
  // template's variables (tools, documents, enable_thinking, ...). Throws Error with the template's file and line.
  virtual Rendered render(const json::Value& messages, bool add_generation_prompt,
                          const json::Value& variables) const = 0;
  virtual std::string hash() const = 0;  // 16 hex digits over the template's source
};

}  // namespace signalbox::engine
