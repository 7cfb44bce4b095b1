// Traces written by hand: every route stands in the test.
#pragma once
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "probes/trace.h"

namespace signalbox::test {

// A token of a model with two layers, of which layer 1 has a router over 4 experts, two a token.
struct HandToken {
  int32_t first = 0, second = 1;  // experts, in slot order
  float first_weight = 0.75f, second_weight = 0.25f;
  uint32_t spans = 0;
  uint8_t phase = 0;
  int32_t token = 1;
  float norms[2] = {2, 1}, shares[2] = {0.75f, 0.25f}, directs[2] = {0.5f, -0.25f};  // what the two experts give
};

struct HandSample {
  std::string record;  // its JSON line
  std::vector<HandToken> tokens;
};

inline ModelShape hand_shape() {
  ModelShape shape;
  shape.d_model = 4;
  shape.n_vocab = 50;
  shape.layers = {{false, 0, 0, 8, false}, {true, 4, 2, 8, false}};
  return shape;
}

// Logits of expert e at a token: e, plus 10 where it is selected.
inline void write_hand_trace(const std::filesystem::path& dir, const std::vector<HandSample>& samples,
                             const std::string& points = "*.router.ids,*.router.weights",
                             const std::string& model_hash = "h") {
  TraceOptions options;
  options.dir = dir;
  options.shape = hand_shape();
  options.points = PointSet::parse(points, options.shape);
  options.span_names = {"question", "answer"};
  options.metadata = {{"model", "hand"}, {"model_hash", model_hash}};
  TraceWriter writer(options);
  std::vector<std::string> ids;
  std::vector<json::Value> records;
  for (size_t s = 0; s < samples.size(); ++s) {
    records.push_back(json::parse(samples[s].record, "record"));
    ids.push_back(records.back().find("id")->string());
    const int64_t n = static_cast<int64_t>(samples[s].tokens.size());
    std::vector<int32_t> tokens, positions, routes;
    std::vector<uint8_t> phase;
    std::vector<uint32_t> spans;
    std::vector<float> weights, logits, norms, shares, directs;
    for (int32_t t = 0; t < n; ++t) {
      const HandToken& token = samples[s].tokens[static_cast<size_t>(t)];
      tokens.push_back(token.token);
      positions.push_back(t);
      phase.push_back(token.phase);
      spans.push_back(token.spans);
      for (int32_t id : {token.first, token.second}) routes.push_back(id);
      for (float weight : {token.first_weight, token.second_weight}) weights.push_back(weight);
      norms.insert(norms.end(), token.norms, token.norms + 2);
      shares.insert(shares.end(), token.shares, token.shares + 2);
      directs.insert(directs.end(), token.directs, token.directs + 2);
      for (int32_t e = 0; e < 4; ++e)
        logits.push_back(static_cast<float>(e + (e == token.first || e == token.second ? 10 : 0)));
    }
    const RowRange range{static_cast<int64_t>(s), 0, n, 0};
    writer.begin({n, {&range, 1}, tokens.data(), positions.data(), phase.data(), spans.data()});
    for (const PointAt& at : options.points.all()) {
      if (at.point == Point::router_ids) {
        writer.take_ids(1, routes.data(), nullptr, 2);
      } else if (at.point == Point::router_weights) {
        writer.take(at.point, 1, weights.data(), 2);
      } else if (at.point == Point::expert_norm) {
        writer.take(at.point, 1, norms.data(), 2);
      } else if (at.point == Point::expert_update_share) {
        writer.take(at.point, 1, shares.data(), 2);
      } else if (at.point == Point::expert_direct) {
        writer.take(at.point, 1, directs.data(), 2);
      } else {
        REQUIRE(at.point == Point::router_logits);
        writer.take(at.point, 1, logits.data(), 4);
      }
    }
    writer.end();
  }
  writer.finish(ids, [&](int64_t s) { return records[static_cast<size_t>(s)]; });
}

}  // namespace signalbox::test
