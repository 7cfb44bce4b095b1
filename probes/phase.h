// Which tokens of a sequence: those given in the input, those that the model generated, or all.
#pragma once
#include <cstdint>

#include "base/namespaces.h"

namespace signalbox::probes {

enum class Phase : uint8_t { all, given, generated };

// "all", "given" or "generated".
inline const char* phase_name(Phase phase) {
  return phase == Phase::given ? "given" : phase == Phase::generated ? "generated" : "all";
}

}  // namespace signalbox::probes
