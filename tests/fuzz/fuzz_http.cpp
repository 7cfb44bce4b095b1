// Any bytes on a connection: requests that are whole, or a refusal with a status of 4xx, however the bytes arrive.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/serve/access.h"
#include "tools/serve/api_error.h"
#include "tools/serve/request_reader.h"

using namespace signalbox;
using namespace signalbox::tools;

namespace {

// What is read of the bytes, in pieces of `step`: requests, then the status of a refusal.
std::vector<std::string> read_in_steps(std::string_view bytes, size_t step) {
  std::vector<std::string> out;
  RequestReader reader;
  std::string waiting;
  try {
    for (size_t at = 0; at < bytes.size(); at += step) {
      waiting += bytes.substr(at, step);
      while (true) {
        const size_t used = reader.put(waiting);
        waiting.erase(0, used);
        if (reader.stage() == RequestReader::Stage::head_done) {
          try {
            check_access(reader.head(), {});
            check_content_type(reader.head());
          } catch (const ApiError& error) {
            if (error.status != 403 && error.status != 415) __builtin_trap();
          }
          reader.take_body(4096);
          continue;
        }
        if (reader.stage() == RequestReader::Stage::done) {
          const HttpRequest request = reader.take();
          if (request.body.size() > 4096) __builtin_trap();
          out.push_back(request.head.method + " " + request.head.path + " " + request.body);
          continue;
        }
        if (used == 0) break;
      }
    }
  } catch (const ApiError& error) {
    if (error.status < 400 || error.status > 499) __builtin_trap();
    out.push_back(std::to_string(error.status));
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto whole = read_in_steps(bytes, size + 1), pieces = read_in_steps(bytes, 1);
  // The same requests; which of several faults is told may depend on what was there.
  for (size_t i = 0; i < whole.size() && i < pieces.size(); ++i)
    if (whole[i].size() > 3 && pieces[i].size() > 3 && whole[i] != pieces[i]) __builtin_trap();
  return 0;
}
