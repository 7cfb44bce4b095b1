// What is wrong with a request, as clients of the OpenAI API read it.
#pragma once
#include <stdexcept>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "tools/serve/http.h"

namespace signalbox::tools {

struct ApiError : std::runtime_error {
  // `param`: the path of the field in the JSON, empty: none; `code`: a word for programs, empty: none.
  explicit ApiError(int status, const std::string& message, std::string param = "", std::string code = "")
      : std::runtime_error(message), status(status), param(std::move(param)), code(std::move(code)) {}
  int status;
  std::string param, code;
  int retry_after = 0;  // seconds; 0: not said, but for 503, where it is 1
};

// "invalid_request_error", "rate_limit_error", ...
const char* error_type(int status);

// {"error": {"message", "type", "param", "code"}}
json::Value error_object(const ApiError& error);

HttpAnswer error_answer(const ApiError& error);

}  // namespace signalbox::tools
