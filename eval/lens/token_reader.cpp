#include "eval/lens/token_reader.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/no_number.h"

namespace signalbox::eval {

namespace {

// Whether a stands before b in the order of a vocabulary.
bool first_of(const TokenReading& a, const TokenReading& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

}  // namespace

TokenReader::TokenReader(int64_t top, std::vector<int32_t> tokens, int64_t n_vocab)
    : top_(top), tokens_(std::move(tokens)) {
  if (tokens_.empty() && (top_ < 1 || top_ > n_vocab))
    throw UsageError("--top", "expected from 1 to the " + std::to_string(n_vocab) +
                                  " tokens of the vocabulary, found " + std::to_string(top_));
  std::vector<int32_t> sorted = tokens_;
  std::sort(sorted.begin(), sorted.end());
  for (const int32_t token : sorted)
    if (token < 0 || token >= n_vocab)
      throw UsageError("--tokens",
                       "expected ids below " + std::to_string(n_vocab) + ", found " + std::to_string(token));
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
    throw UsageError("--tokens", "expected each token once, found " + std::to_string(*twice) + " twice");
}

bool TokenReader::read(std::span<const float> logits, bool with_logprob, std::span<TokenReading> out) const {
  double check = 0;
  for (const float x : logits) check += static_cast<double>(x);
  if (!std::isfinite(check)) return false;
  tokens_.empty() ? read_top(logits, out) : read_tokens(logits, out);
  double log_sum = no_number;
  if (with_logprob) {
    const double most = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x) - most);
    log_sum = most + std::log(sum);
  }
  for (TokenReading& one : out) one.logprob = one.logit - log_sum;
  return true;
}

void TokenReader::read_top(std::span<const float> logits, std::span<TokenReading> out) const {
  // A heap whose front is the last of those kept. Tokens come in ascending order, so an equal one is never before it.
  const size_t n = out.size();
  for (size_t v = 0; v < logits.size(); ++v) {
    const TokenReading one{static_cast<int32_t>(v), 0, logits[v], 0};
    if (v < n) {
      out[v] = one;
      if (v + 1 == n) std::make_heap(out.begin(), out.end(), first_of);
    } else if (one.logit > out[0].logit) {
      std::pop_heap(out.begin(), out.end(), first_of);
      out[n - 1] = one;
      std::push_heap(out.begin(), out.end(), first_of);
    }
  }
  std::sort(out.begin(), out.end(), first_of);
  for (size_t i = 0; i < n; ++i) out[i].rank = static_cast<int32_t>(i) + 1;
}

void TokenReader::read_tokens(std::span<const float> logits, std::span<TokenReading> out) const {
  for (size_t i = 0; i < out.size(); ++i) out[i] = {tokens_[i], 0, logits[static_cast<size_t>(tokens_[i])], 0};
  std::vector<size_t> order(out.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return first_of(out[a], out[b]); });
  std::vector<TokenReading> sorted;
  for (const size_t i : order) sorted.push_back(out[i]);
  // How many of the vocabulary, each of the sorted ones included, come before each and behind the one before it.
  std::vector<int32_t> up_to(sorted.size() + 1, 0);
  for (size_t v = 0; v < logits.size(); ++v) {
    const TokenReading one{static_cast<int32_t>(v), 0, logits[v], 0};
    ++up_to[static_cast<size_t>(std::lower_bound(sorted.begin(), sorted.end(), one, first_of) - sorted.begin())];
  }
  int32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) out[order[i]].rank = rank += up_to[i];
}

}  // namespace signalbox::eval
