// Model directories as maps of files: made whole, spoilt in one place, written out and loaded.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/json.h"

namespace signalbox::test {

using Files = std::map<std::string, std::string>;

// A safetensors file of any header text and so many zero bytes of data. `length` < 0: the true length of the header.
std::string safetensors_bytes(std::string_view header, size_t data_bytes, int64_t length = -1);

// The files that make-model writes for a spec.
Files made_model(std::string_view spec);

// A family's example config with keys replaced (or removed: JSON text "absent").
std::string example_config(std::string_view family, const std::map<std::string, std::string>& changes = {});

// Writes the files to a directory of their own and loads it as a command would. The message of the Error, or "loaded".
std::string load_message(const Files& files);

// One line that names a place and holds `expected`.
bool good_message(const std::string& message, std::string_view expected);

}  // namespace signalbox::test
