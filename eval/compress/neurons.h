// Experts as sets of neurons: what they compute does not depend on the order of the neurons, nor on how a factor is
// shared between a neuron's up row and its down column. Two experts are compared, and averaged, where these have been
// taken away.
//
// With hidden = act(gate x) * (up x): up_i c, down_i / c is the same neuron for every c != 0. The canonical form has
// |up_i| = 1, the factor in down_i. What is left of c is its sign: of each pair of neurons the sign counts at which
// their up and down agree better. Activations with a clamp or an offset of up (Activation::clamped) know the order
// alone.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace signalbox::eval {

// One expert, a row for each neuron, biases last in their row.
struct Neurons {
  int64_t n = 0, d_gate = 0, d_rest = 0;
  std::vector<float> gate;        // [n, d_gate]: gate_i (and its bias)
  std::vector<float> rest;        // [n, d_rest]: up_i (and its bias), down_i
  std::vector<double> up_length;  // [n] |up_i| as it was; 1 where only the order is free
  std::vector<float> down_bias;   // [d_model], or empty
  bool scales = false;            // the factor was taken away
  double square = 0;              // sum of squares of all of the above but up_length
};
Neurons read_neurons(const MoeWeights& weights, int32_t expert, const Activation& activation);

// neuron i of one expert goes with neuron of[i] of another, times sign[i] (1 or -1) of its up and down.
struct Alignment {
  std::vector<int32_t> of;
  std::vector<int8_t> sign;
  bool exact = true;
  // Cosine of the two, all parameters as one vector: 1 for the same function in another order and scale. NaN where one
  // is all zero.
  double similarity = 0;
};

// Up to so many neurons the assignment is the best one; beyond, each neuron of `a`, the longest first, takes the best
// that is free (a lower bound).
inline constexpr int64_t exact_neurons = 4096;

// Neurons go together so that the sum of <gate, gate'> + |<up, up'> + <down, down'>| is the largest (without | | where
// only the order is free). `backend`: a CPU.
Alignment align(const Neurons& a, const Neurons& b, Backend& backend, int64_t exact = exact_neurons);

// Products that align() takes: for estimates.
double align_products(int64_t d_ff, int64_t d_model);

// Threads that may align, or average, experts of this model at the same time: each has two of them in memory.
int alignment_workers(const Model& model, int threads);

}  // namespace signalbox::eval
