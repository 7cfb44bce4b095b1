// Activations of a run, kept in memory: what a trace is to a file. Edits can take their values from it (edit_memory.h).
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "probes/points.h"
#include "probes/recording.h"
#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox::probes {

// First a sink: records `points` of a run. Then, after finish(), a recording that does not change any more, and that
// several threads may read. Takes 4 bytes per value: [tokens, width] of each point; twice that of the largest point
// while finish() puts the samples in order.
class ActivationStore final : public ProbeSink, public Recording {
 public:
  // `name`: what edits call it, as memory:NAME. `n_slots`: of routes, EditPlan::max_slots() of the run, or 0 for
  // shape.n_active().
  ActivationStore(std::string name, ModelShape shape, PointSet points, int32_t n_slots = 0);

  bool wants(Point point, int32_t layer) const override { return points_.wants(point, layer); }
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override {}
  void abandon() override { lost_ = true; }

  // ids[i] names sample i (ids repeat where a record has several samples). No row may follow. Throws Error when there
  // are not as many as samples, and after a batch that was abandoned: its rows are missing.
  void finish(std::span<const std::string> ids);
  bool finished() const { return finished_; }

  // The rest is for a finished store. A tensor that is not there, or a row beyond the last, is an Error.
  const std::string& name() const { return name_; }
  const std::string& where() const override { return where_; }
  int64_t n_tokens() const override { return offsets_.back(); }
  int64_t n_samples() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int32_t n_experts() const override { return shape_.n_experts(); }
  int32_t n_active() const override { return shape_.n_active(); }
  int32_t n_slots() const override { return routes_ ? n_slots_ : 0; }
  const std::vector<int32_t>& layers() const override { return layers_; }
  Rows rows(int64_t sample) const override;
  std::optional<int64_t> find_sample(std::string_view id, int64_t nth = 0) const override;
  int64_t count_samples(std::string_view id) const override;
  std::vector<int32_t> positions(Rows rows) const override;
  bool has(std::string_view tensor) const override { return tensors_.contains(tensor); }
  std::vector<int64_t> tensor_shape(std::string_view tensor) const override;
  std::vector<int32_t> ids(Rows rows) const override;
  std::vector<float> floats(std::string_view tensor, Rows rows) const override;
  const float* floats_in_place(std::string_view tensor, Rows rows) const override;
  // What a point held at one position of a sample; of all its slots where it has some.
  std::span<const float> row(Point point, int32_t layer, int64_t sample, int64_t position) const;

 private:
  // Rows of one width, by sample until finish(), then all of them.
  template <class T>
  struct Column {
    std::vector<int64_t> tail;  // shape of a row
    int64_t width = 1;
    std::vector<std::vector<T>> samples;
    std::vector<T> all;
    void put(const RowRange& range, int64_t at, const T* data, int64_t n);
    void join(size_t n_samples);
    // Rows that grow with the sample, attn.pattern: [heads, r + 1] for row r; then filled up to the longest sample.
    void put_growing(const RowRange& range, int64_t heads, const T* data, int64_t n_keys);
    void join_growing(const std::vector<int64_t>& offsets);
  };
  [[noreturn]] void fail(const std::string& reason) const;
  Column<float>& column(Point point, int32_t layer, int64_t width);
  int64_t stacked_at(int32_t layer, int64_t width) const;
  const Column<float>& at(std::string_view tensor) const;

  std::string name_, where_;
  ModelShape shape_;
  PointSet points_;
  int32_t n_slots_;
  std::vector<int32_t> layers_;
  std::vector<RowRange> ranges_;  // of the batch
  int64_t n_keys_ = 0;            // likewise: keys in a row of a pattern
  std::map<std::string, Column<float>, std::less<>> tensors_;
  Column<int32_t> ids_, positions_;
  bool routes_ = false, finished_ = false;
  bool lost_ = false;                   // rows of a batch that was abandoned
  std::vector<int64_t> offsets_ = {0};  // [samples + 1]
  std::map<std::string, std::vector<int64_t>, std::less<>> by_id_;
};

}  // namespace signalbox::probes
