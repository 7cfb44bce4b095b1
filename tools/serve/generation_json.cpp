// The parts of answers: choices, log-probabilities, usage.
#include <algorithm>

#include "base/text.h"
#include "base/utf8.h"
#include "tools/serve/generation_run.h"
#include "tools/serve/row_logprobs.h"

namespace signalbox::tools {

namespace {

json::Value ids_json(const std::vector<int32_t>& ids) {
  json::Value out = json::Value::array();
  for (const int32_t id : ids) out.push_back(int64_t{id});
  return out;
}

json::Value bytes_json(const std::string& bytes) {
  json::Value out = json::Value::array();
  for (const char c : bytes) out.push_back(int64_t{static_cast<unsigned char>(c)});
  return out;
}

}  // namespace

json::Value GenerationRun::head(bool chunk) const {
  const char* object = !plan_.fields.chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
  json::Value out = json::Value::object();
  out.set("id", id_)
      .set("object", object)
      .set("created", created_)
      .set("model", model_.name)
      .set("system_fingerprint", model_.fingerprint);
  return out;
}

json::Value GenerationRun::usage() const {
  int64_t n_given = 0, n_generated = 0;
  for (const RunPrompt& prompt : plan_.prompts) n_given += static_cast<int64_t>(prompt.prompt->tokens.size());
  for (const Choice& choice : choices_) n_generated += static_cast<int64_t>(choice.ids.size());
  json::Value out = json::Value::object();
  out.set("prompt_tokens", n_given)
      .set("completion_tokens", n_generated)
      .set("total_tokens", n_given + n_generated)
      .set("prompt_tokens_details", json::Value::object().set("cached_tokens", int64_t{0}));
  return out;
}

// The text of a token of a completion that ends behind n_points code points.
std::string GenerationRun::token_key(const Choice&, const ChoiceToken& token, int64_t n_points) const {
  if (token.placed.end <= n_points || !model_.session.tokenizer || token.placed.text.starts_with("bytes:"))
    return token.placed.text;
  std::u32string points = code_points(token.placed.text);
  points.resize(
      static_cast<size_t>(std::clamp<int64_t>(n_points - token.placed.offset, 0, static_cast<int64_t>(points.size()))));
  return to_utf8(points);
}

json::Value GenerationRun::logprobs_json(const Choice& choice, size_t begin, size_t end, int64_t n_points) const {
  TokenTexts& texts = plan_.fields.stream ? model_.telling_texts : model_.texts;
  if (plan_.fields.chat) {
    json::Value content = json::Value::array();
    const auto entry = [&](int32_t id, const std::string& name, double log_prob) {
      const std::string& bytes = texts.bytes(id);
      json::Value out = json::Value::object();
      out.set("token", name).set("bytes", bytes_json(bytes)).set("logprob", log_prob);
      return out;
    };
    for (size_t t = begin; t < end; ++t) {
      const ChoiceToken& token = choice.tokens[t];
      json::Value top = json::Value::array();
      for (const auto& [id, log_prob] : token.top) top.push_back(entry(id, texts.name(id), log_prob));
      const std::string& name = token.placed.text;
      content.push_back(entry(token.id, name.empty() ? texts.name(token.id) : name, token.log_prob)
                            .set("top_logprobs", std::move(top)));
    }
    return json::Value::object().set("content", std::move(content)).set("refusal", nullptr);
  }
  json::Value tokens = json::Value::array(), values = json::Value::array(), tops = json::Value::array(),
              offsets = json::Value::array();
  for (size_t t = begin; t < end; ++t) {
    const ChoiceToken& token = choice.tokens[t];
    const std::string key = token_key(choice, token, n_points);
    tokens.push_back(key);
    offsets.push_back(std::min(token.placed.offset, n_points));
    if (token.first) {
      values.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    values.push_back(token.log_prob);
    // Where two ids have one text the larger value stays.
    std::vector<std::pair<std::string, double>> named;
    const auto put = [&](const std::string& name, double value) {
      for (auto& one : named)
        if (one.first == name) {
          one.second = std::max(one.second, value);
          return;
        }
      named.emplace_back(name, value);
    };
    for (const auto& [id, value] : token.top) put(id == token.id ? key : texts.name(id), value);
    put(key, token.log_prob);
    json::Value top = json::Value::object();
    for (const auto& [name, value] : named) top.append_member(name, value);
    tops.push_back(std::move(top));
  }
  return json::Value::object()
      .set("tokens", std::move(tokens))
      .set("token_logprobs", std::move(values))
      .set("top_logprobs", std::move(tops))
      .set("text_offset", std::move(offsets));
}

// Rows from row_begin on; `last`: with all that is known at the end.
json::Value GenerationRun::signalbox_json(const Choice& choice, int64_t row_begin, int64_t row_end, bool last) const {
  const SignalboxFields& asked = plan_.fields.signalbox;
  const Prompt& prompt = *plan_.prompts[choice.prompt].prompt;
  json::Value out = json::Value::object();
  if (last) {
    if (!choice.timeline.empty()) out.set("timeline", choice.timeline);
    out.set("seed", static_cast<int64_t>(plan_.seed))
        .set("id", prompt.id)
        .set("sample", int64_t{choice.sample})
        .set("token_ids", ids_json(choice.ids));
    out.set("prompt_token_ids", ids_json(prompt.tokens));
    if (asked.hash) out.set("logits_hash", hex64(choice.logits_hash));
    out.set("stopped_by", choice.stopped_by);
    if (plan_.fields.stream && !plan_.fields.ignored.empty()) {
      json::Value ignored = json::Value::array();
      for (const std::string& name : plan_.fields.ignored) ignored.push_back(name);
      out.set("ignored", std::move(ignored));
    }
  }
  if (!choice.rows || (by_ref() && !last)) return out;
  const auto n_given = static_cast<int64_t>(prompt.tokens.size());
  int64_t begin = row_begin, end = row_end;
  if (asked.rows == SignalboxFields::Rows::given) end = std::min(end, n_given);
  if (asked.rows == SignalboxFields::Rows::generated) begin = std::max(begin, n_given);
  begin = std::min(begin, end);
  json::Value layers = json::Value::array(), points = json::Value::object();
  for (const int32_t layer : choice.rows->layers()) layers.push_back(int64_t{layer});
  out.set("positions", json::Value::array().push_back(begin).push_back(end)).set("layers", std::move(layers));
  if (asked.format == SignalboxFields::Format::ref)
    return out.set("points", json::Value::object().set("ref", choice.timeline));
  for (const AnswerTensor& tensor : choice.rows->tensors(begin, end))
    points.set(tensor.name, tensor_json(tensor, asked.format == SignalboxFields::Format::json));
  return out.set("points", std::move(points));
}

json::Value GenerationRun::choice_json(Choice& choice) const {
  const GenerationFields& fields = plan_.fields;
  json::Value out = json::Value::object();
  out.set("index", static_cast<int64_t>(choice.index));
  if (fields.chat) {
    const auto [content, reasoning] = choice.parts->split(choice.text, 0, choice.text.size());
    json::Value message = json::Value::object();
    message.set("role", "assistant").set("content", content).set("refusal", nullptr);
    if (!reasoning.empty()) message.set("reasoning_content", reasoning).set("reasoning", reasoning);
    out.set("message", std::move(message));
  } else {
    out.set("text", model_.session.tokenizer ? json::Value(choice.text) : json::Value());
  }
  out.set("finish_reason", choice.finish_reason);
  const auto n_points = static_cast<int64_t>(count_code_points(choice.text));
  out.set("logprobs", fields.logprobs ? logprobs_json(choice, 0, choice.tokens.size(), n_points) : json::Value());
  if (fields.return_token_ids) {
    out.set("token_ids", ids_json(choice.ids));
    if (!fields.chat) out.set("prompt_token_ids", ids_json(plan_.prompts[choice.prompt].prompt->tokens));
  }
  out.set("signalbox", signalbox_json(choice, 0, choice.rows ? choice.rows->n_rows() : 0, true));
  return out;
}

}  // namespace signalbox::tools
