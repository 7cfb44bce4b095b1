// How far a misrouting takes the tokens that it acts on, kept while a stage runs.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox::eval {

// Of the tokens of one explanation whose route was edited in any layer. The two distances are means over these tokens
// and all layers with a router; NaN where there is no such token.
struct MisrouteDistance {
  int64_t tokens = 0;
  // Share of the experts that the router chose at the same hidden state which the applied route lacks: 1 = all
  // replaced.
  double replaced = 0;
  // Softmax of the router's logits, summed over the experts that it chose, minus that of the applied ones: how much
  // less the router wanted them.
  double mass_lost = 0;
};

class MisrouteDistances : public ProbeSink {
 public:
  // rows[s]: the rows of sample s that belong to its explanation, [begin, end); none where begin = end.
  MisrouteDistances(const ModelShape& shape, std::vector<std::pair<int64_t, int64_t>> rows);
  MisrouteDistance of(int64_t sample) const;

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;

 private:
  struct Row {
    int64_t batch_row = 0, sample = 0;
  };
  struct Layer {
    std::vector<float> logits;           // [rows, experts]
    std::vector<int32_t> ids, original;  // [rows, slots]; -1 = unused
    int64_t n_experts = 0, n_slots = 0;
  };
  struct Sum {
    int64_t tokens = 0;
    double replaced = 0, mass_lost = 0;
  };
  std::vector<int32_t> layers_;
  std::vector<std::pair<int64_t, int64_t>> ranges_;
  std::vector<Row> rows_;     // of this batch
  std::vector<Layer> batch_;  // [layers]
  std::vector<Sum> sums_;     // [samples]
};

// Hands everything to two sinks.
class TwoSinks : public ProbeSink {
 public:
  TwoSinks(ProbeSink& a, ProbeSink& b) : sinks_{&a, &b} {}
  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;
  void abandon() override;

 private:
  ProbeSink* sinks_[2];
};

}  // namespace signalbox::eval
