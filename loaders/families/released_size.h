// How large a released model is, before it is there.
#pragma once
#include <cstdint>
#include <string>

#include "base/namespaces.h"

namespace signalbox::loaders::families {

// Bytes of the weights of a repository ("org/name") whose name begins with that of one of real_shapes(): 16 bits a
// weight, and MXFP4 experts where the family is released with them. 0 where the size is not known: another name, or one
// that tells of another width ("-FP8", "-GPTQ-Int4").
int64_t released_bytes(const std::string& repository);

}  // namespace signalbox::loaders::families
