// Edits of points: what the host writes between the ops of a step (docs/edits.md: ablate, add, patch).
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "engine/batch.h"
#include "kernels/backend.h"

namespace signalbox::engine {

class PointWrites {
 public:
  explicit PointWrites(Backend& backend) : backend_(backend) {}

  // A step begins. Both are looked at until end().
  void begin(const Batch& batch, const ActiveEdits& edits);
  void end() { batch_ = nullptr; }
  // Whether the step wrote anything of this token at any point; valid until the next begin().
  bool wrote(int64_t token) const { return !wrote_.empty() && wrote_[static_cast<size_t>(token)]; }
  // Whether any sequence of the step writes to points: the host then stops at every point.
  bool any() const { return batch_ && edits_->points(); }

  // Whether any sequence of the step writes to this one.
  bool at(Point point, int64_t layer) const;

  // Applies the step's edits to x [n_tokens * n_slots, width] at `point` of `layer` (-1: not of a layer). `route`: that
  // of this layer, once its router has run (else without ids); edits by expert and by margin look at it. Throws Error,
  // naming edit, record and position, where a recording holds no value.
  void write(Point point, int64_t layer, Tensor x, const Route& route, int32_t n_slots) {
    write(point, layer, x, route, n_slots, false);
  }
  // The same where a token's row is the one that it has in the cache: x [rows of the cache, width].
  void write_cached(Point point, int64_t layer, Tensor x) { write(point, layer, x, {}, 1, true); }
  // The adjoint of a write, of the same step: d [n_tokens * n_slots, width] becomes 0 where a value was set; what was
  // added is a constant. A point in the cache has its rows by token here.
  void pull(Point point, int64_t layer, Tensor d, const Route& route, int32_t n_slots);

 private:
  void write(Point point, int64_t layer, Tensor x, const Route& route, int32_t n_slots, bool cached);
  // Calls act(edit, rows, value_rows) for each edit of the point: rows of x that it acts on.
  template <class Act>
  void for_edits(Point point, int64_t layer, const Route& route, int32_t n_slots, bool cached, Act act);
  void fetch_route(int64_t layer, const Route& route);

  Backend& backend_;
  const Batch* batch_ = nullptr;  // between begin() and end()
  const ActiveEdits* edits_ = nullptr;
  std::vector<bool> wrote_;     // [n_tokens]; empty: no sequence writes to points
  int64_t fetched_ = -1;        // layer whose route stands in ids_ and margins_
  std::vector<int32_t> ids_;    // [n_tokens, n_slots]
  std::vector<float> margins_;  // [n_tokens]
};

}  // namespace signalbox::engine
