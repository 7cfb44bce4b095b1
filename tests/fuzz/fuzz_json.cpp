// Any text either parses, and then what is printed parses to the same value, or is refused with an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  json::Value value;
  try {
    value = json::parse(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  } catch (const Error&) {
    return 0;
  }
  const std::string text = json::dump(value);
  if (!(json::parse(text, "printed") == value)) std::abort();
  if (!(json::parse(json::dump(value, 2), "indented") == value)) std::abort();
  return 0;
}
