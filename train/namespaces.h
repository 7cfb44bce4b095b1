// What train/ sees: the folders below it (base/namespaces.h).
#pragma once
#include "base/namespaces.h"

namespace signalbox::train {

using namespace loaders;
using namespace eval;

}  // namespace signalbox::train
