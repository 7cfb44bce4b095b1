// Data inside a page, for its scripts: JSON and bytes, in blocks that a browser neither runs nor shows.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

// JSON that can stand in a script element: "<" only as \u003c, so that no text in it ends the element.
std::string script_json(const json::Value& value);

// <script type="application/json" id="ID">; box.json(ID) reads it.
std::string json_block(const std::string& id, const json::Value& value);

// The bytes in pieces of at most 1 MB of base64, "ID-0", "ID-1", ...; box.bytes(ID) joins them. Browsers are slow to
// take a long one.
std::string bytes_block(const std::string& id, std::string_view bytes);
inline constexpr size_t bytes_of_piece = 768 * 1024;

}  // namespace signalbox::eval
