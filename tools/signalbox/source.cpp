#include "tools/signalbox/source.h"

#include <CLI/CLI.hpp>

namespace signalbox::tools {

void add_source_options(CLI::App& app, RecordSource& source) {
  auto* group = app.add_option_group("source");
  source.prompt_option = group->add_option("--prompt", source.prompt, "raw text");
  source.chat_option = group->add_option("--chat", source.chat, "one user message, rendered by the chat template");
  group->add_option("--input", source.input, "records, a JSON object a line; - = standard input")->type_name("FILE");
  group->require_option(1);
}

std::vector<Record> RecordSource::records() const {
  if (!is_single()) return read_records(input);
  json::Value record = json::Value::object();
  record.set("id", "prompt");
  if (chat_option->count() > 0) {
    json::Value message = json::Value::object();
    message.set("role", "user").set("content", chat);
    record.set("messages", json::Value::array().push_back(message));
  } else {
    record.set("prompt", prompt);
  }
  return {parse_record(record, prompt_option->count() > 0 ? "--prompt" : "--chat")};
}

}  // namespace signalbox::tools
