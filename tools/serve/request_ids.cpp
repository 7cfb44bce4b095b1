#include "tools/serve/request_ids.h"

#include <sys/random.h>

#include <array>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::tools {

namespace {

std::array<uint64_t, 2> random_bits() {
  std::array<uint64_t, 2> bits = {};
  if (getrandom(bits.data(), sizeof bits, 0) != static_cast<ssize_t>(sizeof bits))
    throw Error("getrandom", "expected random bytes, found none");
  return bits;
}

}  // namespace

std::string random_id(const std::string& prefix) {
  const auto bits = random_bits();
  return prefix + hex64(bits[0]) + hex64(bits[1]);
}

uint64_t random_seed() { return random_bits()[0] >> 1; }

}  // namespace signalbox::tools
