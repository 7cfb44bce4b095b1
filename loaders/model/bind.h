// Weights as views into a checkpoint's mapped files.
#pragma once
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/weights.h"
#include "loaders/families/family.h"
#include "loaders/model/checkpoint.h"

namespace signalbox::loaders {

// Finds every tensor of `model` under the family's names and checks its dtype and shape before anything is allocated.
// Matrices point into the files where they lie as the engine reads them (rows contiguous, aligned for their dtype), and
// are copied otherwise; vectors become f32. A missing tensor, a wrong shape or dtype, and a scale that is no number
// are Errors that name file and tensor. Names that nothing asked for go to `unknown`, in the files' order.
//
// Tied embeddings: a checkpoint that stores two different matrices all the same makes model.tied_embeddings false, as
// in transformers.
// `format`: of a checkpoint in the engine's own format (loaders/model/quantized.h), else DType::other.
Weights bind_weights(Model& model, const families::Family& family, DType format, const Checkpoint& checkpoint,
                     std::vector<std::string>& unknown);

}  // namespace signalbox::loaders
