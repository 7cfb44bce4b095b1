// What each expert gives on the average: the mean of weight x output over the tokens that selected it.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"

namespace signalbox::eval {

class MeanContributions {
 public:
  // Runs the jobs, of which nothing is generated, unedited. `layers`: absolute, each with a router. Sums are in double,
  // over jobs in order.
  MeanContributions(const engine::Session& session, const std::vector<engine::Job>& jobs,
                    const std::vector<int32_t>& layers);
  // [d_model]. Throws Error naming layer and expert where no reference token selected it.
  const std::vector<double>& of(int32_t layer, int32_t expert) const;

 private:
  struct Sum {
    std::vector<double> mean;
    int64_t n = 0;
  };
  std::map<std::pair<int32_t, int32_t>, Sum> sums_;
};

}  // namespace signalbox::eval
