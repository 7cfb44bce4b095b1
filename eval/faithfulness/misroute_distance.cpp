#include "eval/faithfulness/misroute_distance.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/no_number.h"

namespace signalbox::eval {

namespace {

bool holds(std::span<const int32_t> ids, int32_t id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

// Sum of softmax(logits) over the experts of `ids`.
double mass(std::span<const float> logits, std::span<const int32_t> ids) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double all = 0, chosen = 0;
  for (const float logit : logits) all += std::exp(logit - most);
  for (const int32_t id : ids)
    if (id >= 0) chosen += std::exp(logits[static_cast<size_t>(id)] - most);
  return chosen / all;
}

}  // namespace

MisrouteDistances::MisrouteDistances(const ModelShape& shape, std::vector<std::pair<int64_t, int64_t>> rows)
    : layers_(shape.moe_layers()), ranges_(std::move(rows)), batch_(layers_.size()), sums_(ranges_.size()) {}

MisrouteDistance MisrouteDistances::of(int64_t sample) const {
  const Sum& sum = sums_.at(static_cast<size_t>(sample));
  if (sum.tokens == 0) return {0, no_number, no_number};
  const double n = static_cast<double>(sum.tokens) * static_cast<double>(layers_.size());
  return {sum.tokens, sum.replaced / n, sum.mass_lost / n};
}

bool MisrouteDistances::wants(Point point, int32_t layer) const {
  return (point == Point::router_ids || point == Point::router_logits) &&
         std::binary_search(layers_.begin(), layers_.end(), layer);
}

void MisrouteDistances::begin(const StepRows& rows) {
  rows_.clear();
  for (const RowRange& range : rows.ranges) {
    const auto& [begin, end] = ranges_.at(static_cast<size_t>(range.sample));
    for (int64_t r = std::max(begin, range.first_row); r < std::min(end, range.first_row + range.n_rows); ++r)
      rows_.push_back({range.batch_row + r - range.first_row, range.sample});
  }
}

void MisrouteDistances::take(Point point, int32_t layer, const float* data, int64_t width) {
  if (point != Point::router_logits) return;
  Layer& into = batch_[static_cast<size_t>(std::lower_bound(layers_.begin(), layers_.end(), layer) - layers_.begin())];
  into.n_experts = width;
  into.logits.clear();
  for (const Row& row : rows_)
    into.logits.insert(into.logits.end(), data + row.batch_row * width, data + (row.batch_row + 1) * width);
}

void MisrouteDistances::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  Layer& into = batch_[static_cast<size_t>(std::lower_bound(layers_.begin(), layers_.end(), layer) - layers_.begin())];
  into.n_slots = n_slots;
  into.ids.clear();
  into.original.clear();
  const int32_t* chosen = original_ids ? original_ids : ids;
  for (const Row& row : rows_) {
    into.ids.insert(into.ids.end(), ids + row.batch_row * n_slots, ids + (row.batch_row + 1) * n_slots);
    into.original.insert(into.original.end(), chosen + row.batch_row * n_slots, chosen + (row.batch_row + 1) * n_slots);
  }
}

void MisrouteDistances::end() {
  for (size_t r = 0; r < rows_.size(); ++r) {
    bool hit = false;
    Sum& sum = sums_[static_cast<size_t>(rows_[r].sample)];
    for (const Layer& layer : batch_) {
      const auto row = [&](const auto& list, int64_t width) {
        return std::span(list).subspan(r * static_cast<size_t>(width), static_cast<size_t>(width));
      };
      const auto ids = row(layer.ids, layer.n_slots), original = row(layer.original, layer.n_slots);
      int64_t chosen = 0, gone = 0;
      for (const int32_t id : original) {
        if (id < 0) continue;
        ++chosen;
        gone += !holds(ids, id);
      }
      const bool more = std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return !holds(original, id); });
      if (gone == 0 && !more) continue;
      hit = true;
      if (chosen > 0) sum.replaced += static_cast<double>(gone) / static_cast<double>(chosen);
      const auto logits = row(layer.logits, layer.n_experts);
      sum.mass_lost += mass(logits, original) - mass(logits, ids);
    }
    sum.tokens += hit;
  }
}

bool TwoSinks::wants(Point point, int32_t layer) const {
  return sinks_[0]->wants(point, layer) || sinks_[1]->wants(point, layer);
}

void TwoSinks::begin(const StepRows& rows) {
  for (ProbeSink* sink : sinks_) sink->begin(rows);
}

void TwoSinks::take(Point point, int32_t layer, const float* data, int64_t width) {
  for (ProbeSink* sink : sinks_)
    if (sink->wants(point, layer)) sink->take(point, layer, data, width);
}

void TwoSinks::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  for (ProbeSink* sink : sinks_)
    if (sink->wants(Point::router_ids, layer)) sink->take_ids(layer, ids, original_ids, n_slots);
}

void TwoSinks::end() {
  for (ProbeSink* sink : sinks_) sink->end();
}

void TwoSinks::abandon() {
  for (ProbeSink* sink : sinks_) sink->abandon();
}

}  // namespace signalbox::eval
