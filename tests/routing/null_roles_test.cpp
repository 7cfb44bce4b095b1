// Traces without any structure but how long tokens stay with their experts and how much records differ: roles are not
// found in them more often than said.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "eval/routing/communities.h"
#include "eval/routing/phases.h"
#include "eval/routing/pipelines.h"
#include "eval/routing/specialists.h"
#include "eval/routing/taxonomy.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::probes;
using namespace signalbox::test;

namespace {

constexpr int32_t null_layers = 3, null_experts = 8;

// 16 records of three domains, 24 to 47 tokens of six ids each, two experts a layer: records have favourites of their
// own, and a token keeps the route of the one before it with 0.6.
void write_null_trace(const std::filesystem::path& dir, uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<int32_t>(random() % n); };
  TraceOptions options;
  options.dir = dir;
  options.shape.d_model = 4;
  options.shape.n_vocab = 50;
  options.shape.layers.assign(null_layers, {true, null_experts, 2, 8, false});
  options.points = PointSet::parse("*.router.ids", options.shape);
  options.metadata = {{"model", "null"}, {"model_hash", "n"}};
  TraceWriter writer(options);
  std::vector<std::string> ids;
  std::vector<json::Value> records;
  for (int64_t s = 0; s < 16; ++s) {
    ids.push_back("r" + std::to_string(s));
    records.push_back(json::Value::object().set("id", ids.back()).set("tokens", json::Value::array()));
    records.back().set("domain", std::string(1, static_cast<char>('a' + s % 3)));
    const int64_t n = 24 + below(24);
    std::vector<int32_t> tokens, positions;
    std::vector<uint8_t> phase;
    const std::vector<uint32_t> spans(static_cast<size_t>(n));
    for (int32_t t = 0; t < n; ++t) {
      tokens.push_back(below(6));
      positions.push_back(t);
      phase.push_back(t >= 6);
    }
    const RowRange range{s, 0, n, 0};
    writer.begin({n, {&range, 1}, tokens.data(), positions.data(), phase.data(), spans.data()});
    for (int32_t layer = 0; layer < null_layers; ++layer) {
      const int32_t favourite = below(null_experts);
      std::vector<int32_t> routes;
      for (int64_t t = 0; t < n; ++t) {
        if (t > 0 && below(10) < 6) {
          routes.push_back(routes[routes.size() - 2]);
          routes.push_back(routes[routes.size() - 2]);
          continue;
        }
        const int32_t first = below(3) == 0 ? favourite : below(null_experts);
        routes.push_back(first);
        routes.push_back((first + 1 + below(null_experts - 1)) % null_experts);
      }
      writer.take_ids(layer, routes.data(), nullptr, 2);
    }
    writer.end();
  }
  writer.finish(ids, [&](int64_t s) { return records[static_cast<size_t>(s)]; });
}

double share_below(const std::vector<double>& p, double bound) {
  return static_cast<double>(std::count_if(p.begin(), p.end(), [&](double one) { return one <= bound; })) /
         static_cast<double>(p.size());
}

}  // namespace

TEST_CASE("role tables: nothing is found in null traces more often than said" *
          doctest::test_suite("repeats: statistics at length")) {
  RouteOptions options;
  options.resamples = 99;
  options.threads = 2;
  const TokenSpelling spelling({{0, "Ġa"}, {1, "Ġb"}, {2, "."}, {3, "Ċ"}, {4, "c"}, {5, "Ġ7"}});
  std::vector<double> specialist_p, taxonomy_p, modularity_p, phase_p, drift_p, handoff_p, link_p;
  constexpr int n_traces = 40;
  int labelled = 0, chained = 0;
  for (int i = 0; i < n_traces; ++i) {
    TemporaryDirectory scratch;
    write_null_trace(scratch / "t", static_cast<uint32_t>(i));
    const TraceSet set({scratch / "t"});
    options.seed = static_cast<uint64_t>(i);
    bool any = false;
    for (const Specialist& one : specialists(set, options)) {
      specialist_p.push_back(one.found.p);
      any |= one.label == ExpertLabel::specialist;
    }
    labelled += any;
    chained += !pipelines(set, options).found.empty();
    for (const TaxonomyRow& one : taxonomy(set, options, spelling)) taxonomy_p.push_back(one.p);
    for (const LayerModularity& one : communities(set, options).layers) modularity_p.push_back(one.p);
    const PhaseTables phases = phase_tables(set, options);
    for (const PhaseUse& one : phases.experts) phase_p.push_back(one.p);
    for (const Drift& one : phases.layers) drift_p.push_back(one.p);
    for (const Handoff& one : phases.handoffs) handoff_p.push_back(one.p);
    // Links that nothing has chosen.
    const Units units = units_of(set);
    std::vector<Link> links;
    for (int32_t expert = 0; expert < null_experts; ++expert) links.push_back({expert % 2, expert, (expert * 3) % 8});
    for (const LinkTest& one : test_links(set, options, units, {}, Half::both, links)) link_p.push_back(one.p);
    for (const PartialLink& one : partial_links(set, options, units, {}, Half::both, links)) link_p.push_back(one.p);
  }
  // p at most 0.1 in a tenth: experts of one trace depend on each other, so that the bounds are wide.
  for (const auto& [name, p] : {std::pair("specialists", &specialist_p), std::pair("taxonomy", &taxonomy_p),
                                std::pair("modularity", &modularity_p), std::pair("phases", &phase_p),
                                std::pair("drift", &drift_p), std::pair("links", &link_p)}) {
    INFO(std::string(name), ", ", p->size(), ": ", share_below(*p, 0.1), ", ", share_below(*p, 0.5));
    CHECK(share_below(*p, 0.1) > 0.03);
    CHECK(share_below(*p, 0.1) < 0.15);
    CHECK(share_below(*p, 0.5) > 0.4);
    CHECK(share_below(*p, 0.5) < 0.6);
  }
  CHECK(share_below(handoff_p, 0.1) < 0.12);  // of few values
  CHECK(labelled <= 4);
  CHECK(chained <= 4);
}
