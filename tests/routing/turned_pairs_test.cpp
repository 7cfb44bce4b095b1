// Counts of turned routes against counting them one by one.
#include "eval/routing/turned_pairs.h"

#include <doctest/doctest.h>

#include <random>

#include "eval/routing/shuffled.h"
#include "probes/trace.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::probes;
using namespace signalbox::test;

namespace {

// A model of `n_layers` layers with routers alone.
struct Routes {
  int32_t n_experts, n_slots, n_layers;
  std::vector<std::vector<int32_t>> samples;  // ids [tokens, layers, slots], -1: unused
  int64_t n(size_t sample) const { return static_cast<int64_t>(samples[sample].size()) / (n_layers * n_slots); }
};

// Low experts are selected more often, so that sums of more than 255 rows occur; some slots are unused.
Routes drawn_routes(int32_t n_experts, const std::vector<int64_t>& lengths) {
  Routes out{n_experts, 3, 3, {}};
  std::mt19937 random(7);
  for (const int64_t length : lengths) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < length * out.n_layers; ++i) {
      std::vector<int32_t> route;
      while (route.size() < 3) {
        const auto expert = static_cast<int32_t>(random() % static_cast<uint32_t>(n_experts));
        const int32_t low = random() % 3 == 0 ? expert : expert / 4;
        if (std::find(route.begin(), route.end(), low) == route.end()) route.push_back(low);
      }
      if (random() % 10 == 0) route.back() = -1;
      ids.insert(ids.end(), route.begin(), route.end());
    }
    out.samples.push_back(ids);
  }
  return out;
}

void write_trace(const std::filesystem::path& dir, const Routes& routes) {
  TraceOptions options;
  options.dir = dir;
  options.shape.d_model = 4;
  options.shape.n_vocab = 50;
  options.shape.layers.assign(static_cast<size_t>(routes.n_layers), {true, routes.n_experts, routes.n_slots, 8, false});
  options.points = PointSet::parse("*.router.ids", options.shape);
  options.metadata = {{"model", "drawn"}, {"model_hash", "h"}};
  TraceWriter writer(options);
  std::vector<std::string> ids;
  for (size_t s = 0; s < routes.samples.size(); ++s) {
    ids.push_back("r" + std::to_string(s));
    const int64_t n = routes.n(s), width = routes.n_layers * routes.n_slots;
    std::vector<int32_t> tokens(static_cast<size_t>(n), 1), positions;
    for (int64_t t = 0; t < n; ++t) positions.push_back(static_cast<int32_t>(t));
    const RowRange range{static_cast<int64_t>(s), 0, n, 0};
    writer.begin({n, {&range, 1}, tokens.data(), positions.data(), nullptr, nullptr});
    for (int32_t l = 0; l < routes.n_layers; ++l) {
      std::vector<int32_t> layer;
      for (int64_t t = 0; t < n; ++t)
        for (int32_t slot = 0; slot < routes.n_slots; ++slot)
          layer.push_back(routes.samples[s][static_cast<size_t>(t * width + l * routes.n_slots + slot)]);
      writer.take_ids(l, layer.data(), nullptr, routes.n_slots);
    }
    writer.end();
  }
  writer.finish(
      ids, [&](int64_t s) { return json::Value::object().set("id", ids[static_cast<size_t>(s)]).set("prompt", "x"); });
}

// counts [layers, experts, experts] with the second layer turned by each sample's own shift; shifts empty: unturned.
std::vector<int64_t> counts_of(const Routes& routes, const std::vector<int64_t>& shifts) {
  const int64_t e = routes.n_experts, k = routes.n_slots, width = routes.n_layers * k;
  std::vector<int64_t> counts(static_cast<size_t>(routes.n_layers * e * e));
  for (size_t s = 0; s < routes.samples.size(); ++s) {
    const int64_t n = routes.n(s);
    for (int64_t t = 0; t < n; ++t)
      for (int64_t l = 0; l + 1 < routes.n_layers; ++l)
        for (int64_t i = 0; i < k * k; ++i) {
          const int64_t turned = (t + (shifts.empty() ? 0 : shifts[s])) % n;
          const int32_t a = routes.samples[s][static_cast<size_t>(t * width + l * k + i / k)],
                        b = routes.samples[s][static_cast<size_t>(turned * width + (l + 1) * k + i % k)];
          if (a >= 0 && b >= 0) ++counts[static_cast<size_t>((l * e + a) * e + b)];
        }
  }
  return counts;
}

}  // namespace

TEST_CASE("routing tables: turned pairs are those of turning routes and counting") {
  struct Case {
    int32_t n_experts;
    std::vector<int64_t> lengths;  // some above what is counted in one part, which is 2^18 bytes of rows
  };
  for (const Case& of : {Case{40, {30, 1, 700, 6000, 200}}, Case{9, {500, 40}}, Case{300, {20, 1000, 60}}}) {
    CAPTURE(of.n_experts);
    const Routes routes = drawn_routes(of.n_experts, of.lengths);
    const TemporaryDirectory scratch;
    write_trace(scratch / "t", routes);
    const TraceSet set({scratch / "t"});
    RouteOptions options;
    options.resamples = 5;
    options.threads = 2;
    options.block_rows = 64;
    options.seed = 3;
    PairCounts observed(routes.n_layers, routes.n_experts);
    observed.counts = counts_of(routes, {});
    std::vector<int64_t> expected(observed.counts.size());
    for (int64_t i = 0; i < options.resamples; ++i) {
      std::vector<int64_t> shifts;
      for (size_t s = 0; s < routes.samples.size(); ++s)
        shifts.push_back(Shuffles(options.seed, s, routes.n(s)).shift(i));
      const std::vector<int64_t> counts = counts_of(routes, shifts);
      for (size_t cell = 0; cell < counts.size(); ++cell)
        expected[cell] += observed.counts[cell] > 0 && counts[cell] >= observed.counts[cell];
    }
    CHECK(turned_pair_hits(set, options, "across_layers", observed) == expected);
    options.threads = 1;
    CHECK(turned_pair_hits(set, options, "across_layers", observed) == expected);
    // The hits of lower counts show those that the null reached, whatever they are: exact to one.
    for (int64_t& count : observed.counts) count = count > 0 ? count - 1 : 0;
    CHECK(turned_pair_hits(set, options, "across_layers", observed) != expected);
  }
}
