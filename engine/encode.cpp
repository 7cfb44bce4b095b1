#include "engine/encode.h"

#include <utility>

#include "base/error.h"

namespace signalbox::engine {

namespace {

void need_tokenizer(const EncodeSetup& setup, const char* what) {
  if (!setup.tokenizer) throw Error(what, "expected a model with a tokenizer, found none");
}

EncodedText encoded(std::string text, const EncodeSetup& setup, const EncodeOptions& options) {
  Encoding encoding = setup.tokenizer->encode(text, options);
  return {std::move(encoding.ids), std::move(encoding.offsets), std::move(text)};
}

}  // namespace

EncodedText encode_prompt(std::string text, const EncodeSetup& setup) {
  need_tokenizer(setup, "prompt");
  EncodeOptions options;
  options.add_special = setup.add_special;
  if (setup.template_only_specials) options.special = SpecialTokens::as_text;
  return encoded(std::move(text), setup, options);
}

EncodedText encode_messages(const json::Value& messages, const EncodeSetup& setup) {
  need_tokenizer(setup, "messages");
  if (!setup.chat_template) throw Error("messages", "expected a model with a chat template, found none");
  Rendered rendered = setup.chat_template->render(messages, true, setup.template_variables);
  EncodeOptions options;
  options.add_special = false;  // the template prints its own begin token
  if (setup.template_only_specials) options.literal = rendered.content;
  return encoded(std::move(rendered.text), setup, options);
}

std::vector<int32_t> encode_target(const std::string& text, const EncodeSetup& setup) {
  need_tokenizer(setup, "target");
  return setup.tokenizer
      ->encode_target(text, setup.template_only_specials ? SpecialTokens::as_text : SpecialTokens::parse)
      .ids;
}

void check_vocabulary(std::span<const int32_t> tokens, const EncodeSetup& setup) {
  if (setup.n_vocab <= 0) return;
  for (size_t t = 0; t < tokens.size(); ++t)
    if (tokens[t] >= setup.n_vocab)
      throw Error("token " + std::to_string(t), "expected an id below the vocabulary's " +
                                                    std::to_string(setup.n_vocab) + ", found " +
                                                    std::to_string(tokens[t]));
}

}  // namespace signalbox::engine
