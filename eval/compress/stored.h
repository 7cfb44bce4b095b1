// New values in the form that a checkpoint stores, and experts that take the places of others.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/changed_model.h"

namespace signalbox::eval {

using TensorOwners = std::vector<std::shared_ptr<const void>>;

// values [rows, cols] rounded to `dtype`: f32, f16, bf16, or blocks of mxfp4 (cols a multiple of 32).
Matrix stored_matrix(const std::vector<double>& values, int64_t rows, int64_t cols, DType dtype, TensorOwners& owners);
// f32 values that `dtype` can hold.
Vector stored_vector(const std::vector<double>& values, DType dtype, TensorOwners& owners);

// The tensors of one new expert. Biases: of experts that have some.
struct StoredExpert {
  Matrix gate, up, down;  // [d_ff, d_model] twice, [d_model, d_ff]
  Vector gate_bias, up_bias, down_bias;
  TensorOwners owners;
};

// The expert is replaced by a new one of the same shape.
void put_expert(ChangedModel& changed, int32_t layer, int32_t expert, const StoredExpert& with);
// The expert has from now on the tensors of another one of its layer, which was put.
void share_expert(ChangedModel& changed, int32_t layer, int32_t expert, int32_t with);

}  // namespace signalbox::eval
