#include "train/drift.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/csv.h"
#include "eval/routing/likeness.h"
#include "probes/activation_store.h"

namespace signalbox::train {

namespace {

struct Tally {
  int64_t tokens = 0, slots = 0, kept = 0;
  DefinedMean jaccard, weighted;
  std::vector<int64_t> before, after;  // selections
};

double entropy(const std::vector<int64_t>& counts) {
  double total = 0, sum = 0;
  for (const int64_t count : counts) total += static_cast<double>(count);
  for (const int64_t count : counts)
    if (count > 0) sum -= static_cast<double>(count) / total * std::log(static_cast<double>(count) / total);
  return sum / std::log(static_cast<double>(counts.size()));
}

int64_t dead(const std::vector<int64_t>& counts) { return std::count(counts.begin(), counts.end(), 0); }

// Logits of every token: all rows are wanted.
Example whole(const Example& of) {
  Example all = of;
  all.targets.assign(of.prompt->tokens.begin() + 1, of.prompt->tokens.end());
  all.targets.push_back(-1);
  return all;
}

}  // namespace

std::vector<Drift> route_drift(Forward& before, Forward& after, std::span<const Example* const> examples,
                               const Groups& groups) {
  const Model& model = before.model();
  Backend& backend = before.backend();
  const ModelShape shape = probe_shape(model);
  const std::vector<int32_t> layers = model.moe_layers();
  std::vector<Tally> tallies(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto n = static_cast<size_t>(model.layers[static_cast<size_t>(layers[l])].moe()->router.n_experts);
    tallies[l].before.resize(n);
    tallies[l].after.resize(n);
  }
  std::vector<Example> all;
  for (const Example* example : examples) all.push_back(whole(*example));
  std::vector<const Example*> pointers;
  for (const Example& example : all) pointers.push_back(&example);
  double divergence = 0;
  int64_t n_tokens = 0, same_top = 0;
  for_each_group(pointers, groups, [&](std::span<const Example* const> group) {
    std::vector<std::string> names;
    for (const Example* example : group) names.push_back(example->prompt->id);
    std::vector<std::unique_ptr<ActivationStore>> routes;
    std::vector<Tensor> logits;
    SequenceGroup first(backend, model, group), second(backend, model, group);
    for (auto& [forward, run] : {std::pair(&before, &first), std::pair(&after, &second)}) {
      routes.push_back(
          std::make_unique<ActivationStore>("routes", shape, PointSet::parse("*.router.ids,*.router.weights", shape)));
      logits.push_back(forward->run(run->batch, routes.back().get()).logits);
      forward->flush(*routes.back());
      routes.back()->finish(names);
    }
    const auto rows = static_cast<size_t>(logits[0].rows);
    const auto of_rows = backend.allocate(rows * sizeof(double)), same = backend.allocate(rows * sizeof(int32_t));
    backend.compare_logits(static_cast<double*>(of_rows.get()), static_cast<int32_t*>(same.get()), logits[1],
                           logits[0]);
    std::vector<double> found(rows);
    std::vector<int32_t> tops(rows);
    backend.download(found.data(), of_rows.get(), rows * sizeof(double));
    backend.download(tops.data(), same.get(), rows * sizeof(int32_t));
    for (size_t i = 0; i < rows; ++i) {
      divergence += found[i];
      same_top += tops[i] != 0;
    }
    n_tokens += static_cast<int64_t>(rows);
    for (size_t s = 0; s < group.size(); ++s) {
      std::vector<int32_t> ids[2];
      std::vector<float> weights[2];
      for (size_t i = 0; i < 2; ++i) {
        const auto of = routes[i]->rows(static_cast<int64_t>(s));
        ids[i] = routes[i]->ids(of);
        weights[i] = routes[i]->floats("router.weights", of);
      }
      const auto slots = static_cast<size_t>(routes[0]->n_slots());
      for (size_t t = 0; t < static_cast<size_t>(group[s]->n_tokens()); ++t)
        for (size_t l = 0; l < layers.size(); ++l) {
          const size_t at = (t * layers.size() + l) * slots;
          const auto route = [&](size_t i) {
            return TokenRoute{{ids[i].data() + at, slots}, {weights[i].data() + at, slots}};
          };
          const RoutePair pair = compare_routes(route(1), route(0));
          Tally& tally = tallies[l];
          ++tally.tokens;
          tally.slots += pair.baseline;
          tally.kept += pair.common;
          tally.jaccard.add(pair.jaccard());
          tally.weighted.add(pair.jaccard_weighted());
          for (size_t k = 0; k < slots; ++k) {
            if (ids[0][at + k] >= 0) ++tally.before[static_cast<size_t>(ids[0][at + k])];
            if (ids[1][at + k] >= 0) ++tally.after[static_cast<size_t>(ids[1][at + k])];
          }
        }
    }
  });
  std::vector<Drift> out;
  Drift whole;
  for (size_t l = 0; l < layers.size(); ++l) {
    const Tally& tally = tallies[l];
    Drift row;
    row.layer = layers[l];
    row.tokens = tally.tokens;
    row.changed_slots = 1 - static_cast<double>(tally.kept) / static_cast<double>(tally.slots);
    row.jaccard = tally.jaccard.mean().value_or(no_number);
    row.jaccard_weighted = tally.weighted.mean().value_or(no_number);
    row.entropy_before = entropy(tally.before);
    row.entropy_after = entropy(tally.after);
    row.dead_before = dead(tally.before);
    row.dead_after = dead(tally.after);
    const auto each = 1 / static_cast<double>(layers.size());
    whole.changed_slots += row.changed_slots * each;
    whole.jaccard += row.jaccard * each;
    whole.jaccard_weighted += row.jaccard_weighted * each;
    whole.entropy_before += row.entropy_before * each;
    whole.entropy_after += row.entropy_after * each;
    whole.dead_before += row.dead_before;
    whole.dead_after += row.dead_after;
    out.push_back(row);
  }
  whole.tokens = n_tokens;
  whole.kl = divergence / static_cast<double>(n_tokens);
  whole.same_top = static_cast<double>(same_top) / static_cast<double>(n_tokens);
  out.push_back(whole);
  return out;
}

std::string drift_csv(const std::vector<Drift>& rows) {
  CsvWriter csv({"layer", "tokens", "changed_slots", "jaccard", "jaccard_weighted", "entropy_before", "entropy_after",
                 "dead_before", "dead_after", "kl", "same_top"});
  for (const Drift& row : rows) {
    csv.cell(row.layer < 0 ? std::string("all") : std::to_string(row.layer)).cell(row.tokens).cell(row.changed_slots);
    csv.cell(row.jaccard).cell(row.jaccard_weighted).cell(row.entropy_before).cell(row.entropy_after);
    csv.cell(row.dead_before).cell(row.dead_after).cell(row.kl).cell(row.same_top);
    csv.end_row();
  }
  return csv.text();
}

}  // namespace signalbox::train
