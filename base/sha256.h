// SHA-256 (FIPS 180-4): the hash of manifests. That of a weight file equals what `sha256sum` prints and what the
// Hugging Face hub lists for it.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace signalbox {

class Sha256 {
 public:
  Sha256();
  Sha256& update(const void* data, size_t bytes);
  Sha256& update(std::string_view text) { return update(text.data(), text.size()); }
  std::string hex();  // ends the message; 64 lower-case digits

 private:
  void block(const uint8_t* data);
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> buffer_;
  uint64_t length_ = 0;
};

std::string sha256_hex(std::string_view data);

}  // namespace signalbox
