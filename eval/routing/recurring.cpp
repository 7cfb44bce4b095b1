#include "eval/routing/recurring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/near_names.h"
#include "base/no_number.h"
#include "base/text.h"
#include "base/thread_pool.h"
#include "eval/routing/equal_lengths.h"
#include "eval/statistics/draws.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

namespace {

constexpr size_t block_experts = 64;  // experts whose replicates are made together

// The trajectories of one base prompt under one regime, averaged.
struct Cell {
  std::vector<double> share, weight;  // [rows]
  std::vector<const Trajectory*> trajectories;
  double length = 0;
};

// Everything by base prompt.
struct Table {
  std::vector<std::string> regimes;  // the baseline first
  std::vector<std::string> bases;    // in order of first appearance
  std::vector<int64_t> unit;         // [bases]
  int64_t n_units = 0;
  std::vector<std::vector<Cell>> cells;  // [regimes][bases]; no trajectories: the pair is missing
  bool has(size_t regime, size_t base) const { return !cells[regime][base].trajectories.empty(); }
};

void average(Cell& cell, size_t n_rows) {
  cell.share.assign(n_rows, 0);
  cell.weight.assign(n_rows, 0);
  const double n = static_cast<double>(cell.trajectories.size());
  for (const Trajectory* t : cell.trajectories) {
    cell.length += static_cast<double>(t->n_tokens);
    for (size_t r = 0; r < n_rows; ++r) {
      cell.share[r] += t->share(r);
      cell.weight[r] += t->weight[r];
    }
  }
  cell.length /= n;
  for (size_t r = 0; r < n_rows; ++r) {
    cell.share[r] /= n;
    cell.weight[r] /= n;
  }
}

template <class T>
size_t index_of(std::vector<T>& list, const T& value) {
  const auto found = std::find(list.begin(), list.end(), value);
  if (found != list.end()) return static_cast<size_t>(found - list.begin());
  list.push_back(value);
  return list.size() - 1;
}

Table make_table(const RoutingProfiles& profiles, const RegimeOptions& options) {
  Table table;
  table.regimes = {options.baseline};
  std::map<std::string, size_t> base_at, unit_at;
  for (const Trajectory& t : profiles.trajectories) {
    index_of(table.regimes, t.regime);
    const auto [base, fresh] = base_at.emplace(t.base, table.bases.size());
    const auto unit = unit_at.emplace(t.unit, unit_at.size()).first;
    if (fresh) {
      table.bases.push_back(t.base);
      table.unit.push_back(static_cast<int64_t>(unit->second));
    }
  }
  table.n_units = static_cast<int64_t>(unit_at.size());
  table.cells.assign(table.regimes.size(), std::vector<Cell>(table.bases.size()));
  for (const Trajectory& t : profiles.trajectories)
    table.cells[index_of(table.regimes, t.regime)][base_at.at(t.base)].trajectories.push_back(&t);
  for (auto& row : table.cells)
    for (Cell& cell : row)
      if (!cell.trajectories.empty()) average(cell, profiles.n_rows());

  auto count = [&](size_t regime, bool paired) {
    int64_t n = 0;
    for (size_t b = 0; b < table.bases.size(); ++b) n += table.has(regime, b) && (!paired || table.has(0, b));
    return n;
  };
  if (count(0, false) == 0) {
    throw Error("--baseline", wrong_name("a condition of the records", options.baseline,
                                         {table.regimes.begin() + 1, table.regimes.end()}));
  }
  if (table.regimes.size() < 2)
    throw Error("regimes", "expected trajectories of another regime beside \"" + options.baseline + "\", found none");
  for (size_t r = 1; r < table.regimes.size(); ++r)
    if (count(r, true) == 0)
      throw Error("regime \"" + table.regimes[r] + "\"",
                  "expected a base prompt that \"" + options.baseline + "\" has too, found none");
  return table;
}

// A value for each base prompt that has one; absent: not counted.
template <class Value>
ClusteredValues column(const Table& table, Value value) {
  UnitValues values;
  for (size_t b = 0; b < table.bases.size(); ++b)
    if (const std::optional<double> x = value(b)) values.add(*x, table.unit[b]);
  return values.clustered();
}

// How many trajectories a prompt of the regime has.
double trajectories_a_prompt(const Table& table, size_t regime) {
  double trajectories = 0, prompts = 0;
  for (const Cell& cell : table.cells[regime]) {
    trajectories += static_cast<double>(cell.trajectories.size());
    prompts += !cell.trajectories.empty();
  }
  return trajectories / prompts;
}

// Whether two regimes ask in the same words, wherever both ask.
bool same_words(const Table& table, size_t a, size_t b) {
  bool any = false;
  for (size_t base = 0; base < table.bases.size(); ++base) {
    if (!table.has(a, base) || !table.has(b, base)) continue;
    const uint64_t one = table.cells[a][base].trajectories.front()->wording,
                   other = table.cells[b][base].trajectories.front()->wording;
    if (one == 0 || one != other) return false;
    any = true;
  }
  return any;
}

// What regimes are for, by index; 0 = none.
struct Roles {
  size_t sampled = 0, sampled_baseline = 0;
  std::vector<size_t> others;    // that rise and n_up go over
  std::vector<size_t> wordings;  // of these, those with words of their own
};

size_t named_regime(const Table& table, const std::string& name, const char* flag) {
  const auto found = std::find(table.regimes.begin() + 1, table.regimes.end(), name);
  if (found == table.regimes.end())
    throw Error(flag,
                wrong_name("a regime other than the baseline", name, {table.regimes.begin() + 1, table.regimes.end()}));
  return static_cast<size_t>(found - table.regimes.begin());
}

// The regime with the most trajectories a prompt, more than one, among those that are `wanted`; 0 = none.
template <class Wanted>
size_t most_sampled(const Table& table, Wanted wanted) {
  size_t best = 0;
  double most = 1;
  for (size_t r = 1; r < table.regimes.size(); ++r) {
    if (!wanted(r) || !(trajectories_a_prompt(table, r) > most)) continue;
    most = trajectories_a_prompt(table, r);
    best = r;
  }
  return best;
}

Roles roles_of(const Table& table, const RegimeOptions& options) {
  Roles roles;
  const auto like_baseline = [&](size_t r) { return same_words(table, 0, r); };
  if (!options.sampled.empty()) {
    roles.sampled = named_regime(table, options.sampled, "--persistence");
  } else {
    roles.sampled = most_sampled(table, [&](size_t r) { return !like_baseline(r); });
    if (roles.sampled == 0) roles.sampled = most_sampled(table, [](size_t) { return true; });
  }
  if (!options.sampled_baseline.empty()) {
    roles.sampled_baseline = named_regime(table, options.sampled_baseline, "--persistence-baseline");
    if (roles.sampled_baseline == roles.sampled || !like_baseline(roles.sampled_baseline))
      throw Error("--persistence-baseline", "expected a regime that asks in the words of \"" + options.baseline +
                                                "\" and is not that of --persistence, found \"" +
                                                options.sampled_baseline + "\"");
  } else if (roles.sampled > 0) {
    roles.sampled_baseline = most_sampled(table, [&](size_t r) { return r != roles.sampled && like_baseline(r); });
  }
  for (size_t r = 1; r < table.regimes.size(); ++r) {
    if (r != roles.sampled_baseline) roles.others.push_back(r);
    if (like_baseline(r)) continue;
    if (std::none_of(roles.wordings.begin(), roles.wordings.end(),
                     [&](size_t earlier) { return same_words(table, earlier, r); }))
      roles.wordings.push_back(r);
  }
  return roles;
}

// For each base prompt that has both, and each expert: the mean over pairs of trajectories of used_more, of the regime
// against the baseline. Empty rows elsewhere.
using Constancies = std::vector<std::vector<double>>;
Constancies constancies(const Table& table, size_t regime, size_t n_rows, int threads) {
  Constancies out(table.bases.size());
  if (regime == 0) return out;
  ThreadPool pool(std::max(threads, 1));
  pool.parallel_for(static_cast<int64_t>(out.size()), [&](int64_t b, int) {
    const auto base = static_cast<size_t>(b);
    if (!table.has(regime, base) || !table.has(0, base)) return;
    std::vector<double>& values = out[base];
    values.assign(n_rows, 0);
    const auto &mine = table.cells[regime][base].trajectories, &theirs = table.cells[0][base].trajectories;
    for (const Trajectory* one : mine)
      for (const Trajectory* other : theirs)
        for (size_t row = 0; row < n_rows; ++row)
          values[row] += used_more({one->count[row], one->n_tokens}, {other->count[row], other->n_tokens});
    for (double& value : values) value /= static_cast<double>(mine.size() * theirs.size());
  });
  return out;
}

std::optional<double> value_at(const Constancies& values, size_t base, size_t row) {
  return values[base].empty() ? std::nullopt : std::optional(values[base][row]);
}

// Equal shares that were averaged in another order are equal: a difference of rounding would have the same sign in all
// prompts.
std::optional<double> difference_of(const Table& table, size_t regime, size_t base, size_t row) {
  if (!table.has(regime, base) || !table.has(0, base)) return std::nullopt;
  const double difference = table.cells[regime][base].share[row] - table.cells[0][base].share[row];
  return std::abs(difference) < 1e-12 ? 0.0 : difference;
}

double rise_of(std::vector<double>& differences) {
  if (differences.empty()) return no_number;
  if (differences.size() == 1) return differences[0];
  std::nth_element(differences.begin(), differences.begin() + 1, differences.end(), std::greater<>());
  return differences[1];
}

double score_of(double rise, double constancy) {
  return std::max(rise, 0.0) * (std::isnan(constancy) ? 1.0 : constancy);
}

std::vector<RegimeProfile> regime_profiles(const Table& table, const RegimeOptions& options, size_t n_rows) {
  std::vector<RegimeProfile> regimes(table.regimes.size());
  std::vector<ClusteredValues> lengths;
  for (size_t r = 0; r < regimes.size(); ++r) {
    RegimeProfile& regime = regimes[r];
    regime.name = table.regimes[r];
    regime.experts.resize(n_rows);
    regime.shortest = std::numeric_limits<int64_t>::max();
    for (size_t b = 0; b < table.bases.size(); ++b) {
      const Cell& cell = table.cells[r][b];
      regime.n_prompts += table.has(r, b);
      regime.n_paired += r > 0 && table.has(r, b) && table.has(0, b);
      regime.n_trajectories += static_cast<int64_t>(cell.trajectories.size());
      for (const Trajectory* t : cell.trajectories) {
        regime.shortest = std::min(regime.shortest, t->n_tokens);
        regime.longest = std::max(regime.longest, t->n_tokens);
      }
    }
    lengths.push_back(column(
        table, [&](size_t b) { return table.has(r, b) ? std::optional(table.cells[r][b].length) : std::nullopt; }));
    std::vector<ClusteredValues> shares, differences;
    for (size_t row = 0; row < n_rows; ++row) {
      shares.push_back(column(table, [&](size_t b) {
        return table.has(r, b) ? std::optional(table.cells[r][b].share[row]) : std::nullopt;
      }));
      double weight = 0;
      for (size_t b = 0; b < table.bases.size(); ++b)
        if (table.has(r, b)) weight += table.cells[r][b].weight[row];
      regime.experts[row].weight = weight / static_cast<double>(regime.n_prompts);
      if (r > 0) differences.push_back(column(table, [&](size_t b) { return difference_of(table, r, b, row); }));
    }
    const auto share_means = bootstrap_means(shares, options.seed, options.resamples, options.threads);
    for (size_t row = 0; row < n_rows; ++row) regime.experts[row].share = share_means[row];
    if (r == 0) continue;
    const auto means = bootstrap_means(differences, options.seed, options.resamples, options.threads);
    const auto ps = sign_flip_ps(differences, options.seed, options.resamples, options.threads);
    for (size_t row = 0; row < n_rows; ++row) {
      regime.experts[row].difference = means[row];
      regime.experts[row].p = ps[row];
    }
  }
  const auto means = bootstrap_means(lengths, options.seed, options.resamples, options.threads);
  std::vector<double> family;
  for (size_t r = 0; r < regimes.size(); ++r) {
    regimes[r].length = means[r];
    if (r > 0)
      for (const RegimeExpert& expert : regimes[r].experts) family.push_back(expert.p);
  }
  const std::vector<double> q = benjamini_hochberg(family);
  for (size_t r = 1; r < regimes.size(); ++r)
    for (size_t row = 0; row < n_rows; ++row) regimes[r].experts[row].q = q[(r - 1) * n_rows + row];
  return regimes;
}

// How often each unit is drawn, [resamples, units].
std::vector<uint16_t> multiplicities(const RegimeOptions& options, int64_t n_units) {
  std::vector<uint16_t> out(static_cast<size_t>(options.resamples * n_units), 0);
  std::vector<uint32_t> bits(static_cast<size_t>(n_units));
  const ResamplingDraws draws(options.seed, Resampling::bootstrap);
  for (int64_t r = 0; r < options.resamples; ++r) {
    draws.fill(r, bits);
    for (uint32_t b : bits) ++out[static_cast<size_t>(r * n_units) + ResamplingDraws::below(b, bits.size())];
  }
  return out;
}

// Values by unit of one quantity (a regime's difference, or the constancy) for a block of experts.
struct UnitSums {
  std::vector<double> sums;    // [units, block]
  std::vector<double> counts;  // [units]: base prompts of the unit that have the quantity
};

// Percentile intervals of the scores of experts begin .. end - 1.
void score_block(const Table& table, const RegimeOptions& options, const std::vector<uint16_t>& draws,
                 const Roles& roles, const Constancies& kept, size_t begin, size_t end, std::vector<Interval>& out) {
  const size_t width = end - begin, n_regimes = roles.others.size();
  const size_t n_units = static_cast<size_t>(table.n_units), n_quantities = n_regimes + (roles.sampled > 0 ? 1 : 0);
  std::vector<UnitSums> units(n_quantities);
  for (size_t q = 0; q < n_quantities; ++q) {
    units[q].sums.assign(n_units * width, 0);
    units[q].counts.assign(n_units, 0);
    for (size_t b = 0; b < table.bases.size(); ++b) {
      const size_t regime = q < n_regimes ? roles.others[q] : roles.sampled;
      if (!table.has(regime, b) || !table.has(0, b)) continue;
      units[q].counts[table.unit[b]] += 1;
      for (size_t j = 0; j < width; ++j)
        units[q].sums[static_cast<size_t>(table.unit[b]) * width + j] +=
            q < n_regimes ? *difference_of(table, regime, b, begin + j) : *value_at(kept, b, begin + j);
    }
  }
  std::vector<std::vector<double>> scores(width);
  std::vector<double> sums(n_quantities * width), counts(n_quantities), differences;
  for (int64_t r = 0; r < options.resamples; ++r) {
    const uint16_t* drawn = draws.data() + static_cast<size_t>(r) * n_units;
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(counts.begin(), counts.end(), 0.0);
    for (size_t u = 0; u < n_units; ++u) {
      if (drawn[u] == 0) continue;
      const double times = drawn[u];
      for (size_t q = 0; q < n_quantities; ++q) {
        counts[q] += times * units[q].counts[u];
        const double* from = units[q].sums.data() + u * width;
        double* to = sums.data() + q * width;
        for (size_t j = 0; j < width; ++j) to[j] += times * from[j];
      }
    }
    if (std::find(counts.begin(), counts.end(), 0.0) != counts.end()) continue;  // a quantity has no prompt here
    for (size_t j = 0; j < width; ++j) {
      differences.clear();
      for (size_t q = 0; q < n_regimes; ++q) differences.push_back(sums[q * width + j] / counts[q]);
      const double constancy = roles.sampled > 0 ? sums[n_regimes * width + j] / counts[n_regimes] : no_number;
      scores[j].push_back(score_of(rise_of(differences), constancy));
    }
  }
  for (size_t j = 0; j < width; ++j) {
    std::sort(scores[j].begin(), scores[j].end());
    out[begin + j] = {quantile(scores[j], 0.025), quantile(scores[j], 0.975)};
  }
}

// The mean of each expert over base prompts; NaN where no prompt has a value.
template <class Value>
std::vector<MeanEstimate> expert_means(const Table& table, const RegimeOptions& options, size_t n_rows, Value value) {
  std::vector<ClusteredValues> columns;
  for (size_t row = 0; row < n_rows; ++row) columns.push_back(column(table, [&](size_t b) { return value(b, row); }));
  return bootstrap_means(columns, options.seed, options.resamples, options.threads);
}

std::vector<RecurringExpert> recurring_experts(const Table& table, const std::vector<RegimeProfile>& regimes,
                                               const RegimeOptions& options, const Roles& roles, size_t n_rows) {
  const MeanEstimate absent{no_number, {no_number, no_number}, 0};
  const Constancies mine = constancies(table, roles.sampled, n_rows, options.threads),
                    theirs = constancies(table, roles.sampled_baseline, n_rows, options.threads);
  std::vector<MeanEstimate> kept(n_rows, absent), kept_baseline = kept, over = kept;
  if (roles.sampled > 0)
    kept = expert_means(table, options, n_rows, [&](size_t b, size_t row) { return value_at(mine, b, row); });
  if (roles.sampled_baseline > 0) {
    kept_baseline =
        expert_means(table, options, n_rows, [&](size_t b, size_t row) { return value_at(theirs, b, row); });
    over = expert_means(table, options, n_rows, [&](size_t b, size_t row) -> std::optional<double> {
      if (mine[b].empty() || theirs[b].empty()) return std::nullopt;
      return mine[b][row] - theirs[b][row];
    });
  }
  const std::vector<uint16_t> draws = multiplicities(options, table.n_units);
  std::vector<Interval> intervals(n_rows);
  ThreadPool pool(std::max(options.threads, 1));
  pool.parallel_for(static_cast<int64_t>((n_rows + block_experts - 1) / block_experts), [&](int64_t block, int) {
    const size_t begin = static_cast<size_t>(block) * block_experts;
    score_block(table, options, draws, roles, mine, begin, std::min(begin + block_experts, n_rows), intervals);
  });

  std::vector<RecurringExpert> out(n_rows);
  for (size_t row = 0; row < n_rows; ++row) {
    RecurringExpert& expert = out[row];
    expert.row = row;
    const auto over_regimes = [&](const std::vector<size_t>& list, int64_t& n_up) {
      std::vector<double> differences;
      for (const size_t r : list) {
        const RegimeExpert& under = regimes[r].experts[row];
        differences.push_back(under.difference.mean);
        n_up += under.difference.mean > 0 && under.q < options.level;
      }
      return rise_of(differences);
    };
    expert.rise = over_regimes(roles.others, expert.n_up);
    expert.rise_wordings = over_regimes(roles.wordings, expert.n_up_wordings);
    expert.constancy = kept[row];
    expert.sampled_baseline = kept_baseline[row];
    expert.over_baseline = over[row];
    expert.score = score_of(expert.rise, kept[row].mean);
    expert.score_ci = intervals[row];
  }
  std::stable_sort(out.begin(), out.end(), [](const RecurringExpert& a, const RecurringExpert& b) {
    if (a.score_ci.lo != b.score_ci.lo) return a.score_ci.lo > b.score_ci.lo;
    return a.score > b.score;
  });
  return out;
}

// Base prompts of a regime by level of difficulty.
struct Level {
  double difficulty = 0;
  std::vector<size_t> bases;
};

DifficultyTrend trend_of(const Table& table, size_t regime, const std::map<double, std::vector<size_t>>& bases_of,
                         const RegimeOptions& options, size_t n_rows) {
  DifficultyTrend trend;
  trend.regime = table.regimes[regime];
  std::vector<Level> levels;
  for (const auto& [difficulty, bases] : bases_of) {
    Level level{difficulty, {}};
    for (size_t b : bases)
      if (table.has(regime, b)) level.bases.push_back(b);
    if (!level.bases.empty()) levels.push_back(level);
  }
  if (levels.size() < 2) return trend;
  double mean = 0, square = 0;
  for (const Level& level : levels) mean += level.difficulty / static_cast<double>(levels.size());
  for (const Level& level : levels) square += (level.difficulty - mean) * (level.difficulty - mean);
  // What a base prompt drawn once adds to the slope.
  std::vector<double> factor;
  std::vector<size_t> first, members;
  for (const Level& level : levels) {
    trend.levels.push_back(level.difficulty);
    first.push_back(members.size());
    factor.push_back((level.difficulty - mean) / square / static_cast<double>(level.bases.size()));
    members.insert(members.end(), level.bases.begin(), level.bases.end());
  }
  trend.slope.assign(n_rows, 0);
  trend.ci.resize(n_rows);
  for (size_t k = 0; k < levels.size(); ++k)
    for (size_t b : levels[k].bases)
      for (size_t row = 0; row < n_rows; ++row) trend.slope[row] += factor[k] * table.cells[regime][b].share[row];

  ThreadPool pool(std::max(options.threads, 1));
  pool.parallel_for(static_cast<int64_t>((n_rows + block_experts - 1) / block_experts), [&](int64_t block, int) {
    const size_t begin = static_cast<size_t>(block) * block_experts, width = std::min(block_experts, n_rows - begin);
    const ResamplingDraws draws(options.seed, Resampling::bootstrap, 1);
    std::vector<uint32_t> bits(members.size());
    std::vector<std::vector<double>> slopes(width, std::vector<double>(static_cast<size_t>(options.resamples), 0.0));
    for (int64_t r = 0; r < options.resamples; ++r) {
      draws.fill(r, bits);
      for (size_t k = 0; k < levels.size(); ++k)
        for (size_t i = 0; i < levels[k].bases.size(); ++i) {
          const size_t b = levels[k].bases[ResamplingDraws::below(bits[first[k] + i], levels[k].bases.size())];
          const double* share = table.cells[regime][b].share.data() + begin;
          for (size_t j = 0; j < width; ++j) slopes[j][static_cast<size_t>(r)] += factor[k] * share[j];
        }
    }
    for (size_t j = 0; j < width; ++j) {
      std::sort(slopes[j].begin(), slopes[j].end());
      trend.ci[begin + j] = {quantile(slopes[j], 0.025), quantile(slopes[j], 0.975)};
    }
  });
  return trend;
}

std::vector<DifficultyTrend> difficulty_trends(const Table& table, const RegimeOptions& options, size_t n_rows) {
  std::map<double, std::vector<size_t>> bases_of;
  for (size_t b = 0; b < table.bases.size(); ++b) {
    const Trajectory* any = nullptr;
    for (size_t r = 0; r < table.regimes.size() && !any; ++r)
      if (table.has(r, b)) any = table.cells[r][b].trajectories.front();
    if (!any->difficulty) return {};
    bases_of[*any->difficulty].push_back(b);
  }
  std::vector<DifficultyTrend> out;
  for (size_t r = 0; r < table.regimes.size(); ++r) {
    DifficultyTrend trend = trend_of(table, r, bases_of, options, n_rows);
    if (!trend.levels.empty()) out.push_back(std::move(trend));
  }
  return out;
}

}  // namespace

RegimeAnalysis analyze_regimes(const RoutingProfiles& profiles, const RegimeOptions& options) {
  const Table table = make_table(profiles, options);
  const Roles roles = roles_of(table, options);
  RegimeAnalysis out;
  out.layers = profiles.layers;
  out.n_experts = profiles.n_experts;
  out.sampled = roles.sampled > 0 ? table.regimes[roles.sampled] : "";
  out.sampled_baseline = roles.sampled_baseline > 0 ? table.regimes[roles.sampled_baseline] : "";
  for (const size_t r : roles.wordings) out.wordings.push_back(table.regimes[r]);
  out.regimes = regime_profiles(table, options, profiles.n_rows());
  out.recurring = recurring_experts(table, out.regimes, options, roles, profiles.n_rows());
  out.difficulty = difficulty_trends(table, options, profiles.n_rows());
  return out;
}

}  // namespace signalbox::eval
