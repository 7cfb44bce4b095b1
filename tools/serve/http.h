// Requests and answers as the rest of the server sees them: no sockets here.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::tools {

struct HttpField {
  std::string name;   // in lower case
  std::string value;  // without white space around it
};

// The head of a request, after everything that is wrong with one has been refused (read_head).
struct RequestHead {
  std::string method, path, query;  // the target's two parts; the path begins with /
  std::vector<HttpField> fields;
  bool http11 = true;
  bool keep_alive = true;
  bool chunked = false;
  int64_t content_length = -1;  // -1: none was given
  bool expects_continue = false;

  // The field's value; null where there is none. Of several the first.
  const std::string* find(std::string_view name) const;
  size_t count(std::string_view name) const;
  bool has_body() const { return chunked || content_length > 0; }
};

struct HttpRequest {
  RequestHead head;
  std::string body;
  int key = -1;  // place of the API key in its file; -1: none was needed
  bool off_loopback = false;
};

// A whole answer.
struct HttpAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> fields;  // further ones
  std::string body;
  bool close = false;  // the connection, after it
};

// "Not Found".
std::string_view status_text(int status);

// %41 to A; throws ApiError (400) for another escape.
std::string percent_decoded(std::string_view text);

}  // namespace signalbox::tools
