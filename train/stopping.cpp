#include "train/stopping.h"

#include <numeric>

#include "base/error.h"
#include "eval/statistics/paired.h"

namespace signalbox::train {

Stopping::Stopping(const Settings& settings, std::vector<double> counts)
    : settings_(settings), counts_(std::move(counts)) {}

Stopping::Look Stopping::look(int64_t step, std::span<const double> sums) {
  Look look;
  look.step = step;
  look.loss = std::accumulate(sums.begin(), sums.end(), 0.0) / std::accumulate(counts_.begin(), counts_.end(), 0.0);
  const bool first = kept_.empty();
  if (first) kept_.assign(sums.begin(), sums.end());
  ClusteredValues changes;
  for (size_t i = 0; i < sums.size(); ++i) changes.sums.push_back(sums[i] - kept_[i]);
  changes.counts = counts_;
  look.change = bootstrap_means({&changes, 1}, settings_.seed, default_resamples, settings_.threads).front();
  look.kept = first || look.change.ci.hi < 0;
  if (look.kept) kept_.assign(sums.begin(), sums.end());
  misses_ = look.kept ? 0 : misses_ + 1;
  look.best = first || look.loss < best_;
  if (look.best) {
    best_ = look.loss;
    best_step_ = step;
  }
  reached_ = settings_.target && look.loss <= *settings_.target;
  return look;
}

std::vector<double> Stopping::state() const {
  std::vector<double> state = {best_, static_cast<double>(best_step_), static_cast<double>(misses_),
                               static_cast<double>(reached_)};
  state.insert(state.end(), kept_.begin(), kept_.end());
  return state;
}

void Stopping::restore(std::span<const double> state) {
  if (state.size() != 4 && state.size() != 4 + counts_.size())
    throw Error("state", "expected losses of " + std::to_string(counts_.size()) + " records to stop by, found " +
                             std::to_string(state.size()) + " numbers");
  best_ = state[0];
  best_step_ = static_cast<int64_t>(state[1]);
  misses_ = static_cast<int64_t>(state[2]);
  reached_ = state[3] != 0;
  kept_.assign(state.begin() + 4, state.end());
}

}  // namespace signalbox::train
