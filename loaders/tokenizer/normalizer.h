// Normalizers: what happens to a text before it is cut into pieces.
#pragma once
#include <memory>

#include "base/json.h"
#include "base/namespaces.h"
#include "loaders/tokenizer/aligned_text.h"

namespace signalbox::loaders::tokenizer {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Rewrites the text. Without `prefix`, what only marks the beginning of a text (Prepend) is left out.
  virtual void apply(AlignedText& text, bool prefix) const = 0;
};

// Reads a normalizer of a tokenizer.json; a component or key that is not known is refused by name.
std::unique_ptr<Normalizer> read_normalizer(const json::Ref& spec);

}  // namespace signalbox::loaders::tokenizer
