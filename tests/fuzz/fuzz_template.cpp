// Parses and renders whatever comes, under small limits: a template, and after a NUL byte the messages as JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "loaders/template/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  using namespace signalbox::tools;
  static const json::Value usual = json::parse(
      R"([{"role": "system", "content": "S é"}, {"role": "user", "content": " u\n", "n": [1, 2.5, null, true]},
          {"role": "assistant", "content": "<think>x</think>y",
           "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}])",
      "usual messages");
  std::string_view text(reinterpret_cast<const char*>(data), size);
  jinja::TemplateOptions options;
  options.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  options.limits.steps = 20000;
  options.limits.memory = 4 << 20;
  options.limits.output = 1 << 20;
  options.limits.calls = 50;
  json::Value variables = json::Value::object();
  variables.set("date", "2025-03-09");
  try {
    const size_t cut = text.find('\0');
    const json::Value messages = cut == text.npos ? usual : json::parse(text.substr(cut + 1), "messages");
    const auto chat = jinja::make_chat_template(text.substr(0, cut), options);
    const Rendered rendered = chat->render(messages, true, variables);
    uint32_t end = 0;  // the ranges must be sorted, disjoint and inside the text
    for (const CharRange& range : rendered.content) {
      if (range.begin < end || range.end <= range.begin || range.end > rendered.text.size()) __builtin_trap();
      end = range.end;
    }
  } catch (const Error&) {
  }
  return 0;
}
