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

// Which share of a layer's experts n_tokens tokens use that route evenly: 1 - (1 - n_active / n_experts)^n_tokens.
double even_share(const Router& router, int64_t n_tokens);
// Bytes of weights that a forward of n_tokens tokens must read, if they route evenly.
double weight_bytes(const Model& model, const Weights& weights, int64_t n_tokens);
// The same without the experts, whose number somebody has counted.
double weight_bytes_beside_experts(const Model& model, const Weights& weights, int64_t n_tokens);

// Given tokens of a forward (--chunk) unless something else is asked for. A device with memory of its own reads the
// experts once a forward, whatever the number of tokens: short forwards would leave most of its arithmetic idle.
inline int64_t default_chunk(const Backend& backend) { return backend.shares_host_memory() ? 512 : 4096; }

// Bytes that a forward of `n_tokens` tokens takes besides weights and cache, at most: activations of one layer and the
// residual stream, two sets of logits, the scratch memory of ops, and the ring that ids and weights of routes are
// recorded to. An upper bound by the shapes; what else is recorded comes on top.
int64_t work_bytes(const Backend& backend, const Model& model, int64_t n_tokens);

// Throws Error, saying how much is needed, how much is free and what would fit, when the device cannot hold the
// weights, a cache of `n_positions` positions and the work of a forward of `n_tokens` tokens.
void require_device_memory(const Backend& backend, const Model& model, const Weights& weights, int64_t n_positions,
                           int64_t n_tokens);

// Copies all tensors; the result no longer needs `host`. `progress` is told the bytes of host memory done so far.
Weights upload_weights(Backend& backend, const Model& model, const Weights& host,
                       const std::function<void(int64_t)>& progress);

}  // namespace signalbox::engine
