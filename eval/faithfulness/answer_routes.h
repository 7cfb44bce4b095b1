// Routes of the last tokens of a sequence, and how alike two of them are.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox {

// Keeps router.ids and router.weights of the last rows of each sample.
class LastRoutes : public ProbeSink {
 public:
  struct Routes {
    int64_t n_slots = 0;
    std::vector<int32_t> ids;    // [layers][rows, slots]; -1 = unused
    std::vector<float> weights;  // as ids
  };

  // first_row[s]: the first row that is kept of sample s, of n_rows[s].
  LastRoutes(const ModelShape& shape, std::vector<int64_t> first_row, std::vector<int64_t> n_rows);

  int64_t n_rows(int64_t sample) const { return n_rows_[sample] - first_row_[sample]; }
  const std::vector<int32_t>& layers() const { return layers_; }
  // Of one sample at layers()[layer].
  const Routes& routes(int64_t sample, size_t layer) const { return routes_[sample][layer]; }

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override {}

 private:
  size_t layer_index(int32_t layer) const;
  std::vector<int32_t> layers_;
  std::vector<int64_t> first_row_, n_rows_;
  std::vector<std::vector<Routes>> routes_;  // [samples][layers]
  std::vector<RowRange> ranges_;             // of this batch
};

// Means over rows: of |A and B| / |A or B| of the experts selected, and of sum min(a, b) / sum max(a, b) of their
// applied weights (two routes without weight are alike: 1). Both 1 for equal routes, 0 for disjoint ones.
struct RouteLikeness {
  double jaccard = 0, weighted = 0;
};
// n_rows >= 1 rows of two routes of one layer; the slots may differ in number and order.
RouteLikeness route_likeness(const LastRoutes::Routes& a, const LastRoutes::Routes& b, int64_t n_rows);

}  // namespace signalbox
