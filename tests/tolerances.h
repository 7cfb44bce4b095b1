// What results are held to: one table, with a reason in each row.
#pragma once

namespace signalbox::test {

// |got - want| <= absolute + relative * magnitude, where magnitude is the sum of the absolute values of the terms for
// reductions on the CPU (what rounding errors are proportional to) and |want| elsewhere.
struct Tolerance {
  double absolute, relative;
};

namespace tolerance {

// ---- The ops of the CPU backend, against a naive computation in double (tests/ops).

// One fused multiply-add a term and lane, then four additions: k / 16 + 4 roundings of 2^-24, for k up to 4096, but
// roundings are random: a twentieth of the bound has never been seen to be passed.
constexpr Tolerance matmul = {1e-30, 1e-6};
// A matmul, then exp within 2 ulp, an addition, a division and a product.
constexpr Tolerance activation = {1e-7, 3e-6};
// A sum of squares, a square root, a division and two products: half of the sum's error, and four roundings.
constexpr Tolerance rmsnorm = {1e-30, 1e-6};
// Scores carry a matmul's error times |score| into the exponent; then a weighted mean of values.
constexpr Tolerance attention = {1e-6, 5e-6};
// Sums of products one after the other, of up to a few hundred terms: each rounds the sum so far. Of attention the
// terms carry a score's error in the exponent.
constexpr Tolerance adjoint = {1e-6, 1e-5};
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

// ---- The ops of a device, against the CPU backend on the same values (tests/device).

// Probabilities are rounded to bf16 (2^-9 of each term of a mean of values, at most 4.24 here), then the output.
constexpr Tolerance device_attention = {8.5e-3, 2e-3};

// The same formulas in double, rounded once; sums in another order may round the other way before two divisions.
constexpr Tolerance device_router_weight = {1e-30, 5e-7};
// The difference of two scores of groups, each of up to two scores and biases.
constexpr Tolerance device_group_margin = {2e-6, 0};
// Scores of up to 576 products of normal values in another order, which exp passes on, times a share of at most 1.
constexpr Tolerance device_pattern = {2e-6, 1e-4};
// Two f32 sums of up to 2304 products of normal values, in different orders.
constexpr Tolerance device_router_logits = {3e-5, 1e-6};

// The CPU's bits but for a double exp that may differ by its last bit before it is rounded to f32.
constexpr Tolerance device_sigmoid = {1e-30, 2.5e-7};
// Another order of the sum of squares, up to 16390 terms: sixteen roundings and the tree's, then three more.
constexpr Tolerance device_norm = {1e-30, 2e-6};
// A norm, then a rotation: the errors of both of a pair, whose values are at most 20.
constexpr Tolerance device_heads = {1e-5, 2e-6};
// The same, rounded to bf16: half of the last of eight bits.
constexpr Tolerance device_cached = {1e-5, 3.92e-3};
// Sums of doubles in another order, and exp within its last bit.
constexpr Tolerance device_log_prob = {1e-12, 1e-12};

// Two f32 sums of up to 520 products of normal values, in different orders; tensor cores cut off where the CPU rounds.
constexpr Tolerance device_matmul = {1e-4, 2e-6};
// The same, rounded to bf16: half of the last of eight bits.
constexpr Tolerance device_rounded_matmul = {1e-4, 3.92e-3};
// The product of two of those (one through a sigmoid), whose values are at most some fifty, rounded to bf16.
constexpr Tolerance device_hidden = {2e-3, 3.92e-3};

// Two f32 sums of k products of normal values, in different orders; the absolute error is times sqrt(k). Tensor cores
// cut off where the CPU rounds: a few units of 2^-23 of partial sums that grow with sqrt(k), a turn of 16 at a time.
constexpr Tolerance device_gemv = {4e-6, 2e-6};
// The same, rounded to bf16: half of the last of eight bits.
constexpr Tolerance device_gemv_rounded = {4e-6, 3.92e-3};
// The product of two of those, one through a sigmoid, rounded to bf16.
constexpr Tolerance device_gemv_hidden = {5e-5, 3.92e-3};

// ---- A whole forward in f32, against the reference implementation (tests/forward).

// f32 against f32 in another order of summation, values of order 1 to 20 over at most 4 layers. Measured: see
// tests/goldens/README.md; an f32 rounding error at these sizes is about 1e-6, and softmax and norms amplify it.
constexpr double forward = 2e-4;

// Edited routes can make the residual stream several times larger than in the unedited run, and weights of up to the
// routed scaling factor (16).
constexpr double edited = 2e-3;
constexpr double edited_weight = 5e-4;

// ---- A whole forward on a device, against the CPU backend (tests/device).

// A whole forward of up to four layers against the CPU in f32: each operand of a matrix product is rounded to bf16 (a
// relative error of 2^-9 at most, 2^-10.4 in the mean), some twenty in a row, and norms, softmax and products of gate
// and up pass errors on. Distance over length (measured: up to 0.017), and the largest single difference beyond 5 % of
// the value, over the root mean square (hidden states are products, with values of 50 times their root mean square).
constexpr double device_forward_relative = 0.025;
constexpr double device_forward_worst = 0.3;
// Log-probabilities of logits with errors of that size.
constexpr double log_prob = 0.05;
// A route may differ from the CPU's only where the CPU's own margin between chosen and not chosen logits was below
// this: the error of a logit, whose root mean square is about 1 here, is 0.012 times that, and two of them count.
constexpr double near_tie_margin = 0.05;

}  // namespace tolerance
}  // namespace signalbox::test
