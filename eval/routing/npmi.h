// npmi.csv: which experts go with marker tokens, by normalised pointwise mutual information (RICE).
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/trace_set.h"

namespace signalbox::eval {

// Marker tokens: those of a span, or those with an id. Exactly one is given.
struct Marker {
  std::string span;
  std::optional<int32_t> token;
};

struct MarkerAssociation {
  int32_t layer = 0, expert = 0;
  int64_t at_markers = 0;  // k_n: marker tokens that selected the expert
  int64_t selected = 0;    // K_n: tokens that selected it
  int64_t markers = 0;     // M
  int64_t tokens = 0;      // T
  // [log2(k_n / M) + log2(T / K_n)] / log2(T / k_n): 1 = selected at markers and nowhere else, 0 = independent of them,
  // -1 (its limit) = never at markers. NaN when the expert is never selected, or when k_n = T.
  double value() const;
};

// Every expert of every recorded layer. M and T count tokens that pass the filter. Throws Error when none is a marker.
std::vector<MarkerAssociation> marker_associations(const TraceSet& set, const Marker& marker,
                                                   const TokenFilter& filter);

void write_npmi_csv(const std::filesystem::path& file, const std::vector<MarkerAssociation>& rows);

}  // namespace signalbox::eval
