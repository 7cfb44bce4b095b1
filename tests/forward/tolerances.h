// Tolerances of the forward tests, each with its reason.
#pragma once

namespace signalbox::test {

// f32 against f32 in another order of summation, values of order 1 to 20 over at most 4 layers. Measured: see
// tests/goldens/README.md; an f32 rounding error at these sizes is about 1e-6, and softmax and norms amplify it.
constexpr double forward_tolerance = 2e-4;

// Edited routes can make the residual stream several times larger than in the unedited run, and weights of up to the
// routed scaling factor (16).
constexpr double edited_tolerance = 2e-3;
constexpr double edited_weight_tolerance = 5e-4;

}  // namespace signalbox::test
