#include "tools/serve/request_fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/near_names.h"
#include "base/text.h"
#include "tools/serve/api_error.h"

namespace signalbox::tools {

namespace {

constexpr size_t max_prompts = 1024, max_stops = 64, max_stop_bytes = 256;

// What is known while the fields of one body are read.
struct Reading {
  const FieldLimits& limits;
  GenerationFields out = {};
  std::optional<int64_t> max_completion_tokens = {};
  std::optional<bool> add_generation_prompt = {};
  bool stream_options = false, top_logprobs = false;
};

// ---- values

double number_within(const json::Ref& ref, double low, double high) {
  const double found = ref.number();
  if (!(found >= low && found <= high))
    ref.fail_type("a number from " + short_number(low) + " to " + short_number(high));
  return found;
}

int32_t token_id(const json::Ref& ref, const FieldLimits& limits) {
  return static_cast<int32_t>(ref.integer(0, limits.n_vocab - 1));
}

std::vector<int32_t> token_ids(const json::Ref& ref, const FieldLimits& limits) {
  std::vector<int32_t> ids;
  const auto& items = ref.value().items();
  if (items.empty()) ref.fail_type("at least one token");
  ids.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const json::Value& item = items[i];
    const bool good = item.type() == json::Type::integer && !item.is_unsigned() && item.integer() >= 0 &&
                      item.integer() < limits.n_vocab;
    ids.push_back(good ? static_cast<int32_t>(item.integer()) : token_id(ref[i], limits));
  }
  return ids;
}

std::string text_of(const json::Ref& ref) {
  if (ref.string().empty()) ref.fail_type("some text");
  return ref.string();
}

void read_prompt(const json::Ref& ref, Reading& r) {
  auto& prompts = r.out.prompts;
  if (ref.value().is_string()) {
    prompts.emplace_back(text_of(ref));
    return;
  }
  if (ref.value().type() != json::Type::array) ref.fail_type("a string, token ids, or an array of either");
  const auto& items = ref.value().items();
  if (items.empty()) ref.fail_type("at least one prompt");
  const json::Type first = items.front().type();
  if (first == json::Type::integer) {
    prompts.emplace_back(token_ids(ref, r.limits));
    return;
  }
  if (first != json::Type::string && first != json::Type::array) ref[0].fail_type("a string or token ids");
  if (items.size() > max_prompts) ref.fail("expected at most " + std::to_string(max_prompts) + " prompts");
  for (size_t i = 0; i < items.size(); ++i) {
    const json::Ref item = ref[i];
    if (first == json::Type::string) {
      prompts.emplace_back(text_of(item));
    } else {
      item.expect_array();
      prompts.emplace_back(token_ids(item, r.limits));
    }
  }
}

bool is_message_field(std::string_view name) {
  return name == "role" || name == "content" || name == "name" || name == "reasoning_content" || name == "reasoning" ||
         name == "thinking";
}

// Content as text: parts joined.
void read_messages(const json::Ref& ref, Reading& r) {
  ref.expect_array();
  if (ref.length() == 0) ref.fail_type("at least one message");
  json::Value messages = json::Value::array();
  for (const json::Ref& message : ref.items()) {
    message.expect_object();
    // Another role, or what a message would say elsewhere, might be left out by the template without a word.
    const std::string& role = message.at("role").string();
    if (role != "system" && role != "developer" && role != "user" && role != "assistant")
      message.at("role").fail_type("system, developer, user or assistant");
    json::Value copy = json::Value::object();
    for (const auto& [name, value] : message.value().members()) {
      const bool empty = value.is_null() || (value.type() == json::Type::array && value.items().empty());
      if (empty && name != "content") continue;
      if (!is_message_field(name))
        message.at(name).fail("expected nothing (messages have role, content, name and reasoning_content here)");
      copy.set(name, value);
    }
    if (const auto content = message.find("content"); content && content->value().type() == json::Type::array) {
      std::string text;
      for (const json::Ref& part : content->items()) {
        if (part.at("type").string() != "text")
          part.at("type").fail_type("\"text\" (this server reads no images, audio or files)");
        text += part.at("text").string();
        refuse_unknown_fields(part, {"type", "text"});
      }
      copy.set("content", text);
    } else if (content) {
      static_cast<void>(content->string());
    }
    messages.push_back(std::move(copy));
  }
  r.out.messages = std::move(messages);
}

void read_stop(const json::Ref& ref, Reading& r) {
  const auto add = [&](const json::Ref& one) {
    if (text_of(one).size() > max_stop_bytes) one.fail("expected at most 256 bytes");
    r.out.stop.push_back(one.string());
  };
  if (ref.value().is_string()) return add(ref);
  if (ref.value().type() != json::Type::array) ref.fail_type("a string or an array of strings");
  if (ref.length() > max_stops) ref.fail("expected at most 64 strings, found " + std::to_string(ref.length()));
  for (const json::Ref& one : ref.items()) add(one);
}

void read_logit_bias(const json::Ref& ref, Reading& r) {
  for (const auto& [name, value] : ref.members()) {
    int64_t id = -1;
    const auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), id);
    const bool plain = !name.empty() && (name == "0" || name.front() != '0');
    if (failed != std::errc() || end != name.data() + name.size() || !plain || id < 0 || id >= r.limits.n_vocab)
      ref.fail("expected token ids below " + std::to_string(r.limits.n_vocab) + " as keys, found " + in_quotes(name));
    r.out.logit_bias.emplace_back(static_cast<int32_t>(id), static_cast<float>(number_within(value, -100, 100)));
  }
}

void read_stream_options(const json::Ref& ref, Reading& r) {
  refuse_unknown_fields(ref, {"include_usage", "include_obfuscation"});
  if (const auto usage = ref.find("include_usage")) r.out.include_usage = usage->boolean();
  if (const auto other = ref.find("include_obfuscation")) static_cast<void>(other->boolean());
  r.stream_options = true;
}

void read_template_kwargs(const json::Ref& ref, Reading& r) {
  ref.expect_object();
  r.out.template_kwargs = ref.value();
}

// ---- fields that are taken where they change nothing

void expect_neutral(const json::Ref& ref, bool neutral, const char* value) {
  if (!neutral) ref.fail_type(std::string(value) + ", which changes nothing: this server does not implement it");
}

void read_penalty(const json::Ref& ref, Reading&) { expect_neutral(ref, number_within(ref, -2, 2) == 0, "0"); }
void read_one(const json::Ref& ref, Reading&) { expect_neutral(ref, ref.integer() == 1, "1"); }
void read_null(const json::Ref& ref, Reading&) { expect_neutral(ref, false, "null"); }
void read_false(const json::Ref& ref, Reading&) { expect_neutral(ref, !ref.boolean(), "false"); }
void read_any_bool(const json::Ref& ref, Reading&) { static_cast<void>(ref.boolean()); }
void read_any_text(const json::Ref& ref, Reading&) { static_cast<void>(ref.string()); }
void read_any_object(const json::Ref& ref, Reading&) { ref.expect_object(); }
void read_tools(const json::Ref& ref, Reading&) { expect_neutral(ref, ref.length() == 0, "[]"); }
void read_tool_choice(const json::Ref& ref, Reading&) { expect_neutral(ref, ref.string() == "none", "\"none\""); }
void read_service_tier(const json::Ref& ref, Reading&) {
  expect_neutral(ref, ref.string() == "auto" || ref.string() == "default", "\"auto\" or \"default\"");
}
void read_response_format(const json::Ref& ref, Reading&) {
  refuse_unknown_fields(ref, {"type", "json_schema", "schema"});
  expect_neutral(ref, ref.at("type").string() == "text" && ref.value().members().size() == 1, "{\"type\": \"text\"}");
}

// ---- the table

constexpr unsigned in_completions = 1, in_chat = 2, in_both = 3;

struct Field {
  const char* name;
  unsigned where;
  void (*read)(const json::Ref&, Reading&);
};

constexpr Field request_fields[] = {
    {"model", in_both, [](const json::Ref& v, Reading& r) { r.out.model = v.string(); }},
    {"prompt", in_completions, read_prompt},
    {"messages", in_chat, read_messages},
    {"add_special_tokens", in_completions, [](const json::Ref& v, Reading& r) { r.out.add_special = v.boolean(); }},
    {"add_generation_prompt", in_chat, [](const json::Ref& v, Reading& r) { r.add_generation_prompt = v.boolean(); }},
    {"continue_final_message", in_chat, [](const json::Ref& v, Reading& r) { r.out.continue_final = v.boolean(); }},
    {"chat_template_kwargs", in_chat, read_template_kwargs},
    {"max_tokens", in_both, [](const json::Ref& v, Reading& r) { r.out.max_tokens = v.size(int64_t{1} << 31); }},
    {"max_completion_tokens", in_chat,
     [](const json::Ref& v, Reading& r) { r.max_completion_tokens = v.size(int64_t{1} << 31); }},
    {"temperature", in_both, [](const json::Ref& v, Reading& r) { r.out.temperature = number_within(v, 0, 2); }},
    {"top_p", in_both,
     [](const json::Ref& v, Reading& r) {
       r.out.top_p = number_within(v, 0, 1);
       if (r.out.top_p <= 0) v.fail_type("a number above 0");
     }},
    {"top_k", in_both,
     [](const json::Ref& v, Reading& r) {
       r.out.top_k = static_cast<int32_t>(std::max<int64_t>(0, v.integer(-1, INT32_MAX)));
     }},
    {"seed", in_both, [](const json::Ref& v, Reading& r) { r.out.seed = v.integer(); }},
    {"n", in_both, [](const json::Ref& v, Reading& r) { r.out.n = static_cast<int32_t>(v.integer(1, 128)); }},
    {"stop", in_both, read_stop},
    {"logprobs", in_completions,
     [](const json::Ref& v, Reading& r) {
       r.out.top_logprobs = static_cast<int32_t>(v.integer(0, 20));
       r.out.logprobs = true;
     }},
    {"logprobs", in_chat, [](const json::Ref& v, Reading& r) { r.out.logprobs = v.boolean(); }},
    {"top_logprobs", in_chat,
     [](const json::Ref& v, Reading& r) {
       r.out.top_logprobs = static_cast<int32_t>(v.integer(0, 20));
       r.top_logprobs = true;
     }},
    {"echo", in_completions, [](const json::Ref& v, Reading& r) { r.out.echo = v.boolean(); }},
    {"logit_bias", in_both, read_logit_bias},
    {"stream", in_both, [](const json::Ref& v, Reading& r) { r.out.stream = v.boolean(); }},
    {"stream_options", in_both, read_stream_options},
    {"ignore_eos", in_both, [](const json::Ref& v, Reading& r) { r.out.ignore_eos = v.boolean(); }},
    {"return_token_ids", in_both, [](const json::Ref& v, Reading& r) { r.out.return_token_ids = v.boolean(); }},
    {"signalbox", in_both, [](const json::Ref& v, Reading& r) { r.out.signalbox = read_signalbox_fields(v); }},
    {"frequency_penalty", in_both, read_penalty},
    {"presence_penalty", in_both, read_penalty},
    {"best_of", in_both, read_one},
    {"suffix", in_both, read_null},
    {"tools", in_both, read_tools},
    {"tool_choice", in_both, read_tool_choice},
    {"response_format", in_both, read_response_format},
    {"num_beams", in_both, read_one},
    {"store", in_both, read_false},
    {"service_tier", in_both, read_service_tier},
    {"reasoning_effort", in_both, read_null},
    {"parallel_tool_calls", in_both, read_any_bool},
    {"user", in_both, read_any_text},
    {"metadata", in_both, read_any_object},
    {"safety_identifier", in_both, read_any_text},
    {"prompt_cache_key", in_both, read_any_text},
};

const Field* field_of(std::string_view name, unsigned where) {
  for (const Field& field : request_fields)
    if (field.name == name && (field.where & where) != 0) return &field;
  return nullptr;
}

// What to say of a field that there is not.
std::string advice(const std::string& name, unsigned where) {
  if (name == "max_new_tokens" || name == "max_gen_toks")
    return "expected max_tokens (in tasks of lm-eval: set max_gen_toks)";
  std::vector<std::string> names;
  for (const Field& field : request_fields)
    if ((field.where & where) != 0) names.emplace_back(field.name);
  return wrong_name("a field of this endpoint", name, names);
}

[[noreturn]] void refuse_body(const std::string& field, const std::string& reason, const std::string& code = "") {
  throw ApiError(400, field + ": " + reason, field, code);
}

// What no field can say alone.
void check_together(Reading& r) {
  GenerationFields& out = r.out;
  if (out.model.empty()) refuse_body("model", "expected the name of a model, found none");
  if (out.chat ? out.messages.is_null() : out.prompts.empty())
    refuse_body(out.chat ? "messages" : "prompt", "expected it, found none");
  if (r.max_completion_tokens) {
    if (out.max_tokens && *out.max_tokens != *r.max_completion_tokens)
      refuse_body("max_completion_tokens", "expected the value of max_tokens beside it, found another");
    out.max_tokens = r.max_completion_tokens;
  }
  if (out.max_tokens == 0 && !out.echo)
    refuse_body("max_tokens", out.chat ? "expected at least 1, found 0" : "expected at least 1 without echo, found 0");
  if (r.top_logprobs && !out.logprobs) refuse_body("top_logprobs", "expected logprobs: true beside it");
  if (r.stream_options && !out.stream) refuse_body("stream_options", "expected stream: true beside it");
  if (out.continue_final && r.add_generation_prompt.value_or(false))
    refuse_body("continue_final_message", "expected no add_generation_prompt beside it");
  out.add_generation_prompt = r.add_generation_prompt.value_or(!out.continue_final);
  if (static_cast<size_t>(out.n) * std::max<size_t>(1, out.prompts.size()) > max_prompts)
    refuse_body("n", "expected n times the number of prompts of at most 1024");
}

GenerationFields read_fields(const json::Value& body, const FieldLimits& limits, bool chat) {
  Reading reading{limits};
  reading.out.chat = chat;
  const unsigned where = chat ? in_chat : in_completions;
  const json::Ref ref(body, "body");
  try {
    for (const auto& [name, value] : body.members()) {
      const Field* field = field_of(name, where);
      if (!field) {
        if (limits.refuse_unknown) refuse_body(name, advice(name, where), "unknown_parameter");
        reading.out.ignored.push_back(name);
      } else if (!value.is_null()) {
        field->read(json::Ref(value, "body", name), reading);
      }
    }
  } catch (const Error& error) {
    refuse_field(error);
  }
  check_together(reading);
  return std::move(reading.out);
}

}  // namespace

// An asset is read through its descriptor, whose path is nobody's business.
std::string without_paths(std::string text) {
  static constexpr std::string_view start = "/proc/self/fd/";
  for (size_t at; (at = text.find(start)) != std::string::npos;) {
    size_t end = at + start.size();
    while (end < text.size() && is_ascii_digit(text[end])) ++end;
    text.replace(at, end - at, "the asset");
  }
  return text;
}

void refuse_unknown_fields(const json::Ref& object, std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object.members()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string of = object.path().empty() ? "this endpoint" : object.path();
    const std::vector<std::string> names(known.begin(), known.end());
    throw ApiError(400, value.path() + ": " + wrong_name("a field of " + of, name, names), value.path(),
                   "unknown_parameter");
  }
}

void refuse_field(const Error& error) {
  // "signalbox.edits[0].op: expected ..."
  const std::string reason = without_paths(error.reason());
  const size_t end = reason.find(": ");
  const bool path = end != std::string::npos && reason.find(' ') > end;
  const std::string where = without_paths(error.where());
  const std::string param = path ? reason.substr(0, end) : where;
  throw ApiError(400, path || where == "body" ? reason : where + ": " + reason, param);
}

SignalboxFields read_signalbox_fields(const json::Ref& object) {
  refuse_unknown_fields(object, {"edits", "id", "points", "rows", "format", "special", "hash", "reasoning"});
  SignalboxFields out;
  out.given = true;
  const auto choice = [&](const char* key, std::initializer_list<const char*> words) {
    size_t found = 0;
    const auto value = object.find(key);
    if (!value) return found;
    for (const char* word : words) {
      if (value->value().is_string() && value->string() == word) return found;
      ++found;
    }
    value->fail_type(joined(words, " or ", [](const char* word) { return in_quotes(word); }));
  };
  if (const auto edits = object.find("edits")) {
    edits->expect_array();
    out.edits = edits->value();
  }
  if (const auto id = object.find("id")) out.id = text_of(*id);
  if (const auto points = object.find("points")) out.points = text_of(*points);
  out.rows = static_cast<SignalboxFields::Rows>(choice("rows", {"all", "given", "generated"}));
  out.format = static_cast<SignalboxFields::Format>(choice("format", {"base64", "ref", "json"}));
  out.template_only_specials = choice("special", {"parse", "template-only"}) == 1;
  out.keep_reasoning = choice("reasoning", {"split", "keep"}) == 1;
  if (const auto hash = object.find("hash")) out.hash = hash->boolean();
  return out;
}

GenerationFields read_completion_fields(const json::Value& body, const FieldLimits& limits) {
  return read_fields(body, limits, false);
}

GenerationFields read_chat_fields(const json::Value& body, const FieldLimits& limits) {
  return read_fields(body, limits, true);
}

}  // namespace signalbox::tools
