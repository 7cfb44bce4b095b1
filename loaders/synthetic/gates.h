// Pairs of experts that say one of two things: the one writes + into reserved dimensions, the other -, and a token has
// exactly one of them. Whichever it is, the stream keeps its length, so that nothing but a reader of these dimensions
// can tell; their logits differ by a four-thousandth, so that both have the same weight.
//
// A gate is open or shut by what its layer's router reads (a flag that an earlier gate wrote), or always open and
// copies a flag: what it says then is content. Other experts of the layer are always selected (as many as the route
// still holds) or never.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "loaders/synthetic/circuit_spec.h"
#include "loaders/synthetic/reserved.h"

namespace signalbox::loaders::synthetic {

// A flag is +-flag_size times the embeddings' deviation: 1 / 4096 of the size of one other dimension.
inline constexpr double flag_size = 1.0 / 64;
// The constant of models with circuits: no vector of the size of a direction turns its sign.
inline constexpr double circuit_constant = 4;

struct Gate {
  int circuit = 0;  // whose it is
  ExpertSite site;
  int32_t instead = -1;              // the expert that is selected where site.expert is not
  std::vector<int64_t> selected_by;  // flags whose sum the router compares with `threshold` flags; empty: always open
  double threshold = 0;
  bool random_rows = false;     // the router's rows of both stay random: something else decides (a direction)
  int64_t copies = -1;          // the flag that is written on; -1: the constant
  std::vector<int64_t> writes;  // flags
  double write_size = flag_size;
  std::vector<double> vector;  // [d_model] added to them, in units of the embeddings' deviation; empty: none
};

class Gates {
 public:
  Gates(const Model& model, const Reserved& reserved) : model_(model), reserved_(reserved) {}

  // Chooses `instead` where it is -1. Throws Error beginning with `where` for a layer that is taken, a router that
  // selects all experts or limits groups.
  void add(Gate gate, const std::string& where);
  void set_vector(int32_t layer, std::vector<double> vector);  // of the gate in that layer
  const std::vector<Gate>& all() const { return gates_; }
  const Gate* in_layer(int64_t layer) const;

  // Overwrites rows first .. first + n of a tensor. `values` [n, cols].
  void apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const;

 private:
  void apply_router(const Gate& gate, const TensorPlace& slot, int64_t first, int64_t n, float* values) const;
  void apply_down(const Gate& gate, const TensorPlace& slot, int64_t first, int64_t n, float* values) const;

  const Model& model_;
  const Reserved& reserved_;
  std::vector<Gate> gates_;
};

}  // namespace signalbox::loaders::synthetic
