// Decoders: from the spellings of tokens back to text, token by token.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::loaders::tokenizer {

// One decoding under way. Text that a later token may still change is held back.
class Decoding {
 public:
  virtual ~Decoding() = default;
  virtual void push(std::string_view token, std::string& out) = 0;
  virtual void finish(std::string& out) = 0;  // afterwards the decoding is at its beginning again
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual std::unique_ptr<Decoding> start() const = 0;
};

// Reads a decoder of a tokenizer.json (a null one puts a space between tokens); a component or key that is not known is
// refused by name.
std::unique_ptr<Decoder> read_decoder(const json::Ref& spec);

// What vocabularies in the manner of SentencePiece need: "▁" is a space, "<0x0A>" a byte, and one space in front goes.
std::unique_ptr<Decoder> make_piece_decoder();

}  // namespace signalbox::loaders::tokenizer
