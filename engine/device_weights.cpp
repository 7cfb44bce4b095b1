#include "engine/device_weights.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "base/error.h"
#include "engine/kv_pool.h"

namespace signalbox {

namespace {

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Bytes of a matrix as kernels/cuda lays it out.
int64_t matrix_device_bytes(const TensorSlot& slot, DType stored) {
  if (slot.id.role == Role::router) return slot.rows * padded(slot.cols, 4) * 4;
  if (slot.id.expert >= 0 && stored == DType::mxfp4) {
    const int64_t values = padded(slot.rows, 8) * padded(slot.cols, 32);
    return values / 2 + values / 32;
  }
  return padded(slot.rows, slot.id.expert >= 0 ? 8 : 1) * padded(slot.cols, 8) * 2;
}

std::string gigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) * 1e-9);
  return text;
}

}  // namespace

int64_t device_weight_bytes(const Model& model, const Weights& weights) {
  int64_t bytes = 0;
  Weights views = weights;
  for_each_tensor(model, views, [&](const TensorSlot& slot) {
    bytes += slot.matrix ? matrix_device_bytes(slot, slot.matrix->dtype) : slot.cols * 4;
  });
  return bytes;
}

int64_t host_weight_bytes(const Model& model, const Weights& weights) {
  int64_t bytes = 0;
  Weights views = weights;
  for_each_tensor(model, views,
                  [&](const TensorSlot& slot) { bytes += slot.matrix ? matrix_bytes(*slot.matrix) : slot.cols * 4; });
  return bytes;
}

void require_device_memory(const Backend& backend, const Model& model, const Weights& weights, int64_t n_positions) {
  const size_t free_bytes = backend.free_bytes();
  if (free_bytes == SIZE_MAX) return;
  const int64_t free = static_cast<int64_t>(free_bytes);
  const int64_t need = device_weight_bytes(model, weights);
  const int64_t block = KvPool::block_bytes(model, backend.kv_dtype());
  const int64_t cache = KvPool::blocks_for(n_positions) * block;
  const int64_t work = std::max<int64_t>(512 << 20, free / 50);  // activations, logits, library workspaces
  if (need + cache + work <= free) return;
  std::string fits;
  if (need + work + block <= free) {
    fits = "; a cache of " + std::to_string((free - need - work) / block * KvPool::block_size) +
           " positions would fit: fewer sequences at once (--batch) or shorter ones";
  } else {
    const int64_t outer = (model.n_vocab * padded(model.d_model, 8)) * (model.tied_embeddings ? 2 : 4);
    const int64_t layer = std::max<int64_t>(1, (need - outer) / std::max<int64_t>(1, model.n_layers()));
    fits = "; about " + std::to_string(std::max<int64_t>(0, (free - work - outer) / layer)) + " of its " +
           std::to_string(model.n_layers()) + " layers would fit";
  }
  throw Error(backend.name() + " memory", "expected " + gigabytes(need) + " for weights, " + gigabytes(cache) +
                                              " for keys and values and " + gigabytes(work) + " to work in, found " +
                                              gigabytes(free) + " free" + fits);
}

Weights upload_weights(Backend& backend, const Model& model, const Weights& host,
                       const std::function<void(int64_t)>& progress) {
  if (backend.shares_host_memory()) return host;
  Weights device = host;
  device.owners.clear();
  int64_t done = 0;
  auto advance = [&](int64_t bytes) {
    done += bytes;
    if (progress) progress(done);
  };
  for_each_tensor(model, device, [&](const TensorSlot& slot) {
    if (slot.matrix) {
      if (slot.id.expert >= 0) return;  // packed below
      const Backend::Uploaded uploaded = backend.upload_matrix(*slot.matrix, slot.id.role == Role::router);
      advance(matrix_bytes(*slot.matrix));
      *slot.matrix = uploaded.matrix;
      device.owners.push_back(uploaded.owner);
    } else {
      if (slot.id.expert >= 0) return;
      std::shared_ptr<void> memory = backend.allocate(static_cast<size_t>(slot.cols) * 4);
      backend.upload(memory.get(), slot.vector->data, static_cast<size_t>(slot.cols) * 4);
      slot.vector->data = static_cast<const float*>(memory.get());
      device.owners.push_back(std::move(memory));
    }
    if (slot.id.role == Role::embed && model.tied_embeddings) device.lm_head = device.embed;
  });
  for (LayerWeights& layer : device.layers) {
    MoeWeights* moe = std::get_if<MoeWeights>(&layer.ffn);
    if (!moe) continue;
    moe->packed = backend.pack_experts(moe->experts());
    for (auto* list : {&moe->gate, &moe->up, &moe->down}) {
      for (Matrix& matrix : *list) {
        advance(matrix_bytes(matrix));
        matrix.data = nullptr;  // the host's: not for the device
        matrix.scales = nullptr;
      }
    }
    for (auto* list : {&moe->gate_bias, &moe->up_bias, &moe->down_bias})
      for (Vector& bias : *list) bias.data = nullptr;
  }
  backend.synchronize();
  return device;
}

}  // namespace signalbox
