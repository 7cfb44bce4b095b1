// Recorded activations as edits read them: the trace of a file (trace.h), or a store in memory (activation_store.h).
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::probes {

// Rows of all samples, one after the other; a row is a token. Tensors have the names and the shapes that they have in a
// trace (docs/trace.md).
class Recording {
 public:
  virtual ~Recording() = default;
  // Where it lies, for messages: a file, or memory:NAME.
  virtual const std::string& where() const = 0;

  virtual int64_t n_tokens() const = 0;
  virtual int32_t n_experts() const = 0;
  virtual int32_t n_active() const = 0;                     // of the model; routes have n_slots() >= n_active() slots
  virtual int32_t n_slots() const = 0;                      // of recorded routes; 0 when none are recorded
  virtual const std::vector<int32_t>& layers() const = 0;   // recorded layers with a router, ascending
  std::optional<int32_t> layer_index(int32_t layer) const;  // where a layer stands in layers()

  struct Rows {
    int64_t begin = 0, end = 0;
    int64_t size() const { return end - begin; }
  };
  virtual Rows rows(int64_t sample) const = 0;
  // The nth sample (from 0) of the record with this id.
  virtual std::optional<int64_t> find_sample(std::string_view id, int64_t nth = 0) const = 0;
  virtual int64_t count_samples(std::string_view id) const = 0;
  virtual std::vector<int32_t> positions(Rows rows) const = 0;

  virtual bool has(std::string_view tensor) const = 0;
  virtual std::vector<int64_t> tensor_shape(std::string_view tensor) const = 0;  // [T, ...]
  // Elements of one row.
  int64_t tensor_width(std::string_view tensor) const;

  // Routes as applied: [rows, L, n_slots], -1 = unused slot.
  virtual std::vector<int32_t> ids(Rows rows) const = 0;
  std::vector<float> weights(Rows rows) const { return floats("router.weights", rows); }
  // Rows of a tensor of floats.
  virtual std::vector<float> floats(std::string_view tensor, Rows rows) const = 0;
  // The rows in place, where they lie there as f32; else null. Valid as long as the recording lives.
  virtual const float* floats_in_place(std::string_view tensor, Rows rows) const = 0;
};

}  // namespace signalbox::probes
