// Where the forward pass hands over what is recorded.
#pragma once
#include <cstdint>
#include <span>

#include "base/namespaces.h"
#include "probes/points.h"

namespace signalbox::probes {

// Consecutive rows of a batch that belong to one sample of the output.
struct RowRange {
  int64_t sample = 0;     // index in input order
  int64_t first_row = 0;  // row within that sample; a sample's rows arrive in order, without gaps
  int64_t n_rows = 0;
  int64_t batch_row = 0;  // where they begin in the batch
};

// The rows of one batch. Batch rows that no range names are not recorded; several ranges may name the same batch rows
// (samples that share a prompt's forward).
struct StepRows {
  int64_t n_rows = 0;  // of the batch
  std::span<const RowRange> ranges;
  const int32_t* tokens = nullptr;     // [n_rows]
  const int32_t* positions = nullptr;  // [n_rows]
  const uint8_t* phase = nullptr;      // [n_rows] 0 given, 1 generated; null: all given
  const uint32_t* spans = nullptr;     // [n_rows] bit i = member of span i; null: none
};

// A batch is begin, then each wanted point once in any order, then end; or, where the forward or the sink itself fails
// before that, abandon. Data is copied before a call returns.
class ProbeSink {
 public:
  virtual ~ProbeSink() = default;
  // Cheap. Constant over the life of the sink. Layer -1 for points that are not of a layer.
  virtual bool wants(Point point, int32_t layer) const = 0;
  virtual void begin(const StepRows& rows) = 0;
  // data [n_rows, width], row-major and contiguous, of all rows of the batch; width = n_slots * d for points that have
  // a row per slot. At attn.pattern data is [n_rows, n_heads, n_keys] where n_keys is the largest of the batch's
  // positions plus one, so width = n_heads * n_keys changes from batch to batch; keys that a row does not see hold 0.
  // Not for router_ids.
  virtual void take(Point point, int32_t layer, const float* data, int64_t width) = 0;
  // ids and original_ids [n_rows, n_slots], -1 = unused slot; original_ids may be null (they equal ids).
  virtual void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) = 0;
  virtual void end() = 0;
  // The batch at hand comes to nothing: its rows are lost, the next call is begin. Must not throw.
  virtual void abandon() {}
};

}  // namespace signalbox::probes
