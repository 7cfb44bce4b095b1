// What a body may be as JSON, looked at before a tree is made of it.
#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/request_fields.h"

namespace signalbox::tools {

namespace {

constexpr int max_depth = 32;
constexpr int64_t max_values = 1'000'000;
constexpr size_t max_string = size_t{4} << 20;

[[noreturn]] void refuse_json(const std::string& reason) { throw ApiError(400, "body: " + reason, "", "invalid_json"); }

}  // namespace

void check_json_limits(std::string_view text) {
  int depth = 0;
  int64_t n_values = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      const size_t begin = i++;
      while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
      if (i - begin > max_string) refuse_json("expected strings of at most 4 MiB, found a longer one");
      ++n_values;
    } else if (c == '{' || c == '[') {
      ++n_values;
      if (++depth > max_depth) refuse_json("expected at most " + std::to_string(max_depth) + " levels, found more");
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c != ',' && c != ':' && !is_json_space(c)) {
      ++n_values;
      while (i + 1 < text.size() && std::string_view(",:]}[{\" \t\r\n").find(text[i + 1]) == std::string_view::npos)
        ++i;
    }
    if (n_values > max_values) refuse_json("expected at most 1000000 values, found more");
  }
}

json::Value parse_body(std::string_view text) {
  check_json_limits(text);
  json::Value value;
  try {
    value = json::parse(text, "body");
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "", "invalid_json");
  }
  if (value.type() != json::Type::object)
    refuse_json(std::string("expected an object, found ") + json::type_name(value.type()));
  return value;
}

}  // namespace signalbox::tools
