// What a forward pass gives to its probes, kept in memory.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/forward.h"
#include "probes/sink.h"

namespace signalbox::test {

// Keeps every wanted point of every batch in memory: rows of one sample in order.
class MemorySink : public ProbeSink {
 public:
  explicit MemorySink(PointSet points) : points_(std::move(points)) {}
  struct Values {
    int64_t width = 0;
    std::vector<float> data;  // [rows, width]; ids as floats; attn.pattern: [n_heads, r + 1] for row r, width n_heads
    int64_t rows() const { return width ? static_cast<int64_t>(data.size()) / width : 0; }
  };
  // [sample][full point name]; "router.original_ids" has its own name
  std::map<int64_t, std::map<std::string, Values>> samples;

  bool wants(Point point, int32_t layer) const override { return points_.wants(point, layer); }
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override {}

 private:
  void append(const std::string& name, const float* data, int64_t width);
  PointSet points_;
  std::vector<RowRange> ranges_;
  int64_t n_keys_ = 0;
};

}  // namespace signalbox::test
