// Renders templates for comparison with another implementation: JSON lines in
// {"template","messages","add_generation_prompt","variables","special_tokens"}, JSON lines out {"text","content"} or
// {"error"}.
#include <iostream>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "loaders/template/chat_template.h"

int main() {
  using namespace signalbox;
  using namespace signalbox::tools;
  std::string line;
  size_t number = 0;
  while (std::getline(std::cin, line)) {
    json::Value answer = json::Value::object();
    try {
      const json::Value request = json::parse(line, "line " + std::to_string(++number));
      jinja::TemplateOptions options;
      if (const auto* tokens = request.find("special_tokens"))
        for (const auto& [name, token] : tokens->members()) options.special_tokens.emplace_back(name, token.string());
      const json::Value* variables = request.find("variables");
      const json::Value* prompt = request.find("add_generation_prompt");
      const auto chat = jinja::make_chat_template(request.find("template")->string(), options);
      const Rendered rendered =
          chat->render(*request.find("messages"), prompt && prompt->boolean(), variables ? *variables : json::Value());
      json::Value content = json::Value::array();
      for (const CharRange& range : rendered.content) {
        json::Value pair = json::Value::array();
        pair.push_back(static_cast<int64_t>(range.begin));
        pair.push_back(static_cast<int64_t>(range.end));
        content.push_back(std::move(pair));
      }
      answer.set("text", rendered.text);
      answer.set("content", std::move(content));
    } catch (const Error& error) {
      answer.set("error", std::string(error.what()));
    }
    std::cout << json::dump(answer) << "\n" << std::flush;
  }
}
