// Where a checkpoint stores a tensor of a model.
#pragma once
#include <vector>

#include "base/namespaces.h"
#include "engine/weights.h"
#include "loaders/families/family.h"
#include "loaders/model/checkpoint.h"

namespace signalbox::loaders {

// Where it may lie, in order of preference; tied embeddings under either name.
std::vector<families::Source> places_of(const families::Family& family, const Model& model, const TensorId& id);

struct StoredTensor {
  families::Source source;
  Checkpoint::Tensor tensor, scales;  // scales: of MXFP4 blocks; empty where the checkpoint lacks them
  explicit operator bool() const { return static_cast<bool>(tensor); }
};
// The first of the places that the checkpoint has; empty if there is none.
StoredTensor find_stored(const std::vector<families::Source>& places, const Checkpoint& checkpoint);
// The same of a tensor that was loaded: Error where there is none.
StoredTensor stored_tensor(const families::Family& family, const Model& model, const Checkpoint& checkpoint,
                           const TensorId& id);

}  // namespace signalbox::loaders
