// The bodies of POST /v1/completions and /v1/chat/completions: every field with its rule.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::tools {

// Throws ApiError (400) before anything is built of a text that is deeper, longer or larger than a request may be.
void check_json_limits(std::string_view text);
// The same, then the tree. Throws ApiError (400) for what is no JSON, and for what is no object.
json::Value parse_body(std::string_view text);

// The object `signalbox` of a request.
struct SignalboxFields {
  enum class Rows : uint8_t { all, given, generated };
  enum class Format : uint8_t { base64, ref, json };
  std::optional<json::Value> edits;  // the array
  std::optional<std::string> id;     // of the record, a part of the key of every draw
  std::string points;                // globs; empty: none
  Rows rows = Rows::all;
  Format format = Format::base64;
  bool template_only_specials = false;
  bool hash = true;
  bool keep_reasoning = false;
  bool given = false;  // the object was there
};

using PromptInput = std::variant<std::string, std::vector<int32_t>>;

struct GenerationFields {
  bool chat = false;
  std::string model;
  std::vector<PromptInput> prompts;  // completions
  json::Value messages;              // chat
  bool add_special = true, add_generation_prompt = true, continue_final = false;
  json::Value template_kwargs = json::Value::object();
  std::optional<int64_t> max_tokens;
  double temperature = 1, top_p = 1;
  int32_t top_k = 0;
  std::optional<int64_t> seed;
  int32_t n = 1;
  std::vector<std::string> stop;
  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool echo = false, stream = false, include_usage = false;
  std::vector<std::pair<int32_t, float>> logit_bias;
  bool ignore_eos = false, return_token_ids = false;
  SignalboxFields signalbox;
  std::vector<std::string> ignored;  // unknown fields, where these are let through
};

struct FieldLimits {
  int64_t n_vocab = 0;
  bool refuse_unknown = true;
};

// Throws ApiError (400) naming the field.
GenerationFields read_completion_fields(const json::Value& body, const FieldLimits& limits);
GenerationFields read_chat_fields(const json::Value& body, const FieldLimits& limits);
SignalboxFields read_signalbox_fields(const json::Ref& object);

// Members of an object that there are not: ApiError (400, unknown_parameter) whose param is their path.
void refuse_unknown_fields(const json::Ref& object, std::initializer_list<std::string_view> known);

// An Error of json::Ref or of edits as an answer: status 400, and the path into the body as its param.
[[noreturn]] void refuse_field(const Error& error);
std::string without_paths(std::string text);  // of messages: those of assets

}  // namespace signalbox::tools
