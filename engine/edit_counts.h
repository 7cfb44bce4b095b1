// What edits did to the tokens of a job.
#pragma once
#include <cstdint>

#include "base/namespaces.h"

namespace signalbox::engine {

// Over tokens whose forward a result depends on. A slot is a token's place for an expert at a layer with a router, of
// the wider of the two routes, the unedited one and the one applied (kernels/router.h, TokenEdits).
struct EditCounts {
  int64_t tokens = 0;         // run
  int64_t edited_tokens = 0;  // at which an edit acted in at least one layer: where and when held
  int64_t slots = 0;          // of these tokens, over all layers
  int64_t edited_slots = 0;   // whose expert left the route, came in addition, or has another weight

  EditCounts& operator+=(const EditCounts& other) {
    tokens += other.tokens;
    edited_tokens += other.edited_tokens;
    slots += other.slots;
    edited_slots += other.edited_slots;
    return *this;
  }
  bool operator==(const EditCounts&) const = default;
};

}  // namespace signalbox::engine
