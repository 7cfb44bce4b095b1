// Routes of the last tokens of each sample, kept while a stage runs.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/likeness.h"
#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox::eval {

// Keeps router.ids and router.weights of the last rows of each sample.
class LastRoutes : public ProbeSink {
 public:
  // first_row[s]: the first row that is kept of sample s, of n_rows[s].
  LastRoutes(const ModelShape& shape, std::vector<int64_t> first_row, std::vector<int64_t> n_rows);

  int64_t n_rows(int64_t sample) const { return n_rows_[sample] - first_row_[sample]; }
  const std::vector<int32_t>& layers() const { return layers_; }
  // Of one sample at layers()[layer]: one layer of n_rows(sample) tokens. Holds until the next batch.
  Routes routes(int64_t sample, size_t layer) const;

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override {}

 private:
  struct Kept {
    int64_t n_slots = 0;
    std::vector<int32_t> ids;    // [rows, slots]; -1 = unused
    std::vector<float> weights;  // as ids
  };
  size_t layer_index(int32_t layer) const;
  std::vector<int32_t> layers_;
  std::vector<int64_t> first_row_, n_rows_;
  std::vector<std::vector<Kept>> kept_;  // [samples][layers]
  std::vector<RowRange> ranges_;         // of this batch
};

}  // namespace signalbox::eval
