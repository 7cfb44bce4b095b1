// Names for requests and their results: 128 random bits, so that nobody guesses another's.
#pragma once
#include <cstdint>
#include <string>

#include "base/namespaces.h"

namespace signalbox::tools {

std::string random_id(const std::string& prefix);  // and 32 hex digits
uint64_t random_seed();                            // below 2^63

}  // namespace signalbox::tools
