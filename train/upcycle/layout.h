// How a dense feed-forward block is cut: into `experts` equal parts, of which `shared` are always on and `active` of
// the others are on for each token.
#pragma once
#include <cstdint>
#include <string>

#include "train/namespaces.h"

namespace signalbox::train {

struct CarveLayout {
  int64_t shared = 6, active = 8, experts = 16;

  int64_t routed() const { return experts - shared; }
  int64_t neurons(int64_t d_ff) const { return d_ff / experts; }  // of one part
  double active_share() const { return static_cast<double>(shared + active) / static_cast<double>(experts); }
  std::string name() const {
    return "S" + std::to_string(shared) + "A" + std::to_string(active) + "E" + std::to_string(experts);
  }
};

// Throws Error naming the flag: no routed experts or fewer than are active, none active, a number of parts that does
// not divide the neurons of a block.
void check_layout(const CarveLayout& layout, int64_t d_ff);

}  // namespace signalbox::train
