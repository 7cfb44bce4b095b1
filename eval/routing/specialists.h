// Which experts a domain has for itself, and which serve all alike: specialists.csv.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/domain_ratio.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

// What the labels ask for.
inline constexpr double specialist_q = 0.05;      // a specialist's q at most, ...
inline constexpr double specialist_ratio = 2;     // its rate ratio at least, and its interval above 1
inline constexpr double generalist_margin = 1.5;  // a generalist's intervals of all domains lie in [1 / this, this]

enum class ExpertLabel : uint8_t { undecided, specialist, generalist };
const char* label_name(ExpertLabel label);

struct Specialist {
  int32_t layer = 0, expert = 0;
  ExpertLabel label = ExpertLabel::undecided;
  std::string domain;  // of the highest rate ratio; empty where there is no ratio
  DomainRatio found;
  double q = no_number;  // Benjamini-Hochberg of found.p over all experts of all layers
};
// Every expert of every recorded layer. Tokens of records with a domain; with fewer than two domains, or where an
// expert is never selected, there is no ratio.
std::vector<Specialist> specialists(const TraceSet& set, const RouteOptions& options);

void write_specialists_csv(const std::filesystem::path& file, const std::vector<Specialist>& rows);

}  // namespace signalbox::eval
