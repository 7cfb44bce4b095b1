// Who may ask: checks of a request's head that need no model. The first of them is of the Host, against pages of other
// sites whose name has been made to lead here (DNS rebinding).
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "tools/serve/http.h"

namespace signalbox::tools {

struct AccessRules {
  std::vector<std::string> hosts;    // beside localhost, 127.0.0.1 and [::1], each at any port
  std::vector<std::string> origins;  // beside http:// and the request's own Host
};

// Host, then Origin, then Sec-Fetch-Site. Throws ApiError (403).
void check_access(const RequestHead& head, const AccessRules& rules);

// Of a request with a body: application/json, in UTF-8. Throws ApiError (415).
void check_content_type(const RequestHead& head);

// API keys, of which the digests are kept.
class KeyRing {
 public:
  KeyRing() = default;
  // One key a line, of at least 16 bytes; empty lines do not count. Throws Error.
  static KeyRing load(const std::filesystem::path& file);
  bool empty() const { return digests_.empty(); }
  // The place of the key; -1: none of them. Takes as long for one key as for another.
  int find(std::string_view key) const;

 private:
  std::vector<std::string> digests_;  // SHA-256, in hex
};

// Throws ApiError (401). -1 where no key is asked for.
int check_key(const RequestHead& head, const KeyRing& keys);

}  // namespace signalbox::tools
