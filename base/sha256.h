// SHA-256 (FIPS 180-4), by libcrypto: the hash of manifests. That of a weight file equals what `sha256sum` prints and
// what the Hugging Face hub lists for it.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // libcrypto's

namespace signalbox {

class Sha256 {
 public:
  Sha256();  // throws Error where libcrypto refuses
  Sha256& update(const void* data, size_t bytes);
  Sha256& update(std::string_view text) { return update(text.data(), text.size()); }
  std::string hex();  // ends the message; 64 lower-case digits

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string sha256_hex(std::string_view data);

}  // namespace signalbox
