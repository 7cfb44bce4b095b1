// A row of a router that takes the place of another one: scaled and shifted until the expert is selected by as many
// tokens, and weighs as much where it is selected, as the one before it.
//
//   logit_t = alpha (row . x_t - m u_t) + beta u_t,   m = mean of row . x_t
//
// u_t is 1 where the router has biases. Elsewhere u_t = v . x_t with the v of the least squares to 1 on these tokens,
// so that the two numbers stand in the row itself: alpha row + (beta - alpha m) v. For each alpha, beta follows from
// the share of tokens by bisection; alpha from the mean weight, the nearest crossing to where the spread of logits is
// that of the row before. The routes are made by the router's own rule, groups and biases of the choice included.
#pragma once
#include <cstdint>
#include <vector>

#include "base/no_number.h"
#include "base/thread_pool.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "kernels/backend.h"
#include "train/namespaces.h"

namespace signalbox::train {

// How an expert is chosen by some tokens.
struct RouterUse {
  int64_t selected = 0, tokens = 0;
  double weight = no_number;  // mean applied weight over those that select it
  double share() const { return tokens > 0 ? static_cast<double>(selected) / static_cast<double>(tokens) : no_number; }
};

class RouterCalibration {
 public:
  // x [n, d_model]: what the layer's router reads. `weights`: of the layer, in host memory; `backend`: a CPU.
  RouterCalibration(Backend& backend, const Model& model, const MoeWeights& weights, int32_t layer, int32_t expert,
                    const std::vector<float>& x, ThreadPool& pool);

  RouterUse before() const { return before_; }
  struct Row {
    std::vector<double> row;  // [d_model]
    double bias = 0;          // where the router has biases
    double alpha = 1, beta = 0;
    double offset_error = 0;  // root mean square of u - 1
    bool reached = false;     // share to one token, mean weight to 1e-3 of itself
  };
  // Throws Error naming --router where no token selects the expert that is replaced.
  Row fitted(const std::vector<double>& row);
  // With a layer's router as it is stored.
  RouterUse use_of(const MoeWeights& weights);

 private:
  RouterUse use(const std::vector<float>& logits);
  RouterUse with(double alpha, double beta);
  double edge(double alpha, int64_t wanted);  // the least beta with which so many tokens select it
  double shift_for(double alpha);

  Backend& backend_;
  const MoeWeights& weights_;
  const Router& router_;
  int32_t layer_, expert_;
  const std::vector<float>& x_;
  ThreadPool& pool_;
  int64_t n_ = 0, d_ = 0;
  std::vector<float> logits_;        // [n, n_experts]
  std::vector<double> varying_, u_;  // [n]
  RouterUse before_;
};

}  // namespace signalbox::train
