// Seeded draws for data that is made: the same on every machine, a function of the seed and of what is drawn for.
#pragma once
#include <xxhash.h>

#include <cstdint>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

class Dice {
 public:
  Dice(uint64_t seed, std::string_view purpose) : engine_(XXH3_64bits_withSeed(purpose.data(), purpose.size(), seed)) {}

  // 0..n-1, n >= 1. The high half of a product: a bias below n / 2^64.
  uint64_t below(uint64_t n) { return static_cast<uint64_t>((static_cast<unsigned __int128>(engine_()) * n) >> 64); }
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(below(static_cast<uint64_t>(high - low + 1)));
  }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  std::mt19937_64 engine_;  // its sequence is fixed by the standard; distributions are not, so none is used
};

}  // namespace signalbox::eval
