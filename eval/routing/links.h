// Links between an expert of one recorded layer and one of the next: which there may be, and what says that they are
// more than the company that any two experts keep.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"
#include "eval/routing/units.h"

namespace signalbox::eval {

// Indices: `layer` into TraceSet::layers(), of the upper end; the lower end is an expert of layer + 1.
struct Link {
  int32_t layer = 0, from = 0, to = 0;
  bool operator==(const Link&) const = default;
};

// Tokens of one half (units_of's, half_of [units]); both: all tokens.
enum class Half : uint8_t { explore = 0, confirm = 1, both = 2 };

// Pairs that go together within samples in the half that explores: of the correlation of the two indicators within
// samples, each is the other's best; at least 5 tokens select both, and their excess over chance has z >= 4 as if
// tokens were independent. At most one link leaves or enters an expert. By layer and expert.
std::vector<Link> candidate_links(const TraceSet& set, const RouteOptions& options, const Units& units,
                                  const std::vector<uint8_t>& half_of);

// Of a link under its null: the lower layer's routes of each sample turned in a circle.
struct LinkTest {
  int64_t tokens = 0, from = 0, to = 0, both = 0;  // of the half: all, those that select each end, both ends
  double z = no_number;  // tokens with both ends above their mean when turned, in standard deviations of the turns
  double p = no_number;  // one-sided, (1 + hits) / (1 + resamples)
  double phi() const;    // Pearson correlation of the two indicators
};
std::vector<LinkTest> test_links(const TraceSet& set, const RouteOptions& options, const Units& units,
                                 const std::vector<uint8_t>& half_of, Half half, const std::vector<Link>& links);

// The same with what a token's identity explains taken away: of each indicator its rate among all tokens of that id.
struct PartialLink {
  double phi = no_number;  // correlation of what is left of the two indicators, over all tokens
  double p = no_number;    // of their products, as LinkTest::p, in the half
};
std::vector<PartialLink> partial_links(const TraceSet& set, const RouteOptions& options, const Units& units,
                                       const std::vector<uint8_t>& half_of, Half half, const std::vector<Link>& links);

}  // namespace signalbox::eval
