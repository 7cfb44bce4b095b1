#include "eval/causal/query_keys.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <variant>

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

// How a layer's heads look at keys.
struct Heads {
  int64_t n_heads = 0, n_kv_heads = 0, d_key = 0, window = 0;
  double scale = 1;
  std::vector<float> sinks;  // [n_heads]; empty: none

  int64_t first_key(int64_t t) const { return window > 0 ? std::max<int64_t>(0, t - window + 1) : 0; }
  bool sees(int64_t t, int64_t s) const { return s <= t && s >= first_key(t); }
};

Heads heads_of(const Session& session, int32_t layer) {
  const auto l = static_cast<size_t>(layer);
  const AttentionShape& shape = session.shape.layers[l].attention;
  Heads heads{shape.n_heads, shape.n_kv_heads, shape.d_key, 0, 1, {}};
  if (const auto* gqa = std::get_if<Gqa>(&session.model.layers[l].attention)) {
    heads.scale = static_cast<double>(gqa->scale);
    heads.window = gqa->window;
    if (gqa->sinks) {
      heads.sinks.resize(static_cast<size_t>(heads.n_heads));
      const auto& weights = std::get<GqaWeights>(session.weights.layers[l].attention);
      session.backend->download(heads.sinks.data(), weights.sinks.data, heads.sinks.size() * sizeof(float));
    }
  } else {
    heads.scale = static_cast<double>(std::get<Mla>(session.model.layers[l].attention).scale);
  }
  return heads;
}

double dot_of(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// One head's look of one token: logits of the keys that it sees, and sums of their exponentials.
struct Look {
  int64_t first = 0;
  std::vector<double> logits;
  double sink = -std::numeric_limits<double>::infinity();

  double top() const { return std::max(sink, *std::max_element(logits.begin(), logits.end())); }
  double mass(double top) const {
    double sum = std::exp(sink - top);
    for (const double x : logits) sum += std::exp(x - top);
    return sum;
  }
  // sum over keys of p_j slope_j
  double mean(std::span<const double> slopes) const {
    const double most = top();
    double sum = 0;
    for (size_t j = 0; j < logits.size(); ++j) sum += std::exp(logits[j] - most) * slopes[j];
    return sum / mass(most);
  }
  // The same with the logit of one key exchanged.
  double mean_with(std::span<const double> slopes, size_t key, double logit, double old_mean) const {
    const double before = top(), most = std::max(before, logit);
    const double old_mass = mass_ * std::exp(before - most), old_share = std::exp(logits[key] - most),
                 new_share = std::exp(logit - most);
    const double rest = old_mass - old_share;
    // What is left of a mass that was all this key's is no difference of two numbers of its size.
    if (rest < 1e-6 * old_mass) {
      Look other = *this;
      other.logits[key] = logit;
      return other.mean(slopes);
    }
    return (old_mean * old_mass - old_share * slopes[key] + new_share * slopes[key]) / (rest + new_share);
  }
  void finish() { mass_ = mass(top()); }

 private:
  double mass_ = 0;
};

class Layer {
 public:
  Layer(const Session& session, int32_t layer, const ActivationStore& here, const ActivationStore* there,
        const std::vector<int32_t>& source_of, const std::vector<const ActivationStore*>& ways)
      : layer_(layer),
        heads_(heads_of(session, layer)),
        here_(here),
        there_(there),
        source_of_(source_of),
        ways_(ways),
        zeros_(static_cast<size_t>(heads_.d_key)) {}

  std::vector<QueryKeyScore> scores();

 private:
  std::span<const float> of_head(std::span<const float> row, int64_t head) const {
    return row.subspan(static_cast<size_t>(head * heads_.d_key), static_cast<size_t>(heads_.d_key));
  }
  std::span<const float> row(const ActivationStore& store, Point point, int64_t t) const {
    return store.row(point, layer_, 0, t);
  }
  bool changes(int64_t t) const { return !there_ || source_of_[static_cast<size_t>(t)] >= 0; }
  // The value that takes the place of a token's, of one head; zeros where nothing does.
  std::span<const float> other(Point point, int64_t t, int64_t head) const {
    return there_ ? of_head(row(*there_, point, source_of_[static_cast<size_t>(t)]), head) : zeros_;
  }
  Look look(std::span<const float> query, int64_t t, int64_t head) const;
  std::vector<double> slopes(const ActivationStore& way, int64_t t, int64_t head, const Look& look) const;

  int32_t layer_;
  Heads heads_;
  const ActivationStore& here_;
  const ActivationStore* there_;
  const std::vector<int32_t>& source_of_;
  const std::vector<const ActivationStore*>& ways_;
  std::vector<float> zeros_;  // [d_key]
};

Look Layer::look(std::span<const float> query, int64_t t, int64_t head) const {
  Look look;
  look.first = heads_.first_key(t);
  const int64_t kv = head / (heads_.n_heads / heads_.n_kv_heads);
  for (int64_t s = look.first; s <= t; ++s)
    look.logits.push_back(heads_.scale * dot_of(query, of_head(row(here_, Point::attn_k, s), kv)));
  if (!heads_.sinks.empty()) look.sink = static_cast<double>(heads_.sinks[static_cast<size_t>(head)]);
  look.finish();
  return look;
}

std::vector<double> Layer::slopes(const ActivationStore& way, int64_t t, int64_t head, const Look& look) const {
  const std::span<const float> all = row(way, Point::attn_pattern, t);
  const size_t n_keys = all.size() / static_cast<size_t>(heads_.n_heads);
  const auto begin = all.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(head) * n_keys) + look.first;
  return {begin, begin + static_cast<ptrdiff_t>(look.logits.size())};
}

std::vector<QueryKeyScore> Layer::scores() {
  const auto n = static_cast<int64_t>(source_of_.size());
  const int64_t group = heads_.n_heads / heads_.n_kv_heads;
  std::vector<QueryKeyScore> queries, keys;
  for (int64_t t = 0; t < n; ++t) {
    if (!changes(t)) continue;
    for (int64_t h = 0; h < heads_.n_heads; ++h)
      queries.push_back({false, static_cast<int32_t>(t), static_cast<int32_t>(h), std::vector<double>(ways_.size())});
    for (int64_t g = 0; g < heads_.n_kv_heads; ++g)
      keys.push_back({true, static_cast<int32_t>(t), static_cast<int32_t>(g), std::vector<double>(ways_.size())});
  }
  size_t query = 0;
  for (int64_t t = 0; t < n; ++t)
    for (int64_t h = 0; h < heads_.n_heads; ++h) {
      const std::span<const float> q = of_head(row(here_, Point::attn_q, t), h);
      const Look now = look(q, t, h);
      Look then;
      if (changes(t)) then = look(other(Point::attn_q, t, h), t, h);
      std::vector<double> new_logits(now.logits.size(), std::numeric_limits<double>::quiet_NaN());
      for (size_t j = 0; j < new_logits.size(); ++j)
        if (const int64_t s = now.first + static_cast<int64_t>(j); changes(s))
          new_logits[j] = heads_.scale * dot_of(q, other(Point::attn_k, s, h / group));
      for (size_t w = 0; w < ways_.size(); ++w) {
        const std::vector<double> slope = slopes(*ways_[w], t, h, now);
        const double mean = now.mean(slope);
        if (changes(t)) queries[query].scores[w] = then.mean(slope) - mean;
        size_t key = static_cast<size_t>(h / group);  // of `keys`: that of the first position that changes
        for (int64_t s = 0; s <= t; ++s) {
          if (!changes(s)) continue;
          if (heads_.sees(t, s)) {
            const auto j = static_cast<size_t>(s - now.first);
            keys[key].scores[w] += now.mean_with(slope, j, new_logits[j], mean) - mean;
          }
          key += static_cast<size_t>(heads_.n_kv_heads);
        }
      }
      if (changes(t)) ++query;
    }
  queries.insert(queries.end(), keys.begin(), keys.end());
  std::stable_sort(queries.begin(), queries.end(),
                   [](const QueryKeyScore& a, const QueryKeyScore& b) { return a.position < b.position; });
  return queries;
}

}  // namespace

std::string query_key_points() { return "*.attn.q,*.attn.k"; }
std::string query_key_slopes() { return "*.attn.pattern"; }

std::vector<QueryKeyScore> query_key_scores(const Session& session, int32_t layer, const ActivationStore& here,
                                            const ActivationStore* there, const std::vector<int32_t>& source_of,
                                            const std::vector<const ActivationStore*>& ways) {
  return Layer(session, layer, here, there, source_of, ways).scores();
}

}  // namespace signalbox::eval
