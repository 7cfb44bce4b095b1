#include "eval/detect/contrast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <tuple>

#include "base/near_names.h"
#include "eval/data/examples.h"

namespace signalbox::eval {

namespace {

enum class Side : uint8_t { none, a, b };

Side side_of(const TraceRecord& record, const ContrastOptions& options) {
  return record.condition == options.a ? Side::a : record.condition == options.b ? Side::b : Side::none;
}

void check_conditions(const TraceSet& set, const ContrastOptions& options) {
  if (options.a.empty() || options.b.empty())
    throw Error("contrast", "expected two conditions A:B, found \"" + options.a + ":" + options.b + "\"");
  if (options.a == options.b) throw Error("contrast", "expected two conditions, found \"" + options.a + "\" twice");
  const std::vector<std::string> known = set.conditions();
  for (const std::string& wanted : {options.a, options.b}) {
    if (std::find(known.begin(), known.end(), wanted) != known.end()) continue;
    throw Error(set.directory(0).string(), wrong_name("a condition of the records", wanted, known));
  }
}

// How many of a sample's counted tokens count after length matching: for all samples under A or B.
std::vector<int64_t> token_limits(const TraceSet& set, const ContrastOptions& options,
                                  const std::vector<int64_t>& counted) {
  std::vector<int64_t> limits = counted;
  if (!options.length_match) return limits;
  struct Shortest {
    int64_t tokens = INT64_MAX;
    bool a = false, b = false;
  };
  std::map<std::string, Shortest> pairs;
  for (size_t s = 0; s < set.samples().size(); ++s) {
    const TraceRecord& record = set.records()[set.samples()[s].record];
    const Side side = side_of(record, options);
    if (side == Side::none || record.pair.empty()) continue;
    Shortest& pair = pairs[record.pair];
    pair.tokens = std::min(pair.tokens, counted[s]);
    (side == Side::a ? pair.a : pair.b) = true;
  }
  for (size_t s = 0; s < set.samples().size(); ++s) {
    const TraceRecord& record = set.records()[set.samples()[s].record];
    if (side_of(record, options) == Side::none) continue;
    const auto pair = pairs.find(record.pair);
    if (pair == pairs.end() || !pair->second.a || !pair->second.b)
      throw Error(set.directory(set.samples()[s].trace).string(),
                  "length matching: expected a pair with records of \"" + options.a + "\" and of \"" + options.b +
                      "\" for each record, found \"" + record.id + "\" without a partner");
    limits[s] = pair->second.tokens;
  }
  return limits;
}

// Adds one sample's tokens to the counts of the record at `place` and to the sums of its side.
void count_sample(const TraceSet& set, const TraceSample& sample, const TokenFilter& filter, int64_t limit,
                  const std::vector<Contribution>& recorded, size_t place, ContrastCounts& out) {
  ContrastRecord& record = out.records[place];
  PooledSums& sums = record.under_b ? out.b : out.a;
  uint32_t* selected = out.selected.data() + place * out.n_rows();
  const TraceReader& trace = set.trace(sample.trace);
  const TraceReader::Rows all = trace.rows(sample.index);
  const int64_t n_layers = static_cast<int64_t>(set.layers().size()), n_experts = set.n_experts(),
                n_slots = trace.n_slots(), n_rows = n_layers * n_experts;
  for (int64_t begin = all.begin; begin < all.end && limit > 0; begin += block_rows) {
    const TraceReader::Rows rows{begin, std::min(begin + block_rows, all.end)};
    const std::vector<uint8_t> counted = counted_tokens(trace, rows, filter);
    const std::vector<uint8_t> phase = trace.phase(rows);
    const std::vector<int32_t> ids = trace.ids(rows);
    const ContributionRows given(trace, rows, recorded);
    const std::vector<float> weights = sums.weight.empty() ? std::vector<float>() : trace.weights(rows);
    for (int64_t t = 0; t < rows.size() && limit > 0; ++t) {
      if (!counted[static_cast<size_t>(t)]) continue;
      --limit;
      ++record.tokens;
      record.decided_by_prompt &= phase[static_cast<size_t>(t)] == 0;
      for (int64_t l = 0; l < n_layers; ++l)
        for (int64_t k = 0; k < n_slots; ++k) {
          const int64_t slot = (t * n_layers + l) * n_slots + k;
          const int32_t expert = ids[static_cast<size_t>(slot)];
          if (expert < 0) continue;
          const int64_t row = l * n_experts + expert;
          ++selected[row];
          if (!weights.empty()) sums.weight[static_cast<size_t>(row)] += weights[static_cast<size_t>(slot)];
        }
      for (const Contribution which : recorded) {
        if (!given.defined(which, t)) continue;
        ContributionSums& own = out.contributions[static_cast<size_t>(which)];
        ++own.tokens[place];
        for (int64_t l = 0; l < n_layers; ++l)
          for (int64_t slot = (t * n_layers + l) * n_slots; slot < (t * n_layers + l + 1) * n_slots; ++slot)
            if (const int32_t expert = ids[static_cast<size_t>(slot)]; expert >= 0)
              own.sums[place * out.n_rows() + static_cast<size_t>(l * n_experts + expert)] += given.value(which, slot);
      }
      if (sums.logit.empty()) continue;
      const std::vector<float> logits = trace.floats("router.logits", {begin + t, begin + t + 1});
      for (int64_t row = 0; row < n_rows; ++row)
        sums.logit[static_cast<size_t>(row)] += logits[static_cast<size_t>(row)];
    }
  }
}

}  // namespace

ContrastCounts count_contrast(const TraceSet& set, const ContrastOptions& options) {
  check_conditions(set, options);
  const TokenFilter filter{options.span, options.phase};
  const std::vector<TraceSample>& samples = set.samples();
  std::vector<int64_t> counted(samples.size(), 0);
  for (size_t s = 0; s < samples.size(); ++s) {
    if (side_of(set.records()[samples[s].record], options) == Side::none) continue;
    const TraceReader& trace = set.trace(samples[s].trace);
    const std::vector<uint8_t> tokens = counted_tokens(trace, trace.rows(samples[s].index), filter);
    counted[s] = std::count(tokens.begin(), tokens.end(), 1);
  }
  const std::vector<int64_t> limits = token_limits(set, options, counted);

  ContrastCounts out;
  out.layers = set.layers();
  out.n_experts = set.n_experts();
  const size_t n_rows = out.n_rows();
  for (PooledSums* sums : {&out.a, &out.b}) {
    if (set.has("router.weights")) sums->weight.assign(n_rows, 0);
    if (set.has("router.logits")) sums->logit.assign(n_rows, 0);
  }
  // Places among the records that take part, in order of first appearance.
  constexpr size_t unplaced = SIZE_MAX;
  std::vector<size_t> place(set.records().size(), unplaced);
  std::vector<int64_t> tokens_of(set.records().size(), 0);
  for (size_t s = 0; s < samples.size(); ++s) {
    tokens_of[samples[s].record] += limits[s];
    out.n_tokens_cut += counted[s] - limits[s];
  }
  for (size_t r = 0; r < set.records().size(); ++r) {
    const TraceRecord& record = set.records()[r];
    const Side side = side_of(record, options);
    if (side == Side::none) continue;
    if (tokens_of[r] == 0) {
      ++out.n_records_without_tokens;
      continue;
    }
    place[r] = out.records.size();
    out.records.push_back({record.id, record.pair, side == Side::b, 0, record.prompts, !options.length_match});
  }
  out.selected.assign(out.records.size() * n_rows, 0);
  const std::vector<Contribution> recorded = recorded_contributions(set);
  for (const Contribution which : recorded) {
    ContributionSums& own = out.contributions[static_cast<size_t>(which)];
    own.tokens.assign(out.records.size(), 0);
    own.sums.assign(out.records.size() * n_rows, 0);
  }
  for (size_t s = 0; s < samples.size(); ++s) {
    const size_t at = place[samples[s].record];
    if (at == unplaced) continue;
    ++out.n_samples;
    count_sample(set, samples[s], filter, limits[s], recorded, at, out);
  }
  for (const bool b : {false, true})
    if (std::none_of(out.records.begin(), out.records.end(), [&](const auto& record) { return record.under_b == b; }))
      throw Error(set.directory(0).string(),
                  "expected tokens that count under condition \"" + (b ? options.b : options.a) + "\", found none");
  return out;
}

ContrastUnits contrast_units(const ContrastCounts& counts) {
  std::map<std::string, std::array<bool, 2>> sides;  // of a pair: has records under A, under B
  for (const ContrastRecord& record : counts.records)
    if (!record.pair.empty()) sides[record.pair][record.under_b] = true;
  const auto complete = [&](const ContrastRecord& record) {
    if (record.pair.empty()) return false;
    const auto& both = sides.at(record.pair);
    return both[0] && both[1];
  };
  Groups groups(counts.records.size());
  std::map<std::string, size_t> by_pair;
  // In a complete pair, under B, prompt, and the counts where the prompt decides them.
  std::map<std::tuple<bool, bool, std::string, std::vector<uint32_t>>, size_t> by_prompt;
  for (size_t r = 0; r < counts.records.size(); ++r) {
    const ContrastRecord& record = counts.records[r];
    const bool paired = complete(record);
    if (paired) groups.join(by_pair.emplace(record.pair, r).first->second, r);
    if (record.prompts.empty()) continue;
    std::vector<uint32_t> selected;
    if (record.decided_by_prompt) {
      const auto begin = counts.selected.begin() + static_cast<int64_t>(r * counts.n_rows());
      selected.assign(begin, begin + static_cast<int64_t>(counts.n_rows()));
    }
    const auto key = std::tuple(paired, record.under_b, record.prompts[0], std::move(selected));
    groups.join(by_prompt.emplace(key, r).first->second, r);
  }
  ContrastUnits units;
  units.named_pairs = static_cast<int64_t>(by_pair.size());
  std::map<size_t, size_t> place;  // root -> its unit among those of its kind
  for (size_t r = 0; r < counts.records.size(); ++r) {
    const ContrastRecord& record = counts.records[r];
    const size_t root = groups.root(r);
    if (complete(record)) {
      const size_t at = place.emplace(root, units.pairs.size()).first->second;
      if (at == units.pairs.size()) units.pairs.emplace_back();
      (record.under_b ? units.pairs[at].b : units.pairs[at].a).push_back(r);
    } else {
      auto& side = record.under_b ? units.only_b : units.only_a;
      const size_t at = place.emplace(root, side.size()).first->second;
      if (at == side.size()) side.emplace_back();
      side[at].push_back(r);
    }
  }
  return units;
}

std::string no_difference(const ContrastCounts& counts, const ContrastOptions& options) {
  uint64_t tokens_a = 0, tokens_b = 0;
  for (const ContrastRecord& record : counts.records)
    (record.under_b ? tokens_b : tokens_a) += static_cast<uint64_t>(record.tokens);
  const size_t n_rows = counts.n_rows();
  std::vector<uint64_t> a(n_rows), b(n_rows);
  for (size_t r = 0; r < counts.records.size(); ++r)
    for (size_t i = 0; i < n_rows; ++i) (counts.records[r].under_b ? b : a)[i] += counts.selected[r * n_rows + i];
  bool all_selected = true;
  for (size_t i = 0; i < n_rows; ++i) {
    if (a[i] * tokens_b != b[i] * tokens_a) return "";
    all_selected = all_selected && a[i] == tokens_a && b[i] == tokens_b;
  }
  const std::string found = "no expert is selected more often under " + options.a + " than under " + options.b + ": ";
  if (all_selected)
    return found +
           "the routers select every expert for every token (k = E), so that selection cannot differ. Compare what "
           "experts contribute or weigh instead (docs/detection.md), or trace with an edit that leaves some out, "
           "{\"op\": \"top_k\", \"k\": " +
           std::to_string(std::max(1, counts.n_experts - 1)) + "}";
  return found + "all " + std::to_string(n_rows) +
         " risk differences are 0, as where both conditions have the same tokens. Contrast conditions, or a span and "
         "phase, whose tokens differ";
}

}  // namespace signalbox::eval
