// The files of the built-in model, which the build embeds in the binary.
#pragma once
#include <memory>

#include "base/namespaces.h"
#include "loaders/model/files.h"

namespace signalbox::tools {

std::shared_ptr<const ModelFiles> builtin_files();

}  // namespace signalbox::tools
