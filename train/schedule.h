// How the learning rate goes over the steps of a training.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "train/namespaces.h"

namespace signalbox::train {

enum class Shape : uint8_t { constant, linear, cosine };
// Throws UsageError that begins with `where` for any other name.
Shape parse_shape(std::string_view name, const std::string& where);
std::string_view shape_name(Shape shape);

// As transformers' get_constant_schedule_with_warmup, get_linear_schedule_with_warmup and
// get_cosine_schedule_with_warmup (get_cosine_with_min_lr_schedule_with_warmup where `end` > 0): in the warm-up the
// first step has the rate 0.
struct Schedule {
  Shape shape = Shape::constant;
  int64_t warmup = 0, steps = 1;
  double end = 0;  // what is left of the rate at the end, as a share; not of a constant one
  // The factor of the rate for step `step`, from 1.
  double factor(int64_t step) const;
};

}  // namespace signalbox::train
