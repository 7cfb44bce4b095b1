#include "probes/recording.h"

#include <algorithm>

namespace signalbox::probes {

std::optional<int32_t> Recording::layer_index(int32_t layer) const {
  const std::vector<int32_t>& all = layers();
  const auto found = std::lower_bound(all.begin(), all.end(), layer);
  if (found == all.end() || *found != layer) return std::nullopt;
  return static_cast<int32_t>(found - all.begin());
}

int64_t Recording::tensor_width(std::string_view tensor) const {
  const std::vector<int64_t> shape = tensor_shape(tensor);
  int64_t width = 1;
  for (size_t i = 1; i < shape.size(); ++i) width *= shape[i];
  return width;
}

}  // namespace signalbox::probes
