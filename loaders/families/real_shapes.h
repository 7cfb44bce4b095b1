// Configurations of released models, for benchmarks and synthetic checkpoints of real sizes.
#pragma once
#include <span>
#include <string_view>

#include "base/namespaces.h"
#include "engine/model.h"

namespace signalbox::loaders::families {

struct RealShape {
  std::string_view name;
  std::string_view config;  // the keys of its config.json that shape the computation
};

std::span<const RealShape> real_shapes();

// The entry of that name, without regard to case; nullptr if there is none.
const RealShape* find_real_shape(std::string_view name);

// The Model of a released configuration. Throws Error listing the names when there is none of that name.
Model real_shape_model(std::string_view name);

}  // namespace signalbox::loaders::families
