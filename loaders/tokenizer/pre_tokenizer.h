// Pre-tokenizers: how a text is cut into the pieces that the model sees one by one.
#pragma once
#include <memory>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "loaders/tokenizer/aligned_text.h"

namespace signalbox::loaders::tokenizer {

// A text and the parts of it that are left, in order; no part is empty.
struct Pieces {
  AlignedText text;
  std::vector<ByteRange> ranges;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Cuts the pieces further. Without `prefix`, no character that only marks the beginning of a text is put in front.
  virtual void apply(Pieces& pieces, bool prefix) const = 0;
};

// Reads a pre-tokenizer of a tokenizer.json; a component or key that is not known is refused by name.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const json::Ref& spec);

}  // namespace signalbox::loaders::tokenizer
