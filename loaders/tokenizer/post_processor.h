// Post-processors: begin and end tokens, and which characters a token is said to cover.
#pragma once
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/text.h"

namespace signalbox::loaders::tokenizer {

// An encoding with each token's spelling (for added tokens: the text they were found as).
struct Draft {
  Encoding encoding;
  std::vector<std::string_view> spellings;
};

class PostProcessor {
 public:
  virtual ~PostProcessor() = default;
  virtual void apply(Draft& draft, bool add_special) const = 0;
  // True when the processor itself says which begin and end tokens there are.
  virtual bool adds_tokens() const { return false; }
  // The begin token that it puts in front of a text.
  virtual std::optional<int32_t> begin_id() const { return std::nullopt; }
};

// Reads a post-processor of a tokenizer.json; a component or key that is not known is refused by name.
std::unique_ptr<PostProcessor> read_post_processor(const json::Ref& spec);

// Puts fixed tokens around a text.
std::unique_ptr<PostProcessor> make_template(std::vector<int32_t> in_front, std::vector<int32_t> behind);

}  // namespace signalbox::loaders::tokenizer
