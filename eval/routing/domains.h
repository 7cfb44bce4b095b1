// Whether domains use different experts (domains.csv), and how evenly experts are used (balance.csv).
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"
#include "eval/routing/usage.h"

namespace signalbox::eval {

// Of the table domain x expert of one layer's selections; experts that are never selected are left out.
struct DomainTest {
  int32_t layer = 0;
  double chi2 = no_number;
  int64_t df = 0;                    // (domains - 1) (experts - 1)
  double p = no_number;              // of the chi-square distribution: as if selections were independent, which they
                                     // are not within a text
  double cramers_v = no_number;      // sqrt(chi2 / (n min(domains - 1, experts - 1)))
  double p_permutation = no_number;  // domains permuted over records, (1 + hits) / (1 + resamples): holds
  double q = no_number;              // Benjamini-Hochberg of p_permutation over layers
};
// Records without a domain take no part. Empty with fewer than two domains.
std::vector<DomainTest> domain_tests(const TraceSet& set, const RouteOptions& options);

struct Balance {
  int32_t layer = 0;
  std::string domain;                     // empty = all records
  double entropy = no_number;             // nats, of the experts' shares of selections
  double entropy_normalised = no_number;  // divided by log(experts); 1 where there is one expert
  // 1 - sum |c - mean c| / (2 sum c): 1 = all experts equally often.
  double load_balance = no_number;
  double effective_experts = no_number;  // exp(entropy)
};
// Of a usage table, layer by layer and domain by domain in its order.
std::vector<Balance> balances(const std::vector<Usage>& usage);

void write_domains_csv(const std::filesystem::path& file, const std::vector<DomainTest>& rows);
void write_balance_csv(const std::filesystem::path& file, const std::vector<Balance>& rows);

}  // namespace signalbox::eval
