// Which kinds of tokens (token_classes.h) an expert takes more or less of than of the others: taxonomy.csv.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/route_walk.h"
#include "eval/routing/token_classes.h"

namespace signalbox::eval {

inline constexpr double taxonomy_expected = 5;  // tokens of the class, and of the others, that an expert must be due

// Numbers of the half of the units that explores (units.h).
struct TaxonomyRow {
  int32_t layer = 0, expert = 0;
  TokenClass of = TokenClass::first;
  int64_t count = 0;         // tokens of the class that select the expert
  double ratio = no_number;  // share of the class's tokens that select it / share of the others' (rate_ratio)
  // exp(log ratio -+ t se), se by linearisation over units with their number less 1 degrees of freedom; where a side
  // has no token that selects the expert half a token stands for it, with a variance of its own (2), and where the
  // class has none, ci_lo is 0. No error, of this or of p, is taken for smaller than that of independent tokens.
  double ci_lo = no_number, ci_hi = no_number;
  // Student's t of count - tokens of the class x tokens of the expert / tokens, over its own linearised error:
  // two-sided; q by Benjamini-Hochberg over all rows.
  double p = no_number, q = no_number;
  // Whether the other half's interval lies on the same side of 1; none where it has too few tokens.
  std::optional<bool> replicated;
};
// Rows of experts and classes with enough tokens (taxonomy_expected), by layer, expert, class. Tokens without a piece
// take no part.
std::vector<TaxonomyRow> taxonomy(const TraceSet& set, const RouteOptions& options, const TokenSpelling& spelling);

void write_taxonomy_csv(const std::filesystem::path& file, const std::vector<TaxonomyRow>& rows);

}  // namespace signalbox::eval
