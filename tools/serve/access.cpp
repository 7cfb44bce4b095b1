#include "tools/serve/access.h"

#include <algorithm>

#include "base/files.h"
#include "base/sha256.h"
#include "base/text.h"
#include "tools/serve/api_error.h"

namespace signalbox::tools {

namespace {

[[noreturn]] void forbid(const std::string& reason) { throw ApiError(403, reason); }

// Without ":PORT".
std::string_view host_name(std::string_view host) {
  const size_t colon = host.rfind(':');
  if (colon == std::string_view::npos || host.ends_with(']')) return host;
  const std::string_view port = host.substr(colon + 1);
  if (port.empty() || port.size() > 5 || !std::all_of(port.begin(), port.end(), is_ascii_digit)) return host;
  if (std::stoi(std::string(port)) > 65535) return host;
  return host.substr(0, colon);
}

bool is_listed(std::string_view text, const std::vector<std::string>& list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

bool same_digest(const std::string& a, const std::string& b) {
  unsigned difference = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i)
    difference |= static_cast<unsigned>(static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]));
  return difference == 0 && a.size() == b.size();
}

}  // namespace

void check_access(const RequestHead& head, const AccessRules& rules) {
  if (head.count("host") != 1) forbid("Host: expected one, found " + std::to_string(head.count("host")));
  const std::string host = ascii_lower(*head.find("host"));
  const std::string_view name = host_name(host);
  if (name != "localhost" && name != "127.0.0.1" && name != "[::1]" && !is_listed(name, rules.hosts))
    forbid("Host: expected localhost, 127.0.0.1 or [::1] (--allowed-host NAME adds one), found another");
  if (head.count("origin") > 1) forbid("Origin: expected one, found several");
  if (const std::string* origin = head.find("origin"))
    if (ascii_lower(*origin) != "http://" + host && !is_listed(*origin, rules.origins))
      forbid("Origin: expected none or http:// and the Host (--allowed-origin ORIGIN adds one), found another");
  if (head.count("sec-fetch-site") > 1) forbid("Sec-Fetch-Site: expected one, found several");
  if (const std::string* site = head.find("sec-fetch-site"))
    if (*site != "same-origin" && *site != "none")
      forbid("Sec-Fetch-Site: expected same-origin or none, found another");
}

void check_content_type(const RequestHead& head) {
  const auto refuse = [] {
    throw ApiError(415, "Content-Type: expected application/json; with curl add -H 'Content-Type: application/json'");
  };
  if (head.count("content-type") != 1) refuse();
  const std::string value = ascii_lower(*head.find("content-type"));
  const size_t end = value.find(';');
  if (trimmed(std::string_view(value).substr(0, end)) != "application/json") refuse();
  if (end == std::string::npos) return;
  std::string_view parameter = trimmed(std::string_view(value).substr(end + 1));
  if (!parameter.empty() && parameter != "charset=utf-8" && parameter != "charset=\"utf-8\"") refuse();
}

KeyRing KeyRing::load(const std::filesystem::path& file) {
  KeyRing ring;
  // A FIFO or a device would be read for ever.
  if (std::error_code error; std::filesystem::exists(file, error) && !std::filesystem::is_regular_file(file, error))
    throw Error(file.string(), "expected a regular file, found another kind");
  LineReader lines(file);
  for (std::string_view line; lines.next(line);) {
    const std::string_view key = trimmed(line);
    if (key.empty()) continue;
    if (key.size() < 16)
      throw Error(lines.where(), "expected a key of at least 16 bytes, found one of " + std::to_string(key.size()));
    if (std::any_of(key.begin(), key.end(), [](char c) { return c <= ' ' || c > '~'; }))
      throw Error(lines.where(), "expected a key of printable ASCII without spaces, found other characters");
    ring.digests_.push_back(sha256_hex(key));
  }
  if (ring.empty()) throw Error(file.string(), "expected at least one key, found none");
  return ring;
}

int KeyRing::find(std::string_view key) const {
  const std::string digest = sha256_hex(key);
  int found = -1;
  for (size_t i = 0; i < digests_.size(); ++i)
    if (same_digest(digest, digests_[i])) found = static_cast<int>(i);
  return found;
}

int check_key(const RequestHead& head, const KeyRing& keys) {
  if (keys.empty()) return -1;
  const std::string* field = head.find("authorization");
  const bool bearer = field && head.count("authorization") == 1 && field->size() > 7 &&
                      ascii_lower(std::string_view(*field).substr(0, 7)) == "bearer ";
  const int key = bearer ? keys.find(trimmed(std::string_view(*field).substr(7))) : -1;
  if (key < 0) throw ApiError(401, "Authorization: expected Bearer and a key of this server", "", "invalid_api_key");
  return key;
}

}  // namespace signalbox::tools
