// Settings that go together, and where training begins.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "eval/data/dice.h"
#include "train/rationale/factor_training.h"

namespace signalbox::train {

namespace {

constexpr size_t most_candidates = 4096;  // rows that k-means++ draws among

double uniform(Dice& dice, double bound) {
  return bound * (2 * static_cast<double>(dice.below(uint64_t{1} << 53)) / 0x1p53 - 1);
}

// The identity where it is square, times `gain`; else random values of about that size.
void start_map(double* map, int64_t rows, int64_t cols, double gain, Dice& dice) {
  const double bound = gain * std::sqrt(3.0 / static_cast<double>(cols));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) map[r * cols + c] = rows == cols ? (r == c ? gain : 0) : uniform(dice, bound);
}

// States of the training part that lie apart: the first drawn evenly, each other one in proportion to its squared
// distance from the nearest before (Arthur and Vassilvitskii 2007).
std::vector<std::vector<double>> spread_states(const PreparedCorpus& corpus, int64_t n, Dice& dice) {
  const FactorCorpus& of = *corpus.corpus;
  const auto d = static_cast<size_t>(of.d_hidden);
  std::vector<std::vector<double>> rows;
  std::vector<int64_t> sentences = corpus.sentences[0];
  dice.shuffle(sentences);
  for (const int64_t s : sentences) {
    if (rows.size() >= most_candidates) break;
    const FactorBatch batch = corpus.batch(std::span(&s, 1));
    for (int64_t r = 0; r < batch.n_tokens(); ++r) {
      if (of.words[static_cast<size_t>(of.offsets[static_cast<size_t>(s)] + r)] < 0) continue;
      const auto begin = batch.hidden.begin() + r * static_cast<int64_t>(d);
      rows.emplace_back(begin, begin + static_cast<int64_t>(d));
    }
  }
  if (rows.empty()) throw Error("data", "expected a row of a word in the training part, found none");
  std::vector<std::vector<double>> chosen = {rows[dice.below(rows.size())]};
  std::vector<double> nearest(rows.size(), std::numeric_limits<double>::infinity());
  while (static_cast<int64_t>(chosen.size()) < n) {
    double sum = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      double distance = 0;
      for (size_t i = 0; i < d; ++i) distance += (rows[r][i] - chosen.back()[i]) * (rows[r][i] - chosen.back()[i]);
      sum += nearest[r] = std::min(nearest[r], distance);
    }
    double left = sum * (static_cast<double>(dice.below(uint64_t{1} << 53)) / 0x1p53);
    size_t at = 0;
    while (at + 1 < rows.size() && (left -= nearest[at]) >= 0) ++at;
    chosen.push_back(rows[at]);
  }
  return chosen;
}

}  // namespace

FactorSettings factor_recipe(const std::string& name, const std::string& where) {
  FactorSettings s;
  if (name == "document") return s;
  if (name == "clusters") {
    s.forms.normalize = true;
    s.forms.per_token = true;
    s.forms.diversity = FactorForms::Diversity::cosine;
    s.forms.balance = FactorForms::Balance::batch;
    s.standardize = true;
    s.entropy_ramp = 1.0 / 3;
    return s;
  }
  if (name == "repository") {
    s.start = FactorSettings::Start::random;
    s.shared = true;
    s.forms.normalize = true;
    s.forms.per_token = true;
    s.forms.sentence = FactorForms::Sentence::infonce;
    s.forms.diversity = FactorForms::Diversity::covariance;
    s.forms.balance = FactorForms::Balance::batch;
    s.weights = {1, 0, 0.01, 0.01, 0.01, 0.01, 0.01};  // its token decoder is off
    s.epochs = 10;
    s.lr = 5e-5;
    s.schedule = Shape::constant;
    s.warmup = s.end = 0;
    return s;
  }
  throw UsageError(where, std::string("expected ") + factor_recipes + ", found " + in_quotes(name));
}

FactorParameters first_parameters(const PreparedCorpus& corpus, const FactorSettings& settings, uint64_t seed) {
  const FactorCorpus& of = *corpus.corpus;
  FactorShape shape;
  shape.n_factors = settings.n_factors;
  shape.d_hidden = of.d_hidden;
  shape.d_factor = settings.d_factor > 0 ? settings.d_factor : of.d_hidden;
  shape.d_target = of.d_target;
  shape.shared = settings.shared;
  FactorParameters p(shape);
  Dice dice(seed, "rationale weights");
  const auto d = static_cast<double>(shape.d_hidden), k = static_cast<double>(shape.n_factors);
  if (settings.start == FactorSettings::Start::tokens) {
    const auto states = spread_states(corpus, shape.n_factors, dice);
    for (size_t i = 0; i < states.size(); ++i) {
      double square = 0;
      for (const double x : states[i]) square += x * x;
      // A state of unit mean square that points the same way gets the logit 4.
      const double factor = square > 0 ? 4 / std::sqrt(d * square) : 0;
      for (size_t c = 0; c < states[i].size(); ++c) p.gate[i * states[i].size() + c] = factor * states[i][c];
    }
  } else {
    for (double& x : p.gate) x = uniform(dice, std::sqrt(3 / d));  // logits of variance 1 for unit mean square
  }
  for (int64_t m = 0; m < shape.n_transforms(); ++m)
    start_map(p.transform.data() + m * shape.d_factor * shape.d_hidden, shape.d_factor, shape.d_hidden, 1, dice);
  // z is a mean of states, or a sum of about T / K of them.
  const double rows = static_cast<double>(of.n_rows()) / static_cast<double>(of.n_sentences());
  const double one = settings.forms.normalize ? 1 : k / rows;
  for (int64_t m = 0; m < shape.n_factors; ++m)
    start_map(p.readout.data() + m * shape.d_target * shape.d_factor, shape.d_target, shape.d_factor, one / k, dice);
  start_map(p.decoder.data(), shape.d_hidden, shape.d_factor, one, dice);
  return p;
}

}  // namespace signalbox::train
