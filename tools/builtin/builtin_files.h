// The files of the built-in model, which the build embeds in the binary.
#pragma once
#include <memory>

#include "loaders/model/files.h"

namespace signalbox {

std::shared_ptr<const ModelFiles> builtin_files();

}  // namespace signalbox
