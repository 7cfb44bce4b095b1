#include "eval/routing/saturation.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <string>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/no_number.h"
#include "eval/routing/likeness.h"
#include "eval/routing/route_walk.h"
#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

constexpr int64_t saturation_rows = 2048;

// Sums of one record.
struct RecordSums {
  std::vector<double> shares, jaccards;   // [layers] of |A and B| / |B|, of |A and B| / |A or B|
  std::vector<int64_t> tokens;            // [layers]
  std::vector<int32_t> in_a, in_b, both;  // [layers x experts] tokens
  RecordSums(size_t n_layers, size_t n_rows)
      : shares(n_layers), jaccards(n_layers), tokens(n_layers), in_a(n_rows), in_b(n_rows), both(n_rows) {}
};

// Layers that both recorded: their places in each.
struct CommonLayers {
  std::vector<int32_t> layers, at_a, at_b;
};

CommonLayers common_layers(const TraceReader& a, const TraceReader& b) {
  for (const TraceReader* trace : {&a, &b})
    if (!trace->has("router.ids")) throw Error(trace->file(), "expected routes (router.ids), found none");
  if (a.n_experts() != b.n_experts())
    throw Error(b.file(), "expected the " + std::to_string(a.n_experts()) + " experts of " + a.file() + ", found " +
                              std::to_string(b.n_experts()));
  CommonLayers out;
  for (size_t i = 0; i < a.layers().size(); ++i)
    if (const auto at = b.layer_index(a.layers()[i])) {
      out.layers.push_back(a.layers()[i]);
      out.at_a.push_back(static_cast<int32_t>(i));
      out.at_b.push_back(*at);
    }
  if (out.layers.empty()) throw Error(b.file(), "expected a recorded layer of " + a.file() + ", found none");
  return out;
}

int64_t same_tokens(const TraceReader& a, TraceReader::Rows rows_a, const TraceReader& b, TraceReader::Rows rows_b) {
  const std::vector<int32_t> x = a.tokens(rows_a), y = b.tokens(rows_b);
  const auto shorter = static_cast<int64_t>(std::min(x.size(), y.size()));
  return std::mismatch(x.begin(), x.begin() + shorter, y.begin()).first - x.begin();
}

// `chance_b` [layers x experts] gains 1 / |B(t)| for every expert of B.
void add_sample(const TraceReader& a, int64_t begin_a, const TraceReader& b, int64_t begin_b, int64_t n_tokens,
                const CommonLayers& common, RecordSums& sums, std::vector<double>& chance_b) {
  const int64_t width_a = static_cast<int64_t>(a.layers().size()) * a.n_slots(),
                width_b = static_cast<int64_t>(b.layers().size()) * b.n_slots();
  const size_t n_experts = static_cast<size_t>(a.n_experts());
  for (int64_t done = 0; done < n_tokens; done += saturation_rows) {
    const int64_t n = std::min(saturation_rows, n_tokens - done);
    const std::vector<int32_t> ids_a = a.ids({begin_a + done, begin_a + done + n}),
                               ids_b = b.ids({begin_b + done, begin_b + done + n});
    for (int64_t token = 0; token < n; ++token)
      for (size_t layer = 0; layer < common.layers.size(); ++layer) {
        const std::span route_a(ids_a.data() + token * width_a + common.at_a[layer] * a.n_slots(),
                                static_cast<size_t>(a.n_slots())),
            route_b(ids_b.data() + token * width_b + common.at_b[layer] * b.n_slots(),
                    static_cast<size_t>(b.n_slots()));
        const RoutePair pair = compare_routes({route_a, {}}, {route_b, {}});
        if (pair.baseline == 0) continue;
        ++sums.tokens[layer];
        sums.shares[layer] += static_cast<double>(pair.common) / static_cast<double>(pair.baseline);
        sums.jaccards[layer] += pair.jaccard();
        for (const int32_t expert : route_a)
          if (expert >= 0) ++sums.in_a[layer * n_experts + static_cast<size_t>(expert)];
        for (const int32_t expert : route_b) {
          if (expert < 0) continue;
          const size_t row = layer * n_experts + static_cast<size_t>(expert);
          ++sums.in_b[row];
          sums.both[row] += std::find(route_a.begin(), route_a.end(), expert) != route_a.end();
          chance_b[row] += 1 / static_cast<double>(pair.baseline);
        }
      }
  }
}

double share_of(double part, double whole) { return whole > 0 ? part / whole : no_number; }

// What is resampled, all from the same sums: [layers] saturation, jaccard, then [rows] saturation, jaccard.
std::vector<double> statistics_of(const RecordSums& total) {
  std::vector<double> out;
  for (const std::vector<double>* sums : {&total.shares, &total.jaccards})
    for (size_t layer = 0; layer < sums->size(); ++layer)
      out.push_back(share_of((*sums)[layer], static_cast<double>(total.tokens[layer])));
  for (size_t row = 0; row < total.both.size(); ++row) out.push_back(share_of(total.both[row], total.in_b[row]));
  for (size_t row = 0; row < total.both.size(); ++row)
    out.push_back(share_of(total.both[row], total.in_a[row] + total.in_b[row] - total.both[row]));
  return out;
}

void add_times(RecordSums& to, const RecordSums& from, int32_t times) {
  for (size_t layer = 0; layer < to.tokens.size(); ++layer) {
    to.shares[layer] += times * from.shares[layer];
    to.jaccards[layer] += times * from.jaccards[layer];
    to.tokens[layer] += times * from.tokens[layer];
  }
  for (size_t row = 0; row < to.both.size(); ++row) {
    to.in_a[row] += times * from.in_a[row];
    to.in_b[row] += times * from.in_b[row];
    to.both[row] += times * from.both[row];
  }
}

// An interval for each of statistics_of.
std::vector<Interval> intervals_of(const std::vector<RecordSums>& records, const SaturationOptions& options) {
  const RecordSums none(records[0].tokens.size(), records[0].both.size());
  std::vector<std::vector<double>> values(static_cast<size_t>(options.resamples));
  RouteOptions threads;
  threads.threads = options.threads;
  ThreadPool pool(threads_of(threads));
  if (records.size() > 1)
    pool.parallel_for(options.resamples, [&](int64_t replicate, int) {
      std::vector<uint32_t> bits(records.size());
      std::vector<int32_t> times(records.size());
      ResamplingDraws(options.seed, Resampling::bootstrap).fill(replicate, bits);
      for (const uint32_t one : bits) ++times[ResamplingDraws::below(one, records.size())];
      RecordSums total = none;
      for (size_t r = 0; r < records.size(); ++r)
        if (times[r] > 0) add_times(total, records[r], times[r]);
      values[static_cast<size_t>(replicate)] = statistics_of(total);
    });
  std::vector<Interval> out(statistics_of(none).size(), {no_number, no_number});
  if (records.size() > 1)
    pool.parallel_for(static_cast<int64_t>(out.size()), [&](int64_t i, int) {
      std::vector<double> sorted;
      for (const std::vector<double>& replicate : values)
        if (const double value = replicate[static_cast<size_t>(i)]; !std::isnan(value)) sorted.push_back(value);
      std::sort(sorted.begin(), sorted.end());
      out[static_cast<size_t>(i)] = {quantile(sorted, 0.025), quantile(sorted, 0.975)};
    });
  return out;
}

}  // namespace

Saturation saturation(const TraceReader& earlier, const TraceReader& later, const SaturationOptions& options) {
  const CommonLayers common = common_layers(earlier, later);
  const size_t n_layers = common.layers.size(), n_experts = static_cast<size_t>(earlier.n_experts()),
               n_rows = n_layers * n_experts;
  std::vector<RecordSums> records;
  std::map<std::string, size_t> place;
  std::map<std::string, int64_t> seen;
  std::vector<double> chance_b(n_rows);
  for (int64_t s = 0; s < earlier.n_samples(); ++s) {
    const std::string& id = earlier.sample_ids()[static_cast<size_t>(s)];
    const auto match = later.find_sample(id, seen[id]++);
    if (!match) continue;
    const TraceReader::Rows rows_a = earlier.rows(s), rows_b = later.rows(*match);
    const int64_t n = same_tokens(earlier, rows_a, later, rows_b);
    if (n == 0) continue;
    const auto [at, added] = place.try_emplace(id, records.size());
    if (added) records.emplace_back(n_layers, n_rows);
    add_sample(earlier, rows_a.begin, later, rows_b.begin, n, common, records[at->second], chance_b);
  }
  if (records.empty()) throw Error(later.file(), "expected tokens that " + earlier.file() + " has too, found none");

  RecordSums total(n_layers, n_rows);
  for (const RecordSums& record : records) add_times(total, record, 1);
  const std::vector<double> found = statistics_of(total);
  const std::vector<Interval> ci = intervals_of(records, options);
  Saturation out;
  out.records = static_cast<int64_t>(records.size());
  for (size_t layer = 0; layer < n_layers; ++layer) {
    const double n = static_cast<double>(total.tokens[layer]);
    double chance = 0;
    for (size_t row = layer * n_experts; row < (layer + 1) * n_experts; ++row)
      chance += share_of(total.in_a[row], n) * share_of(chance_b[row], n);
    out.layers.push_back({common.layers[layer], total.tokens[layer], found[layer], found[n_layers + layer], ci[layer],
                          ci[n_layers + layer], chance});
  }
  for (size_t row = 0; row < n_rows; ++row) {
    const size_t first = 2 * n_layers + row, second = first + n_rows;
    out.experts.push_back({common.layers[row / n_experts], static_cast<int32_t>(row % n_experts), total.in_a[row],
                           total.in_b[row], total.both[row], found[first], found[second], ci[first], ci[second]});
  }
  return out;
}

void write_saturation_csv(const std::filesystem::path& file, const std::vector<LayerSaturation>& rows) {
  CsvWriter csv({"layer", "tokens", "saturation", "ci_lo", "ci_hi", "chance", "jaccard", "jaccard_lo", "jaccard_hi"});
  for (const LayerSaturation& row : rows) {
    csv.cell(int64_t{row.layer}).cell(row.tokens).cell(row.saturation).cell(row.saturation_ci.lo);
    csv.cell(row.saturation_ci.hi).cell(row.chance).cell(row.jaccard).cell(row.jaccard_ci.lo);
    csv.cell(row.jaccard_ci.hi).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_expert_saturation_csv(const std::filesystem::path& file, const std::vector<ExpertSaturation>& rows) {
  CsvWriter csv({"layer", "expert", "tokens_a", "tokens_b", "both", "saturation", "ci_lo", "ci_hi", "jaccard",
                 "jaccard_lo", "jaccard_hi"});
  for (const ExpertSaturation& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.tokens_a).cell(row.tokens_b).cell(row.both);
    csv.cell(row.saturation).cell(row.saturation_ci.lo).cell(row.saturation_ci.hi);
    csv.cell(row.jaccard).cell(row.jaccard_ci.lo).cell(row.jaccard_ci.hi).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
