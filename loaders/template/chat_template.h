// Chat templates: the Jinja that models ship, interpreted in a sandbox and rendered byte-equal to jinja2 in Hugging
// Face's set-up (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls, {% generation %}, tojson
// without escapes, raise_exception, strftime_now). What is not known is an error that names the construct and its line.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/text.h"
#include "loaders/template/interpreter.h"

namespace signalbox::loaders::jinja {

struct TemplateOptions {
  // Variables such as bos_token, from the tokenizer's files. What comes from here counts as the template's own text.
  std::vector<std::pair<std::string, std::string>> special_tokens;
  std::string where = "chat_template";  // for messages: "WHERE (line N): ..."
  // Another template for conversations with tools (Hugging Face's name for it is "tool_use"); empty: none.
  std::string tool_source;
  Limits limits;
};

// A template from its source. Throws Error on bad syntax.
//
// render(messages, add_generation_prompt, variables) sets `messages`, `tools` and `documents` (None unless given),
// `add_generation_prompt`, the special tokens, and whatever `variables` holds, which wins. A message's reasoning is
// visible as `reasoning_content` whether it is called that, `thinking` or `reasoning`. `variables.date`, an ISO 8601
// date or time, fixes strftime_now; without it the clock counts, in UTC. Every string of `messages` and `variables`
// counts as content in Rendered::content, and so does what is cut, joined or converted from one.
std::unique_ptr<ChatTemplate> make_chat_template(std::string_view source, TemplateOptions options = {});

// The files of a model, wherever they lie.
struct TemplateFiles {
  std::function<std::optional<std::string>(const std::string& name)> read;  // nullopt: no such file
  std::string where;  // put in front of file names in messages: "DIR/" or "builtin/"
};

// The template of a model: chat_template.jinja (with additional_chat_templates/tool_use.jinja), else
// tokenizer_config.json's `chat_template` (a string, or a list of which `default` is taken), else chat_template.json's.
// Null when there is none. Special tokens come from tokenizer_config.json, else special_tokens_map.json; null ones are
// undefined.
std::unique_ptr<ChatTemplate> load_chat_template(const TemplateFiles& files, const Limits& limits = {});
std::unique_ptr<ChatTemplate> load_chat_template(const std::filesystem::path& directory, const Limits& limits = {});

}  // namespace signalbox::loaders::jinja
