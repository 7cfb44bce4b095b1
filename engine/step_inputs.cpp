#include "engine/step_inputs.h"

#include <algorithm>

namespace signalbox::engine {

void StepInputs::upload() {
  if (image_.size() > bytes_) {
    backend_.forget_graphs();
    const size_t bytes = std::max(image_.size(), 2 * bytes_);
    memory_.reset();
    bytes_ = 0;
    memory_ = backend_.allocate(bytes);
    bytes_ = bytes;
  }
  backend_.upload(memory_.get(), image_.data(), image_.size());
}

}  // namespace signalbox::engine
