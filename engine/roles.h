// Groups of tensors that several parts of the program treat alike.
#pragma once
#include "base/namespaces.h"
#include "engine/weights.h"

namespace signalbox::engine {

// A matrix of attention: of queries, keys, values and the output, or of the two steps of latent ones.
constexpr bool is_attention_matrix(Role role) {
  switch (role) {
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::o:
    case Role::q_a:
    case Role::q_b:
    case Role::kv_a:
    case Role::kv_b: return true;
    default: return false;
  }
}

}  // namespace signalbox::engine
