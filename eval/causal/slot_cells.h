// Cells of one record's map: a slot taken out, the layers above run again for the tokens from its own on (map.h).
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/kept_streams.h"
#include "engine/session.h"
#include "eval/causal/map.h"

namespace signalbox::eval {

struct SlotCell {
  size_t layer = 0;  // index into MapRequest::layers
  int64_t position = 0, slot = 0;
};

class SlotCells {
 public:
  // Runs the record unedited.
  SlotCells(const engine::Session& session, const engine::Job& job, const MetricRows& rows, const MapRequest& request);

  double base() const { return base_; }
  const std::vector<int32_t>& experts() const { return ids_; }  // [T, L, k] of the map's layers; -1: unused slot
  // False where there is nothing to take out: an unused slot, or one of weight 0, which has no output with which it
  // would give its mean.
  bool can_take(const SlotCell& cell) const;

  // Runs cells, those of one layer together; done(i, effect, flips) as they finish, in order. False when interrupted.
  using Done = std::function<void(size_t i, float effect, int32_t flips)>;
  bool run(std::span<const SlotCell> cells, const Done& done);

 private:
  void run_base();
  // The sequence itself, and the cells of one step: one of r rows touches at most r / block_size + 2 blocks. A cell
  // alone may have all rows.
  int64_t blocks() const;
  std::shared_ptr<const probes::EditPlan> plan(const SlotCell& cell) const;
  std::vector<float> run_own_layer(std::span<const SlotCell> cells, size_t first, const Done& done);
  void run_step(std::span<const SlotCell> cells, size_t first, const Done& done);
  size_t at(const SlotCell& cell) const;
  kernels::Tensor scratch(std::shared_ptr<void>& memory, int64_t rows, int64_t cols) const;

  const engine::Session& session_;
  kernels::Backend& backend_;
  const engine::Job& job_;
  const MetricRows& rows_;
  const MapRequest& request_;
  std::vector<int32_t> routed_;  // layers of the model with a router
  int64_t n_tokens_, n_slots_;
  engine::KvPool pool_;
  engine::SequenceCache sequence_;
  engine::Forward whole_;
  engine::KeptStreams streams_;
  engine::Forward cells_;
  double base_ = 0;
  std::vector<int32_t> ids_;     // [T, L, k]
  std::vector<float> weights_;   // [T, L, k]
  std::vector<int32_t> routes_;  // [T, routed, k] ascending within a route
  std::shared_ptr<void> logits_memory_;
  kernels::Tensor logits_;  // [n_rows, n_vocab] of the unedited run
};

}  // namespace signalbox::eval
