// Counter-based random numbers. A draw is a pure function of what it is for, never of how many draws came before, so
// batches, shards, threads and devices agree.
//
// Philox 4x32-10 (Random123), used twice:
//   stream = philox(counter = {record_hash low, record_hash high, sample, layer}, key = {seed low, seed high})
//   block  = philox(counter = {position, index / 4, purpose, stream[2]},          key = {stream[0], stream[1]})
// and draw number `index` is block[index % 4], 32 bits. A uniform is (bits + 1/2) / 2^32, exact in double and never 0
// or 1; a Gumbel is -log(-log(uniform)), computed in double and rounded to float.
#pragma once
#include <Random123/philox.h>

#include <cmath>
#include <cstdint>

#include "base/namespaces.h"
#include "kernels/host_device.h"

namespace signalbox::kernels {

enum class DrawPurpose : uint32_t {
  route = 0,     // random experts of a token at a layer
  fraction = 1,  // whether an edit takes in a token; layer = -1, so that all layers agree
  control = 16,  // the experts of a matched control
};

struct DrawKey {
  uint64_t seed = 0, record_hash = 0;
  uint32_t sample = 0;
  int32_t position = 0, layer = -1;
  DrawPurpose purpose = DrawPurpose::route;
};

class Draws {
 public:
  SIGNALBOX_HOST_DEVICE explicit Draws(const DrawKey& key)
      : position_(static_cast<uint32_t>(key.position)), purpose_(static_cast<uint32_t>(key.purpose)) {
    const r123::Philox4x32::ctr_type counter = {{static_cast<uint32_t>(key.record_hash),
                                                 static_cast<uint32_t>(key.record_hash >> 32), key.sample,
                                                 static_cast<uint32_t>(key.layer)}};
    stream_ = r123::Philox4x32()(counter, {{static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)}});
  }

  SIGNALBOX_HOST_DEVICE uint32_t bits(uint32_t index) const {
    const r123::Philox4x32::ctr_type counter = {{position_, index / 4, purpose_, stream_.v[2]}};
    return r123::Philox4x32()(counter, {{stream_.v[0], stream_.v[1]}}).v[index % 4];
  }

  // In (0, 1).
  SIGNALBOX_HOST_DEVICE double uniform(uint32_t index) const {
    return (static_cast<double>(bits(index)) + 0.5) * 0x1p-32;
  }

  SIGNALBOX_HOST_DEVICE float gumbel(uint32_t index) const {
    return static_cast<float>(-std::log(-std::log(uniform(index))));
  }

 private:
  r123::Philox4x32::ctr_type stream_;
  uint32_t position_, purpose_;
};

// The draw that chooses the next token: 53 bits, in (0, 1). One philox of its own, counter = {position, sample,
// record_hash low, record_hash high}, key = {seed low, seed high}; position is that of the token being chosen.
SIGNALBOX_HOST_DEVICE inline double sample_uniform(uint64_t seed, uint64_t record_hash, uint32_t sample,
                                                   int32_t position) {
  const r123::Philox4x32::ctr_type counter = {{static_cast<uint32_t>(position), sample,
                                               static_cast<uint32_t>(record_hash),
                                               static_cast<uint32_t>(record_hash >> 32)}};
  const r123::Philox4x32::ctr_type bits =
      r123::Philox4x32()(counter, {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}});
  const uint64_t wide = (static_cast<uint64_t>(bits.v[0]) << 32 | bits.v[1]) >> 11;
  return (static_cast<double>(wide) + 0.5) * 0x1p-53;
}

}  // namespace signalbox::kernels
