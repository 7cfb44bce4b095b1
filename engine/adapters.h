// Low-rank adapters of a model's weights (LoRA), merged into copies of what they change.
//
// An adapter adds s b a to a matrix w [out, in], with a [rank, in] and b [out, rank] (engine/weight_slopes.h: Adapter).
// Several are summed. Only matrices that some adapter changes are copied; a copy is f32, whatever the checkpoint holds:
// w is exact in it, and one addition an adapter is all the rounding there is.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weight_slopes.h"
#include "engine/weights.h"

namespace signalbox::engine {

struct AdaptedMatrix {
  TensorId id;
  Adapter adapter;  // f32, contiguous
};

// Takes the place of a tensor: what a training keeps whole.
struct WholeTensor {
  TensorId id;
  Matrix matrix;  // f32, contiguous; one of the two
  Vector vector;
};

// One adapter of a model: host memory that `owners` keep alive.
struct ModelAdapter {
  std::string name;                     // of its directory, for messages
  std::string hash;                     // SHA-256 of what it holds
  std::vector<AdaptedMatrix> matrices;  // each id once; none that adds 0
  std::vector<WholeTensor> whole;
  std::vector<std::shared_ptr<const void>> owners;
};

// values [rows, cols] += scale b a: sums over the rank in ascending order in f32, then one addition.
void add_product(std::span<float> values, const Adapter& adapter);

// What `weights` [host] become under the sum of all adapters, whole tensors first. Tied embeddings whose head, or whose
// table alone, an adapter changes are tied no longer. Throws Error where two adapters keep the same tensor whole.
void merge_adapters(Model& model, Weights& weights, std::span<const ModelAdapter> adapters, int threads);

}  // namespace signalbox::engine
