#include "engine/point_writes.h"

#include <algorithm>
#include <cmath>

namespace signalbox::engine {

void PointWrites::begin(const Batch& batch, const ActiveEdits& edits) {
  batch_ = &batch;
  edits_ = &edits;
  fetched_ = -1;
  wrote_.assign(edits.points() ? static_cast<size_t>(batch.n_tokens()) : 0, false);
}

void PointWrites::fetch_route(int64_t layer, const Route& route) {
  if (fetched_ == layer) return;
  const size_t n_tokens = static_cast<size_t>(batch_->n_tokens());
  ids_.resize(n_tokens * static_cast<size_t>(route.n_slots));
  margins_.resize(n_tokens);
  backend_.download(ids_.data(), route.ids, ids_.size() * sizeof(int32_t));
  backend_.download(margins_.data(), route.margin, margins_.size() * sizeof(float));
  fetched_ = layer;
}

bool PointWrites::at(Point point, int64_t layer) const {
  if (!any()) return false;
  for (const BatchSequence& sequence : batch_->members)
    if (sequence.edits && !sequence.edits->point_edits(point, static_cast<int32_t>(layer)).empty()) return true;
  return false;
}

template <class Act>
void PointWrites::for_edits(Point point, int64_t layer, const Route& route, int32_t n_slots, bool cached, Act act) {
  const bool per_slot = point_info(point).slots();
  std::vector<int32_t> rows, value_rows;
  for (const BatchSequence& sequence : batch_->members) {
    if (!sequence.edits) continue;
    for (const PointEdit& edit : sequence.edits->point_edits(point, static_cast<int32_t>(layer))) {
      const bool by_margin = route.ids && !std::isinf(edit.margin_below);
      if (per_slot || by_margin) fetch_route(layer, route);
      rows.clear();
      value_rows.clear();
      for (int64_t t = sequence.first_row; t < sequence.first_row + sequence.n_rows; ++t) {
        if (!edits_->act(t, edit.edit)) continue;
        if (by_margin && margins_[t] >= edit.margin_below) continue;
        const int64_t row = cached ? batch_->kv_rows[t] : t * n_slots;
        for (int32_t i = 0; i < n_slots; ++i) {
          const int32_t expert = per_slot ? ids_[t * n_slots + i] : 0;
          if (per_slot && (expert < 0 ||
                           !(edit.all_experts || std::binary_search(edit.experts.begin(), edit.experts.end(), expert))))
            continue;
          rows.push_back(static_cast<int32_t>(row + i));
          wrote_[static_cast<size_t>(t)] = true;
          value_rows.push_back(static_cast<int32_t>(edit.value_row(batch_->positions[t], i, expert)));
        }
      }
      if (!rows.empty()) act(edit, rows, value_rows);
    }
  }
}

void PointWrites::write(Point point, int64_t layer, Tensor x, const Route& route, int32_t n_slots, bool cached) {
  for_edits(point, layer, route, n_slots, cached,
            [&](const PointEdit& edit, const std::vector<int32_t>& rows, const std::vector<int32_t>& value_rows) {
              const Tensor values(const_cast<float*>(edit.values), edit.n_values, edit.width);  // read only
              backend_.edit_rows(x, rows, values, value_rows, edit.columns, edit.kind == PointEdit::Kind::add,
                                 edit.scale);
            });
}

void PointWrites::pull(Point point, int64_t layer, Tensor d, const Route& route, int32_t n_slots) {
  if (!at(point, layer)) return;
  std::vector<float> zeros(static_cast<size_t>(d.cols), 0.f);
  for_edits(point, layer, route, n_slots, false,
            [&](const PointEdit& edit, const std::vector<int32_t>& rows, const std::vector<int32_t>&) {
              if (edit.kind == PointEdit::Kind::add) return;
              const std::vector<int32_t> first(rows.size(), 0);
              backend_.edit_rows(d, rows, Tensor(zeros.data(), 1, d.cols), first, edit.columns, false, 1.f);
            });
}

}  // namespace signalbox::engine
