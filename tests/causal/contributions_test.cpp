// The nodes of the causal graph add up to the residual stream, and its readers' gradients to the stream's, in every
// family.
#include "eval/causal/contributions.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "eval/causal/sequence_run.h"
#include "tests/causal/tiny_models.h"

namespace {

using namespace signalbox;
using namespace signalbox::engine;
using namespace signalbox::eval;
using namespace signalbox::probes;
using test::TinyRecords;

// The sum of what the readers of each stage ask for.
class Sums : public ReaderSink {
 public:
  explicit Sums(const Model& model) : model_(model), sums(static_cast<size_t>(n_stages(model.n_layers())) + 1) {}
  bool wants(Reader, int32_t) const override { return true; }
  void take(Reader reader, int32_t layer, int32_t, std::span<const float> d) override {
    auto& sum =
        sums[static_cast<size_t>(node_stage(receiver_of(reader, layer, 0), static_cast<int32_t>(model_.n_layers())))];
    sum.resize(d.size());
    for (size_t i = 0; i < d.size(); ++i) sum[i] += static_cast<double>(d[i]);
    ++taken;
  }
  void take_experts(int32_t layer, std::span<const int32_t>, std::span<const float> d) override {
    take(Reader::expert, layer, 0, d);
  }

 private:
  const Model& model_;

 public:
  std::vector<std::vector<double>> sums;  // [stages + 1][n_tokens * d_model]
  int64_t taken = 0;
};

double gap(const std::vector<double>& got, const std::vector<float>& want) {
  REQUIRE(got.size() == want.size());
  double most = 1e-30, apart = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    most = std::max(most, static_cast<double>(std::fabs(want[i])));
    apart = std::max(apart, std::fabs(got[i] - static_cast<double>(want[i])));
  }
  return apart / most;
}

}  // namespace

TEST_CASE(
    "causal contributions: contributions add up to the stream, readers' gradients to its gradient, in every family") {
  for (const std::string name : test::tiny_families) {
    CAPTURE(name);
    const TinyRecords setup(name, {R"({"id":"a","tokens":[5,9,33,17,40,12,61,8,25,30],"answer":7,"foil":9})"});
    const Session& session = setup.session;
    const MetricRows rows = setup.metric(Metric::logit_diff, 0);
    Sums sums(session.model);
    SequenceRequest request;
    request.job = &setup.made.jobs[0];
    request.rows = &rows;
    request.values = Contributions::points(setup.session.shape) + ",*.resid_in,*.resid_mid,*.resid_out";
    request.slopes = "embed,*.resid_in,*.resid_mid,*.resid_out";
    request.back = true;
    request.readers = &sums;
    const SequenceRun run = run_sequence(session, request);
    const Contributions nodes(session, *run.values);
    const auto all = run.values->rows(0);
    const int64_t n = nodes.n_tokens(), d = nodes.d_model(), n_layers = session.model.n_layers();
    std::vector<double> stream(static_cast<size_t>(n * d), 0.0);
    std::vector<double> slope(stream.size(), 0.0);
    for (int32_t stage = 0; stage < n_stages(n_layers); ++stage) {
      for (int64_t t = 0; t < n; ++t) {
        nodes.each(stage, t, [&](const CausalNode& node, const float* c) {
          CHECK(node_stage(node, static_cast<int32_t>(n_layers)) == stage);
          CHECK(nodes.at(node, t) == c);
          for (int64_t i = 0; i < d; ++i) stream[static_cast<size_t>(t * d + i)] += static_cast<double>(c[i]);
        });
      }
      const int32_t l = (stage - 1) / 2;
      const std::string there = stage == 0       ? point_name(Point::resid_in, 0)
                                : stage % 2 == 1 ? point_name(Point::resid_mid, l)
                                                 : point_name(Point::resid_out, l);
      CAPTURE(there);
      CHECK(gap(stream, run.values->floats(there, all)) < 2e-6);
    }
    for (int32_t stage = n_stages(n_layers); stage >= 1; --stage) {
      const auto& sum = sums.sums[static_cast<size_t>(stage)];
      REQUIRE(sum.size() == slope.size());
      for (size_t i = 0; i < sum.size(); ++i) slope[i] += sum[i];
      const int32_t l = (stage - 1) / 2;
      const std::string there = stage == n_stages(n_layers) ? point_name(Point::resid_out, l - 1)
                                : stage % 2 == 1            ? point_name(Point::resid_in, l)
                                                            : point_name(Point::resid_mid, l);
      CAPTURE(there);
      CHECK(gap(slope, run.slopes->floats(there, all)) < 2e-5);
    }
  }
}

TEST_CASE("causal contributions: what differs between two runs is told by expert id, position by position") {
  const TinyRecords setup("deepseek_v2_full", {R"({"id":"a","tokens":[5,9,33,17,40,12,61,8]})",
                                               R"({"id":"b","tokens":[5,9,20,17,40,12,61,8,3]})"});
  std::vector<Contributions> nodes;
  std::vector<SequenceRun> runs;
  for (size_t i = 0; i < 2; ++i) {
    SequenceRequest request;
    request.job = &setup.made.jobs[i];
    request.values = Contributions::points(setup.session.shape) + ",*.resid_out";
    runs.push_back(run_sequence(setup.session, request));
    nodes.emplace_back(setup.session, *runs.back().values);
  }
  const int64_t n_layers = setup.session.model.n_layers(), d = nodes[0].d_model();
  const std::array<int32_t, 2> map[] = {{1, 1}, {2, 2}, {4, 6}};
  const NodeChanges changes = NodeChanges::between(nodes[0], nodes[1], map, n_layers);
  size_t only_one = 0;
  for (int64_t t = 0; t < 8; ++t) {
    const bool mapped = t == 1 || t == 2 || t == 4;
    std::vector<double> sum(static_cast<size_t>(d), 0.0);
    for (int32_t stage = 0; stage < changes.n_stages(); ++stage) {
      for (const auto& [node, by] : changes.at(stage, t)) {
        if (t == 1) CHECK(std::all_of(by, by + d, [](float x) { return x == 0; }));  // nothing differs before token 2
        for (int64_t i = 0; i < d; ++i) sum[static_cast<size_t>(i)] += static_cast<double>(by[i]);
        only_one +=
            node.kind == CausalNode::Kind::expert && (!nodes[0].at(node, t) || !nodes[1].at(node, t == 4 ? 6 : t));
      }
      CHECK(changes.at(stage, t).empty() == !mapped);
    }
    if (!mapped) continue;
    const std::string last = point_name(Point::resid_out, static_cast<int32_t>(n_layers) - 1);
    const auto here = runs[0].values->floats(last, runs[0].values->rows(0)),
               there = runs[1].values->floats(last, runs[1].values->rows(0));
    for (int64_t i = 0; i < d; ++i)
      CHECK(sum[static_cast<size_t>(i)] ==
            doctest::Approx(static_cast<double>(there[static_cast<size_t>((t == 4 ? 6 : t) * d + i)]) -
                            static_cast<double>(here[static_cast<size_t>(t * d + i)]))
                .epsilon(1e-4)
                .scale(1));
  }
  CHECK(only_one > 0);
}
