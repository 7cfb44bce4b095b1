// Edges into heads by query, key and value apart: against PyTorch in double, and against runs in which one input of one
// head is exchanged by hand.
#include <doctest/doctest.h>

#include <cmath>

#include "base/json.h"
#include "engine/receivers.h"
#include "eval/circuit/edges.h"
#include "probes/edit_memory.h"
#include "tests/circuit/golden_pair.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
using namespace signalbox::probes;

namespace {

// The base record's metric with one input of one head made of other streams, and all other heads of its layer held.
double with_input(ModelScorer& scorer, const NodeId& head, size_t input, const std::vector<float>& change) {
  const Session& session = scorer.session();
  const AblatedPair& pair = scorer.pair(0);
  const ModelShape& shape = session.shape;
  const int64_t n = pair.n_tokens(), d_model = shape.d_model;
  std::vector<float> streams = change;
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < n; ++t) {
    const auto own = pair.base().row(Point::resid_in, head.layer, 0, t);
    for (int64_t c = 0; c < d_model; ++c) streams[static_cast<size_t>(t * d_model + c)] += own[static_cast<size_t>(c)];
    positions.push_back(static_cast<int32_t>(t));
  }
  Receivers readers(*session.backend, session.model, session.weights);
  const Receivers::Heads read = readers.heads(head.layer, streams, positions);
  const char* points[] = {"attn.q", "attn.k", "attn.v"};
  const std::string layer = "layer." + std::to_string(head.layer) + ".";
  EditMemory memory;
  memory.add(made_store("read", shape, pair.job().prompt->id,
                        {{layer + points[input], input == 0   ? read.q
                                                 : input == 1 ? read.k
                                                              : read.v}},
                        n));
  memory.add(pair.run().store);
  const AttentionShape& attention = shape.layers[static_cast<size_t>(head.layer)].attention;
  std::string others;
  for (int64_t c = 0; c < attention.n_heads * attention.d_z; ++c)
    if (c / attention.d_z != head.index) others += (others.empty() ? "" : ",") + std::to_string(c);
  const std::string edits = R"([{"op":"patch","point":")" + layer + points[input] + R"(","from":"memory:read"},)" +
                            R"({"op":"patch","point":")" + layer + R"(attn.z","from":"memory:)" +
                            pair.run().store->name() + R"(","neurons":[)" + others + "]}]";
  const json::Value parsed = json::parse(edits, "edits");
  const auto plan = EditPlan::parse(json::Ref(parsed, "edits"), ".", shape, 0, &memory);
  return scorer.metric_of(0, record_run(session, pair.job(), 1, PointSet(), "exchanged", plan.get()).logits);
}

}  // namespace

TEST_CASE("circuit: edges by query, key and value are those of a run with that input exchanged, and of PyTorch") {
  const json::Value goldens = json::parse_file(test::source_dir() / "tests/circuit/edge_inputs.json");
  for (const auto& member : goldens.find("cases")->members()) {
    const std::string& name = member.first;
    const json::Value& rows = member.second;
    CAPTURE(name);
    const test::GoldenPair golden(name);
    ModelScorer scorer(golden.session, golden.made, golden.pairs, {});
    std::vector<EdgeEffects> edges;
    for (const json::Value& row : rows.items())
      edges.push_back({parse_node(row.find("source")->string(), "t"),
                       parse_node(row.find("target")->string(), "t"),
                       {},
                       {},
                       {},
                       {},
                       {},
                       {}});
    std::vector<size_t> all;
    for (size_t i = 0; i < edges.size(); ++i) all.push_back(i);
    measure_inputs(scorer, edges, all);
    for (size_t i = 0; i < edges.size(); ++i) {
      const EdgeEffects& edge = edges[i];
      const json::Ref row(rows.items()[i], "t");
      CAPTURE(node_name(edge.source));
      CAPTURE(node_name(edge.target));
      const std::vector<float> change = stream_change(scorer, 0, edge.source);
      const NodeId receivers[] = {edge.target};
      const std::vector<Response> responses = respond(scorer, 0, edge.source, change, receivers);
      const auto whole = scorer.pair(0).replace(edge.target, responses[0].values);
      CHECK(scorer.metrics(0, {&whole, 1})[0] - scorer.whole()[0] ==
            doctest::Approx(row.at("all").number()).epsilon(1e-3).scale(0.02));
      for (size_t in = 0; in < head_inputs.size(); ++in) {
        CAPTURE(head_inputs[in]);
        const double found = edge.inputs[in][0];
        CHECK(found == doctest::Approx(row.at(std::string(1, head_inputs[in])).number()).epsilon(1e-3).scale(0.02));
        CHECK(std::fabs(found - (with_input(scorer, edge.target, in, change) - scorer.whole()[0])) < 2e-5);
      }
    }
  }
}
