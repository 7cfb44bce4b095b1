// The mathematics of a model's layers, written once for all families and backends. Each function returns what it made;
// nothing is found by name that another function left behind.
#pragma once
#include <cstdint>
#include <span>

#include "base/namespaces.h"
#include "engine/buffers.h"
#include "engine/low_rank.h"
#include "engine/model.h"
#include "engine/point_writes.h"
#include "engine/recorder.h"
#include "engine/step.h"
#include "engine/weights.h"
#include "probes/points.h"

namespace signalbox::engine::layers {

// What the layers of one step work with.
struct Pass {
  Backend& backend;
  const Model& model;
  const Weights& weights;
  int32_t n_slots;  // of every route of the step
  const Step& step;
  Buffers& buffers;
  PointWrites& writes;
  const LowRank& low_rank;
  Recorder& recorder;

  // Whether the host stops at a point of this step. A fused op that would skip it is then not used.
  bool stops_at(Point point, int64_t layer) const { return writes.any() || recorder.wants(point, layer); }
  // The one way to a point: a write first, then the read, so that a record holds what the later layers saw. `route`:
  // that of the same layer where its router has run.
  void at(Point point, int64_t layer, Tensor x, const Route& route = {}, int32_t n_slots = 1) const {
    if (writes.any()) writes.write(point, layer, x, route, n_slots);
    recorder.take(point, layer, x, n_slots);
  }
};

// The residual stream between two blocks. `delta`, the output of the last one, is not yet added to x: a device adds it
// and norms the sum in one op. Absent before the first block.
struct Stream {
  Tensor x, delta;      // [n_tokens, d_model]
  Route route;          // of the block that made delta; no ids where it has no router
  bool passed = false;  // x is what a forward left here: its points have been read and written
};

Stream embed(const Pass& pass);

// Layer `l` of the model. Its keys and values go into the cache of the step's sequences.
Stream layer(const Pass& pass, int64_t l, Stream in);

// The last addition, the final norm, and the logits of the step's logit_rows into `out` [n_logits, n_vocab] (absent:
// none are wanted); then the tokens and the log p that the step asks for.
void head(const Pass& pass, Stream in, Tensor out);

// The parts of a layer. h [n_tokens, d_model] operand: the normed stream. Both give the block's output [n_tokens,
// d_model], with its point read and written.
Tensor attention(const Pass& pass, int64_t l, Tensor h);
struct FeedForward {
  Tensor out;
  Route route;  // no ids in a dense layer
};
FeedForward feed_forward(const Pass& pass, int64_t l, Tensor h);

}  // namespace signalbox::engine::layers
