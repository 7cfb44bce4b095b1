// A file that the build put into the binary (cmake/embed.cmake).
#pragma once
#include <cstddef>

namespace signalbox {

// An entry of a table that ends with one without a name. A zero follows the content.
struct EmbeddedFile {
  const char* name;
  const std::byte *begin, *end;
};

}  // namespace signalbox
