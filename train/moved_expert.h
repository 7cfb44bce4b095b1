// An expert, and a router's row, in the residual basis of another model (train/basis_map.h): with x_b the input's state
// before the norm's weight g,
//
//   W'_gate,up = W_gate,up diag(g_a) in diag(1 / g_b)      W'_down = scale out W_down      b'_down = scale out b_down
//
// and a row of the router as rows of W_gate. A dimension whose weight in b is 0 is read by nobody: its column is 0.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/weights.h"
#include "eval/compress/stored.h"
#include "train/basis_map.h"

namespace signalbox::train {

struct ExpertValues {
  int64_t d_ff = 0, d_model = 0;
  std::vector<double> gate, up, down;                 // [d_ff, d_model] twice, [d_model, d_ff]
  std::vector<double> gate_bias, up_bias, down_bias;  // empty: the experts have none
};

ExpertValues read_expert(const MoeWeights& weights, int32_t expert);

// weight_a, weight_b: of the norms before the experts, [d_a] and [d_b]. Without a map (none) the values as they are.
ExpertValues moved_expert(const ExpertValues& expert, const BasisMap& map, const std::vector<float>& weight_a,
                          const std::vector<float>& weight_b);
std::vector<double> moved_row(const std::vector<double>& row, const BasisMap& map, const std::vector<float>& weight_a,
                              const std::vector<float>& weight_b);

// The same function with more neurons, the new ones all 0.
ExpertValues padded_expert(ExpertValues expert, int64_t d_ff);

StoredExpert stored_expert(const ExpertValues& expert, const std::function<DType(Role)>& dtype);

// A layer of this one expert, in f32.
struct SingleExpert {
  explicit SingleExpert(const ExpertValues& expert);
  StoredExpert stored;
  MoeWeights weights;
};

// Why experts of layer a cannot stand in layer b, or be compared with its by weights: another activation, biases in one
// of the two only. Empty: nothing is in the way.
std::string experts_misfit(const Model& a, const Moe& moe_a, const Model& b, const Moe& moe_b);

}  // namespace signalbox::train
