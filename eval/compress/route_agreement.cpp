#include "eval/compress/route_agreement.h"

#include <algorithm>

#include "base/no_number.h"

namespace signalbox::eval {

namespace {

constexpr uint16_t unused = UINT16_MAX;

}  // namespace

RouteAgreement::RouteAgreement(const ModelShape& shape, const std::vector<Job>& jobs, std::vector<int64_t> examples)
    : layers_(shape.moe_layers()), n_slots_(shape.n_active()), examples_(std::move(examples)) {
  int64_t tokens = 0;
  for (const Job& job : jobs) {
    starts_.push_back(tokens);
    lengths_.push_back(job.n_given());
    tokens += job.n_given();
  }
  const auto cells = static_cast<size_t>(tokens) * layers_.size();
  ids_.assign(cells * static_cast<size_t>(n_slots_), unused);
  shares_.assign(cells, no_number);
}

void RouteAgreement::compare() {
  comparing_ = true;
  std::fill(shares_.begin(), shares_.end(), no_number);
}

int64_t RouteAgreement::place(int32_t layer) const {
  return std::lower_bound(layers_.begin(), layers_.end(), layer) - layers_.begin();
}

bool RouteAgreement::wants(Point point, int32_t layer) const {
  return point == Point::router_ids && std::binary_search(layers_.begin(), layers_.end(), layer);
}

void RouteAgreement::begin(const StepRows& rows) { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }

void RouteAgreement::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  for (const RowRange& range : ranges_) {
    for (int64_t r = 0; r < range.n_rows; ++r) {
      const auto job = static_cast<size_t>(range.sample);
      if (range.first_row + r >= lengths_[job]) continue;
      const int64_t token = starts_[job] + range.first_row + r;
      const auto cell = static_cast<size_t>(token) * layers_.size() + static_cast<size_t>(place(layer));
      const int32_t* now = ids + (range.batch_row + r) * n_slots;
      uint16_t* kept = ids_.data() + cell * static_cast<size_t>(n_slots_);
      if (!comparing_) {
        for (int64_t i = 0; i < std::min(n_slots, n_slots_); ++i)
          kept[i] = now[i] < 0 ? unused : static_cast<uint16_t>(now[i]);
        continue;
      }
      int64_t both = 0, all = 0;
      for (int64_t i = 0; i < n_slots_ && kept[i] != unused; ++i, ++all)
        both += std::find(now, now + n_slots, static_cast<int32_t>(kept[i])) != now + n_slots;
      shares_[cell] = all == 0 ? 1 : static_cast<double>(both) / static_cast<double>(all);
    }
  }
}

std::optional<MeanEstimate> RouteAgreement::estimate(uint64_t seed, int threads) const {
  if (!comparing_ || shares_.empty()) return std::nullopt;
  UnitValues values;
  for (size_t job = 0; job < starts_.size(); ++job) {
    const size_t first = static_cast<size_t>(starts_[job]) * layers_.size();
    const size_t n = static_cast<size_t>(lengths_[job]) * layers_.size();
    for (size_t i = first; i < first + n; ++i) values.add(shares_[i], examples_[job]);
  }
  const ClusteredValues columns[] = {values.clustered()};
  return bootstrap_means(columns, seed, default_resamples, threads).front();
}

}  // namespace signalbox::eval
