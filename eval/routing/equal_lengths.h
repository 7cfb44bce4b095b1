// Counts of two trajectories of different lengths, compared as if both were as long as the shorter one.
#pragma once
#include <cstdint>

namespace signalbox::eval {

// `uses` of `tokens` tokens selected an expert; tokens >= 1, 0 <= uses <= tokens.
struct Uses {
  int64_t uses = 0, tokens = 0;
};

// As many tokens as the shorter has are drawn from each, without replacement: the probability that more of a's than of
// b's selected the expert, plus half the probability of as many. The shorter one is drawn whole, so this is a sum over
// the hypergeometric distribution of the other's count: in [0, 1], exact to rounding. Where both trajectories are
// independent tokens that select the expert with one and the same probability, the two draws have the same
// distribution, so that the expectation is 1/2 for every such probability and all lengths. (Share against share has
// not: with probability 0.02, 100 tokens exceed 5 tokens' share in 0.79 of the cases, ties half.)
double used_more(Uses a, Uses b);

}  // namespace signalbox::eval
