// Tolerances of the forward tests, each with its reason.
#pragma once

namespace signalbox::test {

// f32 against f32 in another order of summation, values of order 1 to 20 over at most 4 layers. Measured: see
// tests/goldens/README.md; an f32 rounding error at these sizes is about 1e-6, and softmax and norms amplify it.
constexpr double forward_tolerance = 2e-4;

}  // namespace signalbox::test
