// The endpoints that run nothing: models, tokens, checks of edits.
#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/generation_plan.h"
#include "tools/serve/request_fields.h"
#include "tools/serve/service.h"

namespace signalbox::tools {

namespace {

HttpAnswer answer_of(const json::Value& value) {
  HttpAnswer answer;
  answer.body = json::dump(value) + "\n";
  return answer;
}

const Tokenizer& tokenizer_of(const ServedModel& model) {
  if (!model.session.tokenizer) throw ApiError(400, "model: expected one with a tokenizer, found none", "model");
  return *model.session.tokenizer;
}

// Reads the fields of a body and tells what is wrong as an answer.
template <class Read>
auto read_checked(Read read) {
  try {
    return read();
  } catch (const Error& error) {
    refuse_field(error);
  }
}

json::Value describe_model(const ServedModel& model) {
  const ModelShape& shape = model.session.shape;
  json::Value layers = json::Value::array(), ours = json::Value::object(), out = json::Value::object();
  for (const int32_t layer : shape.moe_layers()) layers.push_back(int64_t{layer});
  ours.set("n_layers", int64_t{shape.n_layers()})
      .set("moe_layers", std::move(layers))
      .set("n_experts", int64_t{shape.n_experts()})
      .set("n_active", int64_t{shape.n_active()})
      .set("model_hash", model.session.model_hash);
  out.set("id", model.name)
      .set("object", "model")
      .set("created", model.created)
      .set("owned_by", "signalbox")
      .set("max_model_len", model.max_model_len)
      .set("signalbox", std::move(ours));
  return out;
}

}  // namespace

HttpAnswer Service::models(const HttpRequest&) {
  json::Value list = json::Value::array();
  list.push_back(describe_model(*model_));
  return answer_of(json::Value::object().set("object", "list").set("data", std::move(list)));
}

HttpAnswer Service::model_by_name(const HttpRequest& request) {
  check_model_name(*model_, percent_decoded(request.head.path.substr(std::string_view("/v1/models/").size())));
  return answer_of(describe_model(*model_));
}

HttpAnswer Service::tokenize(const HttpRequest& request) {
  ServedModel& model = *model_;
  const json::Value body = parse_body(request.body);
  std::vector<int32_t> ids = read_checked([&] {
    const json::Ref ref(body, "body");
    refuse_unknown_fields(ref,
                          {"model", "prompt", "content", "messages", "add_special_tokens", "add_generation_prompt"});
    if (const auto name = ref.find("model")) check_model_name(model, name->string());
    const auto prompt = ref.find("prompt"), content = ref.find("content"), messages = ref.find("messages");
    if (prompt.has_value() + content.has_value() + messages.has_value() != 1)
      throw ApiError(400, "prompt: expected one of prompt, content and messages", "prompt");
    if (messages) {
      if (ref.find("add_special_tokens")) ref.at("add_special_tokens").fail("expected none beside messages");
      const auto generation = ref.find("add_generation_prompt");
      const json::Value chat = json::Value::object().set("model", model.name).set("messages", messages->value());
      const GenerationFields fields = read_chat_fields(chat, {model.session.model.n_vocab, true});
      return encode_chat(model, fields.messages, !generation || generation->boolean(), false, fields.template_kwargs,
                         false)
          .tokens;
    }
    if (ref.find("add_generation_prompt")) ref.at("add_generation_prompt").fail("expected messages beside it");
    EncodeOptions options;
    if (const auto special = ref.find("add_special_tokens")) options.add_special = special->boolean();
    return tokenizer_of(model).encode((prompt ? prompt : content)->string(), options).ids;
  });
  json::Value tokens = json::Value::array();
  for (const int32_t id : ids) tokens.push_back(int64_t{id});
  return answer_of(json::Value::object()
                       .set("tokens", std::move(tokens))
                       .set("count", static_cast<int64_t>(ids.size()))
                       .set("max_model_len", model.max_model_len));
}

HttpAnswer Service::detokenize(const HttpRequest& request) {
  ServedModel& model = *model_;
  const json::Value body = parse_body(request.body);
  const std::string text = read_checked([&] {
    const json::Ref ref(body, "body");
    refuse_unknown_fields(ref, {"model", "tokens"});
    if (const auto name = ref.find("model")) check_model_name(model, name->string());
    std::vector<int32_t> ids;
    for (const json::Ref& id : ref.at("tokens").items())
      ids.push_back(static_cast<int32_t>(id.integer(0, model.session.model.n_vocab - 1)));
    return tokenizer_of(model).decode(ids, false);
  });
  return answer_of(json::Value::object().set("prompt", text));
}

HttpAnswer Service::tokenizer_info(const HttpRequest&) {
  ServedModel& model = *model_;
  const Tokenizer& tokenizer = tokenizer_of(model);
  json::Value out = json::Value::object();
  const auto text_or_null = [](const std::optional<std::string>& text) {
    return text ? json::Value(*text) : json::Value();
  };
  auto end = tokenizer.role("eos_token");
  if (!end && !model.session.stop_tokens.empty()) end = tokenizer.piece(model.session.stop_tokens.front());
  out.set("tokenizer_class", model.description.tokenizer_class)
      .set("eos_token", text_or_null(end))
      .set("bos_token", text_or_null(tokenizer.role("bos_token")))
      .set("pad_token", text_or_null(tokenizer.role("pad_token")))
      .set("chat_template",
           model.description.template_source.empty() ? json::Value() : json::Value(model.description.template_source));
  return answer_of(out);
}

HttpAnswer Service::model_facts(const HttpRequest&) { return answer_of(model_.load()->description.facts); }

HttpAnswer Service::check_edits(const HttpRequest& request) {
  ServedModel& model = *model_;
  const json::Value body = parse_body(request.body);
  const auto plan = read_checked([&] {
    const json::Ref ref(body, "body");
    refuse_unknown_fields(ref, {"edits", "model"});
    if (const auto name = ref.find("model")) check_model_name(model, name->string());
    return plan_edits(model, ref.at("edits"), 0, request.key);
  });
  return answer_of(json::Value::object()
                       .set("ok", true)
                       .set("n_edits", int64_t{plan->n_edits()})
                       .set("changes_nothing", plan->empty())
                       .set("routes", plan->has_router_edits())
                       .set("points", plan->has_point_edits()));
}

}  // namespace signalbox::tools
