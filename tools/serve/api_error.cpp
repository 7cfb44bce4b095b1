#include "tools/serve/api_error.h"

#include <algorithm>

namespace signalbox::tools {

const char* error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

json::Value error_object(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? json::Value() : json::Value(text); };
  json::Value inner = json::Value::object();
  inner.set("message", error.what())
      .set("type", error_type(error.status))
      .set("param", text_or_null(error.param))
      .set("code", text_or_null(error.code));
  json::Value out = json::Value::object();
  out.set("error", std::move(inner));
  return out;
}

HttpAnswer error_answer(const ApiError& error) {
  HttpAnswer answer;
  answer.status = error.status;
  answer.body = json::dump(error_object(error)) + "\n";
  // The same request would fail in the same way.
  const bool repeats = error.status == 500 || error.code == "too_long";
  if (error.retry_after > 0 || (error.status == 503 && !repeats))
    answer.fields.emplace_back("Retry-After", std::to_string(std::max(1, error.retry_after)));
  if (repeats) answer.fields.emplace_back("x-should-retry", "false");
  if (error.status == 401) answer.fields.emplace_back("WWW-Authenticate", "Bearer");
  return answer;
}

}  // namespace signalbox::tools
