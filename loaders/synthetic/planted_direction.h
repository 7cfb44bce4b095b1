// The vector of a planted direction: a part that the next layer's router cannot see, and one that speaks to two of its
// experts.
#pragma once
#include <vector>

#include "base/namespaces.h"
#include "loaders/synthetic/reserved.h"
#include "loaders/synthetic/spec.h"

namespace signalbox::loaders::synthetic {

struct DirectionParts {
  std::vector<double> content, router;  // [d_model] each, of the lengths that the circuit asks for
};

// With R = W diag(gamma) the next layer's router behind its norm: `router` is along R[on] - R[off], `content` random
// and orthogonal to every row of R. R is what the checkpoint stores, rounding included. All reserved dimensions must be
// taken. Throws Error beginning with the circuit's place where R's rows leave no content.
DirectionParts direction_parts(const Spec& spec, const Reserved& reserved, const CircuitSpec& circuit);

}  // namespace signalbox::loaders::synthetic
