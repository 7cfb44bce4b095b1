// Rows of probe points that requests ask for: taken from the engine's one sink, kept by job, given out as tensors.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
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

// The rows of one job.
class RecordedRows {
 public:
  // `n_slots`: of its routes. `edited`: original ids are kept too.
  RecordedRows(const ModelShape& shape, PointSet points, int32_t n_slots, bool edited);

  const PointSet& points() const { return points_; }
  int64_t n_rows() const { return n_rows_; }  // complete ones
  const std::vector<int32_t>& layers() const { return layers_; }
  // Rows [begin, end) of every point, named and shaped as in a trace.
  std::vector<AnswerTensor> tensors(int64_t begin, int64_t end) const;

  void take(Point point, int32_t layer, const float* row, int64_t width, int64_t n_slots);
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots);
  void end_rows(int64_t n) { n_rows_ += n; }

 private:
  AnswerTensor ids_tensor(const std::string& name, const std::map<int32_t, std::vector<int32_t>>& of_layer,
                          int64_t begin, int64_t end) const;
  const ModelShape& shape_;
  PointSet points_;
  int32_t n_slots_;
  bool edited_;
  std::vector<int32_t> layers_;
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

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;
  void abandon() override { ranges_.clear(); }

 private:
  RecordedRows* find(int64_t index) const;
  std::map<int64_t, std::shared_ptr<RecordedRows>> jobs_;
  std::vector<RowRange> ranges_;
  int64_t n_slots_ = 0;
};

}  // namespace signalbox::tools
