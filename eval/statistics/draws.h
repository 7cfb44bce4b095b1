// Random numbers of resampling: a draw is a pure function of (seed, purpose, stratum, replicate, unit), so replicates
// can be made in any order, by any thread, and in part.
#pragma once
#include <Random123/philox.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "base/namespaces.h"

namespace signalbox::eval {

enum class Resampling : uint32_t { bootstrap = 1, signs = 2, permutation = 3 };

// 32 bits for each unit of a replicate: words of Philox 4x32-10 under the counter {unit / 4, replicate low, replicate
// high, tag | purpose | stratum} and the key {seed low, seed high}. The tag keeps these apart from kernels/random.h,
// whose counters hold a layer in that place.
class ResamplingDraws {
 public:
  // `stratum` (below 256): groups of units that are resampled each by itself.
  ResamplingDraws(uint64_t seed, Resampling purpose, uint32_t stratum = 0)
      : key_{{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}},
        kind_(0x52530000u | static_cast<uint32_t>(purpose) << 8 | stratum) {}

  // bits[i] = the draw of unit i.
  void fill(int64_t replicate, std::span<uint32_t> bits) const {
    const uint64_t r = static_cast<uint64_t>(replicate);
    for (size_t first = 0; first < bits.size(); first += 4) {
      const r123::Philox4x32::ctr_type counter = {
          {static_cast<uint32_t>(first / 4), static_cast<uint32_t>(r), static_cast<uint32_t>(r >> 32), kind_}};
      const r123::Philox4x32::ctr_type block = r123::Philox4x32()(counter, key_);
      for (size_t i = first; i < std::min(first + 4, bits.size()); ++i) bits[i] = block.v[i - first];
    }
  }

  // 0 .. n - 1, uniform but for n / 2^32.
  static uint32_t below(uint32_t bits, size_t n) {
    return static_cast<uint32_t>(static_cast<uint64_t>(bits) * static_cast<uint64_t>(n) >> 32);
  }
  // +1 or -1.
  static int sign(uint32_t bits) { return bits >> 31 ? -1 : 1; }

  // Puts a uniformly drawn subset of `items` into its first `n` places (Fisher-Yates, cut short); bits as of fill().
  template <class T>
  static void draw_subset(std::span<T> items, size_t n, std::span<const uint32_t> bits) {
    for (size_t i = 0; i < n; ++i) std::swap(items[i], items[i + below(bits[i], items.size() - i)]);
  }

 private:
  r123::Philox4x32::key_type key_;
  uint32_t kind_;
};

}  // namespace signalbox::eval
