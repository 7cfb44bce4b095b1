// How long tokens stay with an expert: persistence.csv, autocorrelation.csv and consistency.csv.
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

// Neighbours are consecutive tokens of one sample that both count and whose positions differ by 1.
struct Persistence {
  int32_t layer = 0, expert = 0;
  double rate = 0;            // tokens that select the expert, of all
  double p_stay = no_number;  // of the neighbours whose first selects it, those whose second does too
  double lag1 = no_number;    // Pearson correlation of "selects it" with itself one token later, over all neighbours
  // Two-sided against shuffling within samples: how often a shuffled lag1 is at least as far from the mean of all
  // (the observed one among them), (1 + hits) / (1 + resamples); q by Benjamini-Hochberg over all experts and layers.
  double lag1_p = no_number, lag1_q = no_number;
  double dwell_mean = no_number;  // mean length of a run of neighbours that select it
};

// Sum of |S_t and S_t+1| over sum of max(|S_t|, |S_t+1|), over all neighbours; its mean under shuffling within samples
// and the two-sided p as above.
struct Consistency {
  int32_t layer = 0;
  int64_t neighbours = 0;
  double consistency = no_number, expected = no_number, p = no_number, q = no_number;
};

struct PersistenceTables {
  std::vector<Persistence> experts;  // every expert of every recorded layer
  std::vector<Consistency> layers;
};
// Throws Error when no token counts.
PersistenceTables persistence_tables(const TraceSet& set, const RouteOptions& options);

struct Autocorrelation {
  int32_t layer = 0, expert = 0;
  int64_t lag = 0;
  double r = no_number;  // Pearson, over all tokens of one sample that both count and are `lag` positions apart
};
// Lags 1 to n_lags; every expert of every recorded layer.
std::vector<Autocorrelation> autocorrelations(const TraceSet& set, const RouteOptions& options, int64_t n_lags);

void write_persistence_csv(const std::filesystem::path& file, const std::vector<Persistence>& rows);
void write_consistency_csv(const std::filesystem::path& file, const std::vector<Consistency>& rows);
void write_autocorrelation_csv(const std::filesystem::path& file, const std::vector<Autocorrelation>& rows);

}  // namespace signalbox::eval
