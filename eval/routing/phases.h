// Whether experts change over the course of a generation: phases.csv, drift.csv and handoffs.csv. Each sample's
// generated tokens that count are cut into three parts of equal length, to a token; samples of fewer than three take no
// part.
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

inline constexpr size_t n_parts = 3;
inline constexpr int64_t handoff_samples = 5;  // samples in which two experts lead two of the parts, at least

// Shares of each part's tokens that select an expert.
struct PhaseUse {
  int32_t layer = 0, expert = 0;
  double first = no_number, middle = no_number, last = no_number;
  // Two-sided: the parts of each sample in a drawn order; |last - first| at least as large. q over all rows.
  double p = no_number, q = no_number;
};

// Of the table part x expert of one layer's selections.
struct Drift {
  int32_t layer = 0;
  int64_t samples = 0, tokens = 0;
  double chi2 = no_number, cramers_v = no_number;
  double p = no_number, q = no_number;  // chi2 at least as large when parts stand in drawn orders
};

// Samples whose first part one expert leads and whose last another does: the expert that most of the part's tokens
// select, of several the first.
struct Handoff {
  int32_t layer = 0, from = 0, to = 0;
  int64_t count = 0;    // samples from -> to
  int64_t samples = 0;  // in which the two lead two of the three parts, in whatever order
  double expected = 0;  // of count, were the parts of each of these in any order alike
  // One-sided, exact: of that distribution. q over all pairs with enough samples (handoff_samples), a rule that does
  // not depend on the order of parts.
  double p = no_number, q = no_number;
};

struct PhaseTables {
  std::vector<PhaseUse> experts;  // every expert of every recorded layer
  std::vector<Drift> layers;
  std::vector<Handoff> handoffs;  // pairs with enough samples, by layer, from, to
};
// Empty where no sample has three generated tokens that count.
PhaseTables phase_tables(const TraceSet& set, const RouteOptions& options);

void write_phases_csv(const std::filesystem::path& file, const std::vector<PhaseUse>& rows);
void write_drift_csv(const std::filesystem::path& file, const std::vector<Drift>& rows);
void write_handoffs_csv(const std::filesystem::path& file, const std::vector<Handoff>& rows);

}  // namespace signalbox::eval
