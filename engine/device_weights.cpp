#include "engine/device_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "engine/kv_pool.h"

namespace signalbox::engine {

int64_t device_weight_bytes(const Backend& backend, const Model& model, const Weights& weights) {
  int64_t bytes = 0;
  Weights views = weights;
  for_each_tensor(model, views, [&](const TensorPlace& slot) {
    if (slot.id.expert >= 0) return;  // by layer, below
    bytes += slot.matrix ? backend.matrix_bytes(*slot.matrix, slot.id.role == Role::router) : slot.cols * 4;
  });
  for (const LayerWeights& layer : views.layers)
    if (const auto* moe = std::get_if<MoeWeights>(&layer.ffn)) bytes += backend.experts_bytes(moe->experts());
  return bytes;
}

int64_t host_weight_bytes(const Model& model, const Weights& weights) {
  int64_t bytes = 0;
  Weights views = weights;
  for_each_tensor(model, views,
                  [&](const TensorPlace& slot) { bytes += slot.matrix ? stored_bytes(*slot.matrix) : slot.cols * 4; });
  return bytes;
}

double even_share(const Router& router, int64_t n_tokens) {
  return 1 - std::pow(1 - static_cast<double>(router.n_active) / router.n_experts, static_cast<double>(n_tokens));
}

namespace {

// Bytes of weights that n_tokens tokens read: those of the experts, by even routes, and all others.
struct WeightBytes {
  double experts = 0, others = 0;
};
WeightBytes bytes_read(const Model& model, const Weights& weights, int64_t n_tokens) {
  WeightBytes bytes;
  Weights views = weights;
  for_each_tensor(model, views, [&](const TensorPlace& slot) {
    const double size =
        slot.matrix ? static_cast<double>(stored_bytes(*slot.matrix)) : 4.0 * static_cast<double>(slot.vector->n);
    if (slot.id.expert >= 0) {
      bytes.experts += size * even_share(model.layers[static_cast<size_t>(slot.id.layer)].moe()->router, n_tokens);
    } else if (slot.id.role == Role::embed && !model.tied_embeddings) {
      bytes.others += size / static_cast<double>(model.n_vocab) * static_cast<double>(n_tokens);
    } else {
      bytes.others += size;
    }
  });
  return bytes;
}

}  // namespace

double weight_bytes(const Model& model, const Weights& weights, int64_t n_tokens) {
  const WeightBytes bytes = bytes_read(model, weights, n_tokens);
  return bytes.experts + bytes.others;
}

double weight_bytes_beside_experts(const Model& model, const Weights& weights, int64_t n_tokens) {
  return bytes_read(model, weights, n_tokens).others;
}

int64_t work_bytes(const Backend& backend, const Model& model, int64_t n_tokens) {
  const int64_t operand = static_cast<int64_t>(dtype_size(backend.operand_dtype())), d = model.d_model;
  // Steps grow by powers of two, and decoding sequences come on top of the given tokens (engine/buffers.cpp).
  const int64_t rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n_tokens) + 1));
  // Bytes a token of the activations that engine/buffers.h lists; the largest of each kind over all layers.
  int64_t attention = 0, ffn = 0, ring = 0, scratch = 0;
  for (const Layer& layer : model.layers) {
    int64_t here = 0, copies = 0;
    if (const Gqa* gqa = std::get_if<Gqa>(&layer.attention)) {
      here = (4 * (gqa->n_heads + 2 * gqa->n_kv_heads) + operand * gqa->n_heads) * gqa->d_head;
    } else {
      const Mla& mla = std::get<Mla>(layer.attention);
      here = 4 * mla.n_heads * (mla.d_nope + 2 * mla.d_rope + mla.d_latent) + 4 * (mla.d_latent + mla.d_rope) +
             operand * mla.n_heads * (mla.d_latent + mla.d_value) + (4 + operand) * mla.q_rank;
      copies = operand * mla.n_heads * std::max(mla.d_nope, mla.d_latent);  // aligned copies of queries and latents
    }
    attention = std::max(attention, here);
    if (const Moe* moe = layer.moe()) {
      const int64_t k = moe->router.n_active, experts = moe->router.n_experts;
      here = 9 * experts + 16 * k + 12 + k * (4 * d + operand * moe->d_ff) + (8 * d + operand * moe->d_ff_shared + 4);
      copies = std::max(copies, operand * k * moe->d_ff) + 16 * k;  // and the tile map
      ring += 8 * k;
    } else {
      here = operand * std::get<Dense>(layer.ffn).d_ff;
    }
    ffn = std::max(ffn, here);
    scratch = std::max(scratch, copies);
  }
  const int64_t stream = 6 * 4 * d + 4 * operand * d;
  constexpr int64_t ring_steps = 4;
  // What the scheduler lets a step make at once, and one row where a row is larger.
  const int64_t logits_row = 4 * model.n_vocab, logits = std::max<int64_t>(logits_row, int64_t{128} << 20);
  constexpr int64_t fixed = int64_t{160} << 20;  // parts of split attention, sampling, a library's workspace
  return rows * (stream + attention + ffn + scratch + ring_steps * ring) + 2 * std::min(logits, rows * logits_row) +
         fixed;
}

void require_device_memory(const Backend& backend, const Model& model, const Weights& weights, int64_t n_positions,
                           int64_t n_tokens) {
  const size_t free_bytes = backend.free_bytes();
  if (free_bytes == SIZE_MAX) return;
  const int64_t free = static_cast<int64_t>(free_bytes);
  const int64_t need = device_weight_bytes(backend, model, weights);
  const int64_t block = KvPool::block_bytes(model, backend.kv_dtype());
  const int64_t cache = KvPool::blocks_for(n_positions) * block;
  const int64_t work = work_bytes(backend, model, n_tokens);
  if (need + cache + work <= free) return;
  std::string fits;
  if (need + work + block <= free) {
    fits = "; a cache of " + std::to_string((free - need - work) / block * KvPool::block_size) +
           " positions would fit: fewer sequences at once (--batch), shorter ones, or fewer tokens a forward (--chunk)";
  } else {
    const int64_t outer = backend.matrix_bytes(weights.embed, false) +
                          (model.tied_embeddings ? 0 : backend.matrix_bytes(weights.lm_head, false));
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
  for_each_tensor(model, device, [&](const TensorPlace& slot) {
    if (slot.matrix) {
      if (slot.id.expert >= 0) return;  // packed below
      const Backend::Uploaded uploaded = backend.upload_matrix(*slot.matrix, slot.id.role == Role::router);
      advance(stored_bytes(*slot.matrix));
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
        advance(stored_bytes(matrix));
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

}  // namespace signalbox::engine
