#include "tools/signalbox/shown_text.h"

#include <memory>
#include <optional>

#include "base/error.h"
#include "eval/store/manifest.h"
#include "tools/signalbox/open.h"

namespace signalbox::tools {

namespace {

struct Renderer {
  std::string model, hash;  // hash: of the template that is expected; empty: any
  json::Value variables = json::Value::object();
  std::optional<TextTools> text;

  std::string operator()(const Record& record) {
    if (record.kind != Record::Kind::messages) return record.prompt;
    if (model.empty()) throw Error(record.where, "messages: expected --model for its chat template, found none");
    if (!text) {
      text = open_text(model, false);
      if (!text->chat_template) throw Error(model, "expected a model with a chat template, found none");
      if (!hash.empty() && text->chat_template->hash() != hash)
        throw Error(model, "expected the chat template of the run (" + hash + "), found another (" +
                               text->chat_template->hash() + ")");
    }
    return text->chat_template->render(record.messages, true, variables).text;
  }
};

std::function<std::string(const Record&)> shown_by(Renderer renderer) {
  const auto shared = std::make_shared<Renderer>(std::move(renderer));
  return [shared](const Record& record) { return (*shared)(record); };
}

}  // namespace

std::function<std::string(const Record&)> shown_text_of_model(const std::string& model) {
  Renderer renderer;
  renderer.model = model;
  return shown_by(std::move(renderer));
}

std::function<std::string(const Record&)> shown_text_of_run(const std::string& dir) {
  Renderer renderer;
  const std::optional<Manifest> manifest = Manifest::read(dir);
  if (!manifest) throw Error(dir, "expected the directory of a run, found no manifest.json");
  const json::Ref info(manifest->info, dir), identity(manifest->identity, dir);
  if (const auto path = info.find("model_path")) renderer.model = path->string();
  const json::Ref hash = identity.at("hashes").at("chat_template");
  if (!hash.is_null()) renderer.hash = hash.string();
  // A date that changes nothing is not kept.
  for (const auto& [name, value] : identity.at("template_variables").members())
    if (name != "date" || !value.is_null()) renderer.variables.set(name, value.value());
  return shown_by(std::move(renderer));
}

}  // namespace signalbox::tools
