#include "eval/circuit/paraphrases.h"

#include <algorithm>
#include <map>
#include <string>

#include "eval/circuit/random_circuits.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

std::vector<std::vector<size_t>> paraphrase_variants(const std::vector<Record>& records,
                                                     const std::vector<CausalPair>& pairs) {
  std::map<std::string, std::string> first_of;  // clean record -> the record whose words it first was
  std::map<std::string, size_t> next;           // which variant of that comes next
  std::vector<std::vector<size_t>> variants;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const Record& clean = records[pairs[i].clean];
    size_t variant = 0;
    if (const auto base = json::Ref(clean.source, clean.where).find("paraphrase_of")) {
      const auto found = first_of.find(base->string());
      const std::string first = found == first_of.end() ? base->string() : found->second;
      first_of[clean.id] = first;
      variant = ++next[first];
    } else {
      first_of[clean.id] = clean.id;
    }
    variants.resize(std::max(variants.size(), variant + 1));
    variants[variant].push_back(i);
  }
  return variants;
}

double jaccard_of(const NodeMask& a, const NodeMask& b) {
  int64_t common = 0, either = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    common += a[i] && b[i];
    either += a[i] || b[i];
  }
  return either > 0 ? static_cast<double>(common) / static_cast<double>(either) : 1;
}

ParaphraseStability compare_paraphrases(CircuitScorer& scorer, const PartEffects& effects, const SearchRule& rule,
                                        const NodeMask& circuit, std::vector<std::vector<size_t>> variants,
                                        uint64_t seed, int64_t random) {
  ParaphraseStability out;
  std::erase_if(variants, [](const std::vector<size_t>& pairs) { return pairs.empty(); });
  if (variants.size() < 2) return out;
  const auto size = static_cast<size_t>(count_of(circuit));
  std::vector<NodeMask> found;
  for (const std::vector<size_t>& pairs : variants) {
    std::vector<double> weights(scorer.n_pairs(), 0.0);
    for (const size_t i : pairs) weights[i] = 1;
    found.push_back(first_parts(scorer, rank_parts(scorer, effects, weights, rule), size));
    ParaphraseStability::Variant& of = out.variants.emplace_back();
    of.pairs = static_cast<int64_t>(pairs.size());
    for (size_t i = 0; i < circuit.size(); ++i)
      if (found.back()[i]) of.circuit.push_back(scorer.nodes()[i]);
    of.jaccard = jaccard_of(found.back(), circuit);
    of.faithfulness = weighted_faithfulness(scorer, circuit, weights);
  }
  for (size_t one = 0; one < found.size(); ++one)
    for (size_t other = one + 1; other < found.size(); ++other) {
      ParaphraseStability::Overlap& of = out.overlaps.emplace_back();
      of.one = one;
      of.other = other;
      of.jaccard = jaccard_of(found[one], found[other]);
      std::vector<double> chance;
      int64_t hits = 0;
      for (const NodeMask& mask : draw_random_circuits(scorer, found[other], seed, random).circuits) {
        chance.push_back(jaccard_of(found[one], mask));
        hits += chance.back() >= of.jaccard;
        of.random_mean += chance.back() / static_cast<double>(random);
      }
      std::sort(chance.begin(), chance.end());
      of.random_hi = quantile(chance, 0.975);
      of.p = static_cast<double>(1 + hits) / static_cast<double>(1 + random);
    }
  return out;
}

}  // namespace signalbox::eval
