// When a training has learnt what it can: held-out records of its own, looked at between steps, decide it.
//
// The loss of each record is compared, record by record, with that under the weights that were kept last. Where the 95
// % interval of the change lies below 0 the weights at hand are kept in their place; two looks in a row without that,
// or a loss that is low enough, end the training. What comes out are the weights of the lowest loss of all looks.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "eval/statistics/resampling.h"
#include "train/namespaces.h"

namespace signalbox::train {

class Stopping {
 public:
  struct Settings {
    std::optional<double> target;  // a loss per token at which to end
    uint64_t seed = 0;             // of the bootstrap over records
    int threads = 1;
  };
  struct Look {
    int64_t step = 0;
    double loss = 0;
    MeanEstimate change;  // against the kept weights; 0 at the first look
    bool kept = false, best = false;
  };
  // `counts`: tokens of each record that count.
  Stopping(const Settings& settings, std::vector<double> counts);

  Look look(int64_t step, std::span<const double> sums);  // of each record: the sum over its tokens
  bool ended() const { return misses_ >= 2 || reached_; }
  bool reached_target() const { return reached_; }
  int64_t best_step() const { return best_step_; }

  // What goes on in another process.
  std::vector<double> state() const;
  void restore(std::span<const double> state);

 private:
  Settings settings_;
  std::vector<double> counts_, kept_;  // kept_: sums under the kept weights; empty before the first look
  double best_ = 0;
  int64_t best_step_ = 0, misses_ = 0;
  bool reached_ = false;
};

}  // namespace signalbox::train
