// Does the model still write and predict text?
#include <array>
#include <cmath>
#include <numeric>
#include <set>

#include "eval/score/tables.h"

namespace signalbox::eval {

namespace {

std::optional<double> empty(const Record&, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  return as_score(is_blank_text(sample));
}

// Generation needs no tokenizer, so these look at tokens; a finish reason says that there was generation.
std::optional<double> truncated(const Record&, const Sample& sample) {
  if (sample.finish_reason.empty()) return std::nullopt;
  return as_score(is_truncated(sample));
}

std::optional<double> length(const Record&, const Sample& sample) {
  if (sample.finish_reason.empty()) return std::nullopt;
  return static_cast<double>(sample.tokens.size());
}

// 1 - distinct / all, over runs of four tokens (rep-4 of Welleck et al., 2020).
std::optional<double> repetition(const Record&, const Sample& sample) {
  if (sample.finish_reason.empty()) return std::nullopt;
  constexpr size_t n = 4;
  std::span<const int32_t> tokens = sample.tokens;
  if (sample.finish_reason == "eos" && !tokens.empty()) tokens = tokens.first(tokens.size() - 1);
  if (tokens.size() < n) return 0;
  std::set<std::array<int32_t, n>> distinct;
  const size_t all = tokens.size() - n + 1;
  for (size_t i = 0; i < all; ++i) distinct.insert({tokens[i], tokens[i + 1], tokens[i + 2], tokens[i + 3]});
  return 1 - static_cast<double>(distinct.size()) / static_cast<double>(all);
}

template <class Number>
std::optional<double> mean_of(const std::vector<Number>& values) {
  if (values.empty()) return std::nullopt;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::optional<double> nll(const Record&, const Sample& sample) {
  const auto mean = mean_of(sample.logprobs);
  if (!mean) return std::nullopt;
  return 0.0 - *mean;
}

std::optional<double> ppl(const Record&, const Sample& sample) {
  const auto mean = mean_of(sample.logprobs);
  if (!mean) return std::nullopt;
  return std::exp(-*mean);
}

std::optional<double> kl(const Record&, const Sample& sample) { return mean_of(sample.divergence); }
std::optional<double> top1(const Record&, const Sample& sample) { return mean_of(sample.same_top); }

constexpr std::array degradation_rows = {
    Scorer{.name = "ppl",
           .summary = "exp(-mean log p) of the target, or of all predicted tokens without one; 1 or more",
           .needs = Needs::logprobs,
           .lacks = lacks_nothing,
           .score = ppl},
    Scorer{.name = "nll",
           .summary = "-mean log p of the same tokens as ppl; nats a token",
           .needs = Needs::logprobs,
           .lacks = lacks_nothing,
           .score = nll},
    Scorer{.name = "kl",
           .summary = "mean KL(baseline || this) over the whole vocabulary, of the same tokens as ppl; nats",
           .needs = Needs::divergence,
           .against_baseline = true,
           .lacks = lacks_nothing,
           .score = kl},
    Scorer{.name = "top1",
           .summary = "share of the same tokens as ppl whose most probable token is the baseline's; 0 to 1",
           .needs = Needs::divergence,
           .against_baseline = true,
           .lacks = lacks_nothing,
           .score = top1},
    Scorer{.name = "repetition",
           .summary = "share of runs of four generated tokens that repeat an earlier one; 0 to 1",
           .needs = Needs::text,
           .tokens_only = true,
           .lacks = lacks_nothing,
           .score = repetition},
    Scorer{.name = "length",
           .summary = "generated tokens, the end token included",
           .needs = Needs::text,
           .tokens_only = true,
           .lacks = lacks_nothing,
           .score = length},
    Scorer{.name = "truncated",
           .summary = "the text was cut at max_tokens; 0 or 1",
           .needs = Needs::text,
           .tokens_only = true,
           .lacks = lacks_nothing,
           .score = truncated},
    Scorer{.name = "empty",
           .summary = "the text is empty or white space; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score = empty},
};

}  // namespace

std::span<const Scorer> degradation_scorers() { return degradation_rows; }

}  // namespace signalbox::eval
