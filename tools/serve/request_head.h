// The head of a request, read strictly: what two parsers could understand differently is refused (RFC 9112, 11.2).
#pragma once
#include <cstddef>
#include <string_view>

#include "base/namespaces.h"
#include "tools/serve/http.h"

namespace signalbox::tools {

struct HeadLimits {
  size_t line = 8 << 10;     // of the request line: 414
  size_t fields = 16 << 10;  // of all fields together, and
  size_t n_fields = 100;     // their number: 431
};

// Where the head ends (behind its empty line) in what has come so far; npos: not yet. Throws ApiError (400, 414, 431)
// as soon as it can be seen that the head is too long or begins with what is none.
size_t find_head_end(std::string_view bytes, const HeadLimits& limits);

// `bytes`: a head with its empty line. Throws ApiError: 400, 403 (Host missing or twice), 411, 414, 431.
RequestHead read_head(std::string_view bytes, const HeadLimits& limits);

}  // namespace signalbox::tools
