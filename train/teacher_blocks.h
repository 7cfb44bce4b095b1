// What a teacher's feed-forward layers read and answer, for a group of sequences.
#pragma once
#include <map>
#include <vector>

#include "probes/sink.h"
#include "train/namespaces.h"

namespace signalbox::train {

class TeacherBlocks final : public ProbeSink {
 public:
  TeacherBlocks(std::vector<int32_t> layers, int64_t d_model) : layers_(std::move(layers)), d_(d_model) {}

  bool wants(Point point, int32_t layer) const override {
    return (point == Point::expert_in || point == Point::moe_out) &&
           std::find(layers_.begin(), layers_.end(), layer) != layers_.end();
  }
  void begin(const StepRows& rows) override { n_ = rows.n_rows; }
  void take(Point point, int32_t layer, const float* data, int64_t) override {
    (point == Point::expert_in ? in_ : out_)[layer].assign(data, data + n_ * d_);
  }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}

  // Of the last group: [n_rows, d_model].
  int64_t n_rows() const { return n_; }
  std::vector<float>& in(int32_t layer) { return in_.at(layer); }
  std::vector<float>& out(int32_t layer) { return out_.at(layer); }

 private:
  std::vector<int32_t> layers_;
  int64_t d_, n_ = 0;
  std::map<int32_t, std::vector<float>> in_, out_;
};

}  // namespace signalbox::train
