// Weights in the memory of a device that does not read them where they lie.
#pragma once
#include <cstdint>
#include <functional>

#include "base/namespaces.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// Bytes that the weights will take on the device, before anything is loaded. dtypes of the experts' matrices are those
// of `weights` (views of mapped files).
int64_t device_weight_bytes(const Backend& backend, const Model& model, const Weights& weights);

// Bytes of the tensors where they lie now.
int64_t host_weight_bytes(const Model& model, const Weights& weights);

// Throws Error, saying how much is needed, how much is free and what would fit, when the device cannot hold the weights
// and a cache of `n_positions` positions besides.
void require_device_memory(const Backend& backend, const Model& model, const Weights& weights, int64_t n_positions);

// Copies all tensors; the result no longer needs `host`. `progress` is told the bytes of host memory done so far.
Weights upload_weights(Backend& backend, const Model& model, const Weights& host,
                       const std::function<void(int64_t)>& progress);

}  // namespace signalbox::engine
