// How alike the routes of the same tokens are under two conditions: similarity.csv.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

struct Similarity {
  std::string condition_a, condition_b;
  int32_t layer = 0;
  int64_t pairs = 0, tokens = 0;  // samples and tokens that were compared
  // Means over tokens, as eval/routing/likeness.h has them: common experts, of those that either selects; sum of min w
  // / sum of max w over experts (undefined without weights); slots used minus common experts.
  double jaccard = no_number;
  double jaccard_weighted = no_number;
  double instability = no_number;
};

// Every two conditions (in the order of the records) of samples whose records have the same `pair` and whose tokens are
// the same; the nth sample of a record is compared with the nth of the other. Tokens count where they count in both.
// Empty where no such pair exists.
std::vector<Similarity> similarities(const TraceSet& set, const RouteOptions& options);

void write_similarity_csv(const std::filesystem::path& file, const std::vector<Similarity>& rows);

}  // namespace signalbox::eval
