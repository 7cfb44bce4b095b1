// The residual stream where each layer begins, of the last run of a forward that keeps: for whoever makes layers again,
// or enters a forward in the middle.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/forward.h"

namespace signalbox::engine {

class KeptStreams {
 public:
  // From now on, every run of the forward (Buffers::Policy::keep) leaves its streams here, 4 d_model bytes a token and
  // layer, and keeps the activations of its last layer alone. The forward lives as long as this.
  explicit KeptStreams(Forward& forward) : forward_(forward), layers_(static_cast<size_t>(forward.model().n_layers())) {
    forward_.on_layer([this](int64_t l) { keep(l); });
  }
  ~KeptStreams() { forward_.on_layer({}); }
  KeptStreams(const KeptStreams&) = delete;
  KeptStreams& operator=(const KeptStreams&) = delete;

  // [n_tokens of the run, d_model], memory of the device.
  Tensor at(int64_t layer) const {
    const Layer& kept = layers_[static_cast<size_t>(layer)];
    return Tensor(static_cast<float*>(kept.memory.get()), kept.rows, forward_.model().d_model);
  }
  size_t most_bytes() const { return most_bytes_; }  // of streams and activations together, so far

 private:
  struct Layer {
    std::shared_ptr<void> memory;
    int64_t rows = 0;
  };
  void keep(int64_t l) {
    Buffers& buffers = forward_.buffers();
    const Tensor x = buffers.kept(Activations::resid_in, l);
    const size_t bytes = static_cast<size_t>(x.rows * x.cols) * sizeof(float);
    Layer& to = layers_[static_cast<size_t>(l)];
    if (!to.memory || to.rows != x.rows) to = {forward_.backend().allocate(std::max<size_t>(bytes, 4)), x.rows};
    forward_.backend().copy(to.memory.get(), x.data, bytes);
    most_bytes_ = std::max(most_bytes_, buffers.bytes() + layers_.size() * bytes);
    if (l > 0) buffers.release(l - 1);
  }
  Forward& forward_;
  std::vector<Layer> layers_;
  size_t most_bytes_ = 0;
};

}  // namespace signalbox::engine
