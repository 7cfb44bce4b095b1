#include "eval/routing/margins.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/csv.h"
#include "base/files.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_values = size_t{1} << 25;  // of the layers that are held at once

float margin_of(std::vector<float>& logits, int64_t k) {
  std::nth_element(logits.begin(), logits.begin() + k, logits.end(), std::greater<>());
  return *std::min_element(logits.begin(), logits.begin() + k) - logits[static_cast<size_t>(k)];
}

// Values of one layer and domain.
Margins summary_of(int32_t layer, const std::string& domain, std::vector<double> values) {
  Margins out;
  out.layer = layer;
  out.domain = domain;
  out.tokens = static_cast<int64_t>(values.size());
  std::sort(values.begin(), values.end());
  for (const double q : margin_quantiles) out.quantiles.push_back(quantile(values, q));
  for (const double bound : margin_bounds) {
    const auto below = std::lower_bound(values.begin(), values.end(), bound) - values.begin();
    out.below.push_back(values.empty() ? no_number : static_cast<double>(below) / static_cast<double>(values.size()));
  }
  return out;
}

}  // namespace

bool margins_recorded(const TraceSet& set) {
  if (set.trace(0).n_active() >= set.n_experts()) return false;
  for (size_t t = 0; t < set.n_traces(); ++t)
    if (!set.trace(t).has("router.margin") && !set.trace(t).has("router.logits")) return false;
  return true;
}

std::vector<Margins> margins(const TraceSet& set, const RouteOptions& options) {
  std::vector<std::string> names = set.domains();
  names.insert(names.begin(), std::string());
  const size_t n_layers = set.layers().size(), n_experts = static_cast<size_t>(set.n_experts());
  int64_t tokens = 0;
  for (size_t t = 0; t < set.n_traces(); ++t) tokens += set.trace(t).n_tokens();
  const size_t at_once = std::clamp<size_t>(most_values / std::max<size_t>(static_cast<size_t>(tokens), 1), 1,
                                            std::max<size_t>(n_layers, 1));
  std::vector<Margins> out;
  for (size_t begin = 0; begin < n_layers; begin += at_once) {
    const size_t end = std::min(begin + at_once, n_layers);
    std::vector<std::vector<std::vector<double>>> values(end - begin, std::vector<std::vector<double>>(names.size()));
    for_each_block(set, options.filter,
                   [&](const TraceSample& sample, TraceReader::Rows rows, const std::vector<uint8_t>& counted) {
                     const TraceReader& trace = set.trace(sample.trace);
                     const bool recorded = trace.has("router.margin");
                     const std::vector<float> read = trace.floats(recorded ? "router.margin" : "router.logits", rows);
                     const std::string& domain = set.records()[sample.record].domain;
                     const size_t place =
                         static_cast<size_t>(std::find(names.begin(), names.end(), domain) - names.begin());
                     std::vector<float> logits(n_experts);
                     for (size_t i = 0; i < counted.size(); ++i)
                       for (size_t layer = begin; layer < end && counted[i]; ++layer) {
                         const size_t at = i * n_layers + layer;
                         float margin = 0;
                         if (recorded) {
                           margin = read[at];
                         } else {
                           std::copy_n(read.begin() + static_cast<int64_t>(at * n_experts), n_experts, logits.begin());
                           margin = margin_of(logits, trace.n_active());
                         }
                         if (!std::isfinite(margin)) continue;
                         values[layer - begin][place].push_back(static_cast<double>(margin));
                       }
                   });
    for (size_t layer = begin; layer < end; ++layer) {
      std::vector<std::vector<double>>& of_domain = values[layer - begin];
      std::vector<double> all;
      for (const std::vector<double>& one : of_domain) all.insert(all.end(), one.begin(), one.end());
      out.push_back(summary_of(set.layers()[layer], "", std::move(all)));
      for (size_t d = 1; d < names.size(); ++d)
        if (!of_domain[d].empty()) out.push_back(summary_of(set.layers()[layer], names[d], std::move(of_domain[d])));
    }
  }
  return out;
}

void write_margins_csv(const std::filesystem::path& file, const std::vector<Margins>& rows) {
  CsvWriter csv({"layer", "domain", "tokens", "p1", "p5", "p25", "median", "p75", "p95", "below_0.001", "below_0.01",
                 "below_0.1"});
  for (const Margins& row : rows) {
    csv.cell(int64_t{row.layer}).cell(row.domain).cell(row.tokens);
    for (const std::vector<double>* of : {&row.quantiles, &row.below})
      for (const double value : *of) csv.cell(value);
    csv.end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
