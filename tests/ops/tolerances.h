// What the ops are held to, against a naive computation in double. A reason stands in each row.
#pragma once

namespace signalbox::test {

// |got - want| <= absolute + relative * magnitude, where magnitude is the sum of the absolute values of the terms for
// reductions (what rounding errors are proportional to) and |want| elsewhere.
struct Tolerance {
  double absolute, relative;
};

namespace tolerance {

// One fused multiply-add a term and lane, then four additions: k / 16 + 4 roundings of 2^-24, for k up to 4096, but
// roundings are random: a twentieth of the bound has never been seen to be passed.
constexpr Tolerance matmul = {1e-30, 1e-6};
// A matmul, then exp within 2 ulp, an addition, a division and a product.
constexpr Tolerance activation = {1e-7, 3e-6};
// A sum of squares, a square root, a division and two products: half of the sum's error, and four roundings.
constexpr Tolerance rmsnorm = {1e-30, 1e-6};
// Scores carry a matmul's error times |score| into the exponent; then a weighted mean of values.
constexpr Tolerance attention = {1e-6, 5e-6};
// One rounding or two.
constexpr Tolerance elementwise = {1e-30, 2.5e-7};
// exp in vectors: under 2 ulp of 2^-23 relative; subnormal results round to a multiple of 2^-149.
constexpr Tolerance exponential = {1.5e-45, 2.4e-7};
// Router weights: exp and the sum are rounded once each, then a division, a renormalisation and a scale.
constexpr Tolerance router_weight = {1e-30, 1e-6};
// The difference of two scores of groups, each of at most two such weights and biases, which are at most 2 or so.
constexpr Tolerance router_group_margin = {2e-6, 0};
// A score's error in the exponent (as for attention), exp, a sum in double and a product.
constexpr Tolerance attention_pattern = {1e-7, 5e-6};

}  // namespace tolerance
}  // namespace signalbox::test
