// A model with one planted circuit, its truth, its pairs, and what a search finds in them.
#pragma once
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "eval/circuit/discover.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

namespace signalbox::test::circuits {

using namespace eval;
using namespace engine;

using Names = std::set<std::string>;

struct Planted {
  TemporaryDirectory dir;
  std::unique_ptr<Session> session;
  json::Value truth;
  std::vector<Record> records;
  RecordJobs made;

  explicit Planted(const std::string& circuit, int layers = 4) {
    const std::string spec = R"({"family":"qwen3_moe","dtype":"f32","config":{"num_hidden_layers":)" +
                             std::to_string(layers) + R"(},"circuits":[)" + circuit + "]}";
    loaders::synthetic::make_model(json::parse(spec, "spec"), "spec", dir / "m");
    session = std::make_unique<Session>(loaders::open_session((dir / "m").string(), {}));
    session->label = "planted";
    truth = json::parse_file(dir / "m/make-model.json").find("truth")->find("circuits")->items().front();
    read(dir / "m/circuit-0.jsonl");
  }
  void read(const std::filesystem::path& file) {
    records = read_records(file.string());
    made = make_jobs(*session, records, Generate{}, nullptr);
  }
  // Nodes of the truth, and of each expert the one that runs in its place.
  Names parts() const {
    Names names;
    for (const json::Value& node : truth.find("nodes")->items()) {
      if (!node.find("layer")) continue;  // embed, logits
      names.insert(node.find("id")->string());
      const json::Value* instead = node.find("instead");
      const json::Value* selected = node.find("selected");
      if (instead && selected && selected->string() == "by flag")
        names.insert("L" + std::to_string(node.find("layer")->integer()) + ".E" + std::to_string(instead->integer()));
    }
    return names;
  }
  Discovery discover(DiscoverRequest request = {}) const {
    request.seed = 1;
    request.random = 40;
    request.stability = 4;
    request.resamples = 500;
    return discover_circuit(*session, records, made, request, "circuit-0.jsonl");
  }
};

inline std::string pipeline(const char* kind) {
  return std::string(R"({"kind":")") + kind +
         R"(","tokens":[[48,49]],"answer":65,"foil":66,"records":16,"length":6,"experts":[{"layer":0,"expert":1},{"layer":1,"expert":3},{"layer":2,"expert":5}]})";
}

inline constexpr const char* induction =
    R"({"kind":"induction","tokens":[40,41,42,43,44,45,46,47],"records":16,"length":14,"previous":{"layer":0,"head":1},"match":{"layer":1,"head":2}})";

inline Names names_of(const std::vector<NodeId>& nodes) {
  Names names;
  for (const NodeId& node : nodes) names.insert(node_name(node));
  return names;
}

inline Names edges_of(const Discovery& found) {
  Names names;
  for (const CircuitEdge& edge : found.graph.edges)
    if (edge.in_circuit)
      names.insert(node_name(edge.source) + " " + std::string(edge_kind_name(edge.kind)) + " " +
                   node_name(edge.target));
  return names;
}

// Heads' inputs by which something passes in the circuit.
inline Names inputs_of(const Discovery& found) {
  Names names;
  for (const CircuitEdge& edge : found.graph.edges)
    if (edge.in_circuit && edge.input)
      names.insert(node_name(edge.source) + " by " + edge.input + " to " + node_name(edge.target));
  return names;
}

}  // namespace signalbox::test::circuits
