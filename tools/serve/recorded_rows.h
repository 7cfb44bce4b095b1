// Rows of probe points that requests ask for: taken from the engine's one sink, kept by job, given out as tensors.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "probes/points.h"
#include "probes/sink.h"

namespace signalbox::tools {

// A tensor as an answer has it.
struct AnswerTensor {
  std::string name, dtype;  // "U8", "U16", "F32"
  std::vector<int64_t> shape;
  std::string bytes;  // little-endian
};
// {"dtype","shape","data"}: base64, or nested lists of numbers.
json::Value tensor_json(const AnswerTensor& tensor, bool as_lists);

// The rows of one job: they come on the thread of the engine, and are read on others.
class RecordedRows {
 public:
  // `n_slots`: of its routes. `edited`: original ids are kept too.
  RecordedRows(const ModelShape& shape, PointSet points, int32_t n_slots, bool edited);
  // Without rows, for routes of so many slots.
  std::shared_ptr<RecordedRows> empty_like(int32_t n_slots) const {
    return std::make_shared<RecordedRows>(shape_, points_, n_slots, true);
  }

  const PointSet& points() const { return points_; }
  int64_t n_rows() const;  // complete ones
  size_t bytes() const;    // that they take, about
  const std::vector<int32_t>& layers() const { return layers_; }
  // Those of these layers and, where `only` has some, among them. Throws Error naming one that has no rows here.
  std::vector<int32_t> layers_among(const std::vector<int32_t>& only) const;
  // Rows [begin, end) of every point, named and shaped as in a trace; with `only`, of points of these layers alone.
  std::vector<AnswerTensor> tensors(int64_t begin, int64_t end, const std::vector<int32_t>& only = {}) const;
  // Rows up to `end` that others ran for this job, the first of them at position `first` of theirs: of the same points
  // and no fewer slots. Does nothing where they are not those that come next here.
  void start_from(const RecordedRows& others, int64_t first, int64_t end);

  void take(Point point, int32_t layer, const float* row, int64_t width, int64_t n_slots);
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots);
  void end_rows(int64_t n);

 private:
  AnswerTensor ids_tensor(const std::string& name, const std::map<int32_t, std::vector<int32_t>>& of_layer,
                          const std::vector<int32_t>& layers, int64_t begin, int64_t end) const;
  void put_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots);
  void put(Point point, int32_t layer, const float* row, int64_t width, int64_t n_slots);
  const ModelShape& shape_;
  const PointSet points_;
  const int32_t n_slots_;
  const bool edited_;
  const std::vector<int32_t> layers_;
  mutable std::mutex mutex_;  // of what follows
  int64_t n_rows_ = 0;
  std::map<int32_t, std::vector<int32_t>> ids_, original_ids_;      // [layer] [rows, n_slots]
  std::map<std::pair<Point, int32_t>, std::vector<float>> values_;  // [point, layer] [rows, width]
};

// The sink of a scheduler: hands rows to the jobs that want them, by Job::index. Who adds a job flushes the scheduler
// before, since the list of what is wanted may grow.
class RowRouter : public ProbeSink {
 public:
  // Slots of the forward's routes.
  void set_slots(int64_t n) { n_slots_ = n; }
  void add(int64_t index, std::shared_ptr<RecordedRows> rows);
  void remove(int64_t index);
  bool empty() const { return jobs_.empty(); }
  // Samples [first, first + n) are what jobs begin with in common, recorded as for `like` with all slots there are.
  void expect_shared(int64_t first, int64_t n, const RecordedRows& like);
  void start_from(int64_t index, int64_t shared, int64_t end);
  void forget_shared(int64_t first);

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;
  void abandon() override { ranges_.clear(); }

 private:
  // What jobs of one group begin with in common, by sample.
  struct Shared {
    int64_t n = 0;
    std::shared_ptr<const RecordedRows> like;  // without rows
    struct Rows {
      int64_t first = 0;  // position of the first
      std::shared_ptr<RecordedRows> rows;
    };
    std::map<int64_t, Rows> of;
  };
  RecordedRows* find(int64_t index) const;
  Shared* shared_of(int64_t index);
  std::map<int64_t, std::shared_ptr<RecordedRows>> jobs_;
  std::map<int64_t, Shared> shared_;  // by their first sample
  std::vector<RowRange> ranges_;
  int64_t n_slots_ = 0;
};

}  // namespace signalbox::tools
