// Is it the circuit of a question, or of its wording? Pairs whose clean record says "paraphrase_of" another pair's one
// ask the same in other words. The first wordings are the variant 0, the first paraphrase of each the variant 1, and so
// on, in order of the input. Each variant's pairs alone rank the parts again, at the size of the circuit.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "eval/causal/pairs.h"
#include "eval/circuit/search.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// [variant] indices of `pairs`. A paraphrase of a paraphrase counts as one of the first wording; one of a record that
// is no pair's clean record, or of one that follows it, begins with the others of that name.
std::vector<std::vector<size_t>> paraphrase_variants(const std::vector<Record>& records,
                                                     const std::vector<CausalPair>& pairs);

struct ParaphraseStability {
  struct Variant {
    int64_t pairs = 0;
    std::vector<NodeId> circuit;  // found on it; ascending
    double jaccard = 0;           // of that and the whole study's circuit
    double faithfulness = 0;      // of the whole study's circuit, on this variant's pairs
  };
  // Two variants' circuits, and the circuit of the one beside random ones matched to that of the other.
  struct Overlap {
    size_t one = 0, other = 0;
    double jaccard = 0;
    double random_mean = 0, random_hi = 0;  // of the latter; hi: the 97.5th percentile
    double p = 1;                           // (1 + random ones that are as alike or more) / (1 + random ones)
  };
  std::vector<Variant> variants;  // empty: fewer than two have pairs
  std::vector<Overlap> overlaps;
};
// `variants`: of the scorer's pairs; those without pairs are left out. `random`: circuits for each overlap.
ParaphraseStability compare_paraphrases(CircuitScorer& scorer, const PartEffects& effects, const SearchRule& rule,
                                        const NodeMask& circuit, std::vector<std::vector<size_t>> variants,
                                        uint64_t seed, int64_t random);

double jaccard_of(const NodeMask& a, const NodeMask& b);  // of two empty ones 1

}  // namespace signalbox::eval
