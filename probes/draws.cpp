#include "probes/draws.h"

#include <Random123/philox.h>

#include <numeric>
#include <utility>

#include "probes/edits.h"

namespace signalbox::probes {

namespace {

// The second half of the key keeps draws for different purposes apart.
enum class Purpose : uint64_t { share = 1, permutation = 2 };

using Philox = r123::Philox4x64;

uint64_t draw(Purpose purpose, uint64_t seed, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  return Philox()({{a, b, c, d}}, {{seed, static_cast<uint64_t>(purpose)}})[0];
}

}  // namespace

uint64_t record_hash(std::string_view id) {
  uint64_t h = 0xcbf29ce484222325;
  for (char c : id) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9;
  h = (h ^ (h >> 27)) * 0x94d049bb133111eb;
  return h ^ (h >> 31);
}

bool draw_share(double share, uint64_t seed, uint64_t record_hash, uint32_t sample, int64_t position) {
  const uint64_t bits = draw(Purpose::share, seed, record_hash, sample, static_cast<uint64_t>(position), 0);
  return static_cast<double>(bits >> 11) * 0x1p-53 < share;
}

std::vector<int32_t> draw_permutation(int32_t n, uint64_t seed, int32_t layer) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  uint64_t counter = 0;
  for (int32_t i = n - 1; i > 0; --i) {
    // Lemire's method: the high half of a product is uniform once the few biased low halves are drawn again.
    const uint64_t range = static_cast<uint64_t>(i) + 1;
    const uint64_t biased = (0 - range) % range;
    unsigned __int128 product;
    do {
      product = static_cast<unsigned __int128>(
                    draw(Purpose::permutation, seed, static_cast<uint64_t>(layer), counter++, 0, 0)) *
                range;
    } while (static_cast<uint64_t>(product) < biased);
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(product >> 64)]);
  }
  return order;
}

}  // namespace signalbox::probes
