#include "train/routing_terms.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "train/sequence_groups.h"

namespace signalbox::train {

using enum RoutingTerm;

namespace {

double log_sum_exp(const double* z, size_t n) {
  const double most = *std::max_element(z, z + n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += std::exp(z[i] - most);
  return most + std::log(sum);
}

// Logarithms of scores that sum to 1, of one token.
void log_scores(double* log_p, const float* z, size_t n, bool sigmoid) {
  for (size_t i = 0; i < n; ++i) {
    const auto x = static_cast<double>(z[i]);
    log_p[i] = !sigmoid ? x : x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x));
  }
  const double all = log_sum_exp(log_p, n);
  for (size_t i = 0; i < n; ++i) log_p[i] -= all;
}

void scores(double* p, const float* z, size_t n, bool sigmoid) {
  log_scores(p, z, n, sigmoid);
  for (size_t i = 0; i < n; ++i) p[i] = std::exp(p[i]);
}

// d z_j of a function of p is p_j slope_j (d p_j - sum_i p_i d p_i).
double score_slope(float z, bool sigmoid) { return sigmoid ? 1 / (1 + std::exp(static_cast<double>(z))) : 1; }

bool is_sigmoid(const Router& router) { return router.score == Router::Score::sigmoid; }

std::string_view flag_of(RoutingTerm term) {
  switch (term) {
    case balance_switch: return "--balance switch";
    case balance_transformers: return "--balance transformers";
    case balance_sequence: return "--balance sequence";
    case balance_device: return "--balance device";
    case balance_communication: return "--balance communication";
    case z_loss: return "--z-loss";
    case router_anchor: return "--router-anchor";
    case orthogonality: return "--orthogonality";
    case variance: return "--variance";
  }
  return "";
}

}  // namespace

std::string_view routing_term_name(RoutingTerm term) {
  switch (term) {
    case balance_switch: return "balance_switch";
    case balance_transformers: return "balance_transformers";
    case balance_sequence: return "balance_sequence";
    case balance_device: return "balance_device";
    case balance_communication: return "balance_communication";
    case z_loss: return "z_loss";
    case router_anchor: return "router_anchor";
    case orthogonality: return "orthogonality";
    case variance: return "variance";
  }
  return "";
}

bool RoutingTermSettings::any() const {
  return all_experts || counts_load ||
         std::any_of(coefficients.begin(), coefficients.end(), [](double c) { return c != 0; });
}

void check_routing_terms(const RoutingTermSettings& settings, const Model& model) {
  if (!settings.any()) return;
  std::string flag = settings.all_experts ? "--router-gradient all" : "--balance bias";
  for (size_t i = 0; i < n_routing_terms; ++i)
    if (settings.coefficients[i] != 0) flag = flag_of(static_cast<RoutingTerm>(i));
  const std::vector<int32_t> layers = model.moe_layers();
  if (layers.empty()) throw Error(flag, "expected a model with routed experts, found none in " + model.source);
  const auto router_of = [&](int32_t l) -> const Router& { return model.layers[static_cast<size_t>(l)].moe()->router; };
  const bool groups = settings.coefficient(balance_device) != 0 || settings.coefficient(balance_communication) != 0;
  for (const int32_t l : layers) {
    const Router& router = router_of(l);
    const std::string where = ", found layer " + std::to_string(l);
    if (settings.coefficient(balance_transformers) != 0) {
      const std::string_view of = flag_of(balance_transformers);
      if (is_sigmoid(router) || router.limits_groups() || router.selection_bias)
        throw Error(std::string(of),
                    "expected routers that choose the experts of the largest logits (sequence is for "
                    "others)" +
                        where + " with sigmoid scores, groups or a selection bias");
      if (router.n_experts != router_of(layers.front()).n_experts ||
          router.n_active != router_of(layers.front()).n_active)
        throw Error(std::string(of), "expected the same numbers of experts in all layers" + where + " with others");
    }
    if (groups && (settings.devices < 1 || router.n_experts % settings.devices != 0))
      throw Error("--devices", "expected a number that divides the " + std::to_string(router.n_experts) + " experts" +
                                   where + " and " + std::to_string(settings.devices) + " devices");
    if (settings.coefficient(orthogonality) != 0 && router.n_active < 2)
      throw Error(std::string(flag_of(orthogonality)), "expected at least two experts a token" + where + " with one");
    if (settings.counts_load && !router.selection_bias)
      throw Error("--balance bias", "expected routers with a selection bias" + where + " without one");
  }
}

// A layer with a router: what it is, and what of the step is known.
struct RoutingTerms::Layer {
  int32_t layer = 0;
  size_t n_experts = 0;
  int64_t n_active = 0;
  bool sigmoid = false;
  std::vector<int64_t> counts;  // before the runs: selections
  std::vector<double> mean;     // before the runs: of p over tokens
  // Sums of the runs.
  std::vector<double> p_sums;
  std::vector<int64_t> load;
  std::array<double, n_routing_terms> sums{};
  std::vector<float> anchor;  // of the run at hand, [n_tokens, n_experts]
};

// Takes router logits and routes of forwards.
class RoutingTerms::Rows final : public ProbeSink {
 public:
  using Take = std::function<void(const RoutedRows&)>;
  Rows(const Model& model, bool logits, bool ids, Take take)
      : model_(model), logits_(logits), ids_(ids), take_(std::move(take)) {}
  bool wants(Point point, int32_t layer) const override {
    if (layer < 0 || !model_.layers[static_cast<size_t>(layer)].moe()) return false;
    return (logits_ && point == Point::router_logits) || (ids_ && point == Point::router_ids);
  }
  void begin(const StepRows& rows) override { n_ = rows.n_rows; }
  void take(Point, int32_t layer, const float* data, int64_t width) override {
    RoutedRows rows = of(layer);
    rows.logits = {data, static_cast<size_t>(n_ * width)};
    take_(rows);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) override {
    RoutedRows rows = of(layer);
    rows.n_slots = n_slots;
    rows.ids = {ids, static_cast<size_t>(n_ * n_slots)};
    take_(rows);
  }
  void end() override {}

 private:
  RoutedRows of(int32_t layer) const {
    RoutedRows rows;
    rows.layer = layer;
    rows.n_tokens = n_;
    rows.n_experts = model_.layers[static_cast<size_t>(layer)].moe()->router.n_experts;
    return rows;
  }
  const Model& model_;
  bool logits_, ids_;
  Take take_;
  int64_t n_ = 0;
};

RoutingTerms::RoutingTerms(Backend& backend, const Model& model, const RoutingTermSettings& settings,
                           const Weights& base)
    : backend_(backend), model_(model), settings_(settings), base_weights_(base) {
  for (const int32_t l : model.moe_layers()) {
    const Router& router = model.layers[static_cast<size_t>(l)].moe()->router;
    Layer layer;
    layer.layer = l;
    layer.n_experts = static_cast<size_t>(router.n_experts);
    layer.n_active = router.n_active;
    layer.sigmoid = is_sigmoid(router);
    layers_.push_back(std::move(layer));
  }
  if (has(router_anchor)) base_ = std::make_unique<Forward>(backend, model_, base_weights_, 0);
}

RoutingTerms::~RoutingTerms() = default;

std::vector<RoutingTerm> RoutingTerms::terms() const {
  std::vector<RoutingTerm> found;
  for (size_t i = 0; i < n_routing_terms; ++i)
    if (settings_.coefficients[i] != 0) found.push_back(static_cast<RoutingTerm>(i));
  return found;
}

RoutingTerms::Layer& RoutingTerms::layer_of(int32_t layer) {
  const auto found = std::lower_bound(layers_.begin(), layers_.end(), layer,
                                      [](const Layer& one, int32_t l) { return one.layer < l; });
  if (found == layers_.end() || found->layer != layer)
    throw Error("routing terms", "expected a layer with a router, found layer " + std::to_string(layer));
  return *found;
}

bool RoutingTerms::needs_counts() const { return has(balance_switch) || has(balance_transformers) || has(variance); }
bool RoutingTerms::wants_outputs() const { return has(RoutingTerm::orthogonality); }

void RoutingTerms::begin_step(std::span<const int64_t> lengths) {
  lengths_.assign(lengths.begin(), lengths.end());
  n_tokens_ = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  first_sequence_ = end_sequence_ = 0;
  for (Layer& layer : layers_) {
    layer.counts.assign(layer.n_experts, 0);
    layer.mean.assign(layer.n_experts, 0.0);
    layer.p_sums.assign(layer.n_experts, 0.0);
    layer.load.assign(layer.n_experts, 0);
    layer.sums.fill(0);
  }
}

void RoutingTerms::begin_step(Forward& forward, std::span<const Example* const> examples, const Groups& groups) {
  examples_.assign(examples.begin(), examples.end());
  std::vector<int64_t> lengths;
  for (const Example* example : examples) lengths.push_back(example->n_tokens());
  begin_step(lengths);
  if (!needs_counts()) return;
  Rows rows(model_, has(variance), true, [&](const RoutedRows& found) { count(found); });
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup run(backend_, model_, group);
    forward.run(run.batch, &rows);
    forward.flush(rows);
  });
}

void RoutingTerms::count(const RoutedRows& rows) {
  Layer& layer = layer_of(rows.layer);
  for (const int32_t id : rows.ids)
    if (id >= 0) ++layer.counts[static_cast<size_t>(id)];
  if (rows.logits.empty()) return;
  std::vector<double> p(layer.n_experts);
  for (int64_t t = 0; t < rows.n_tokens; ++t) {
    scores(p.data(), rows.logits.data() + t * rows.n_experts, layer.n_experts, layer.sigmoid);
    for (size_t e = 0; e < p.size(); ++e) layer.mean[e] += p[e] / static_cast<double>(n_tokens_);
  }
}

void RoutingTerms::begin(const Batch& batch) {
  begin(batch.n_tokens());
  if (!base_) return;
  const std::span<const Example* const> examples(examples_.data() + first_sequence_, end_sequence_ - first_sequence_);
  Rows rows(model_, true, false, [&](const RoutedRows& found) { set_anchor(found.layer, found.logits); });
  SequenceGroup run(backend_, model_, examples);
  base_->run(run.batch, &rows);
  base_->flush(rows);
}

void RoutingTerms::begin(int64_t n_tokens) {
  first_sequence_ = end_sequence_;
  int64_t found = 0;
  while (found < n_tokens && end_sequence_ < lengths_.size()) found += lengths_[end_sequence_++];
  if (found != n_tokens)
    throw Error("routing terms", "expected whole sequences of the step, found " + std::to_string(n_tokens) + " tokens");
}

void RoutingTerms::set_anchor(int32_t layer, std::span<const float> logits) {
  layer_of(layer).anchor.assign(logits.begin(), logits.end());
}

// d_p: of the terms in p. Those over the step know its counts, those over sequences count their own.
void RoutingTerms::balance(Layer& layer, const RoutedRows& rows, const std::vector<double>& p,
                           std::vector<double>& d_p) {
  const size_t n = layer.n_experts;
  const auto per_layer = 1 / static_cast<double>(layers_.size()), tokens = static_cast<double>(n_tokens_);
  const auto experts = static_cast<double>(n), active = static_cast<double>(layer.n_active);
  std::vector<double> everywhere(n);  // the slope that all tokens share
  if (has(balance_switch))
    for (size_t e = 0; e < n; ++e)
      everywhere[e] += settings_.coefficient(balance_switch) * per_layer * experts / tokens *
                       static_cast<double>(layer.counts[e]) / (active * tokens);
  if (has(variance)) {
    double& sum = layer.sums[static_cast<size_t>(variance)];
    const double factor = -1 / (tokens * experts);
    for (size_t i = 0; i < p.size(); ++i) {
      const double off = p[i] - layer.mean[i % n];
      sum += factor * off * off;
      d_p[i] += settings_.coefficient(variance) * per_layer * 2 * factor * off;
    }
  }
  for (size_t i = 0; i < p.size(); ++i) {
    layer.p_sums[i % n] += p[i];
    d_p[i] += everywhere[i % n];
  }
  const bool by_device = has(balance_device) || has(balance_communication);
  if (!has(balance_sequence) && !by_device) return;
  const size_t devices = by_device ? static_cast<size_t>(settings_.devices) : 1, group = n / devices;
  size_t first = 0;
  for (size_t s = first_sequence_; s < end_sequence_; ++s) {
    const auto length = static_cast<size_t>(lengths_[s]);
    const double each = 1 / (static_cast<double>(length) * static_cast<double>(lengths_.size()));
    std::vector<double> f(n), mean(n), sent(devices);
    for (size_t t = first; t < first + length; ++t) {
      std::vector<uint8_t> to(devices);
      for (int64_t k = 0; k < rows.n_slots; ++k) {
        const int32_t id = rows.ids[t * static_cast<size_t>(rows.n_slots) + static_cast<size_t>(k)];
        if (id < 0) continue;
        f[static_cast<size_t>(id)] += experts / (active * static_cast<double>(length));
        to[static_cast<size_t>(id) / group] = 1;
      }
      for (size_t d = 0; d < devices; ++d)
        sent[d] +=
            to[d] * static_cast<double>(devices) /
            (static_cast<double>(std::max<int64_t>(1, settings_.devices_per_token)) * static_cast<double>(length));
      for (size_t e = 0; e < n; ++e) mean[e] += p[t * n + e] / static_cast<double>(length);
    }
    // Per expert, what multiplies its mean score.
    const auto add = [&](RoutingTerm term, const std::function<double(size_t)>& factor) {
      if (!has(term)) return;
      double& sum = layer.sums[static_cast<size_t>(term)];
      for (size_t e = 0; e < n; ++e) {
        const double of = factor(e);
        sum += of * mean[e] / static_cast<double>(lengths_.size());
        for (size_t t = first; t < first + length; ++t)
          d_p[t * n + e] += settings_.coefficient(term) * per_layer * of * each;
      }
    };
    add(balance_sequence, [&](size_t e) { return f[e]; });
    std::vector<double> of_device(devices);
    for (size_t e = 0; e < n; ++e) of_device[e / group] += f[e] / static_cast<double>(group);
    add(balance_device, [&](size_t e) { return of_device[e / group]; });
    add(balance_communication, [&](size_t e) { return sent[e / group]; });
    first += length;
  }
}

// Terms whose slopes at the logits are simpler than those at p.
void RoutingTerms::logit_terms(Layer& layer, const RoutedRows& rows, const std::vector<double>& p,
                               std::vector<double>& d) {
  const size_t n = layer.n_experts;
  const double each = 1 / (static_cast<double>(layers_.size()) * static_cast<double>(n_tokens_));
  std::vector<double> z(n), soft(n), from(n);
  if (has(router_anchor) && layer.anchor.size() != rows.logits.size())
    throw Error("routing terms", "expected the untouched model's logits of layer " + std::to_string(layer.layer) +
                                     ", found those of other tokens");
  for (size_t t = 0; t < static_cast<size_t>(rows.n_tokens); ++t) {
    const float* row = rows.logits.data() + t * n;
    double* to = d.data() + t * n;
    if (has(z_loss) || has(balance_transformers)) {
      std::copy_n(row, n, z.data());
      const double lse = log_sum_exp(z.data(), n);
      for (size_t e = 0; e < n; ++e) soft[e] = std::exp(z[e] - lse);
      if (has(z_loss)) {
        layer.sums[static_cast<size_t>(z_loss)] += lse * lse / static_cast<double>(n_tokens_);
        for (size_t e = 0; e < n; ++e) to[e] += settings_.coefficient(z_loss) * each * 2 * lse * soft[e];
      }
    }
    if (has(balance_transformers)) {
      // The layers as one list: f_i of all of them.
      double mean = 0;
      const double length = static_cast<double>(n_tokens_) * static_cast<double>(layers_.size());
      for (size_t e = 0; e < n; ++e) {
        int64_t count = 0;
        for (const Layer& other : layers_) count += other.counts[e];
        from[e] = static_cast<double>(n) * static_cast<double>(count) / length;
        mean += from[e] * soft[e];
      }
      layer.sums[static_cast<size_t>(balance_transformers)] += mean / static_cast<double>(n_tokens_);
      for (size_t e = 0; e < n; ++e)
        to[e] += settings_.coefficient(balance_transformers) * each * soft[e] * (from[e] - mean);
    }
    if (has(router_anchor)) {
      log_scores(from.data(), layer.anchor.data() + t * n, n, layer.sigmoid);
      log_scores(z.data(), row, n, layer.sigmoid);
      double divergence = 0;
      for (size_t e = 0; e < n; ++e) {
        const double before = std::exp(from[e]);
        divergence += before * (from[e] - z[e]);
        to[e] +=
            settings_.coefficient(router_anchor) * each * score_slope(row[e], layer.sigmoid) * (p[t * n + e] - before);
      }
      layer.sums[static_cast<size_t>(router_anchor)] += divergence / static_cast<double>(n_tokens_);
    }
  }
}

// Of each pair a, b: c = a b / (|a| |b|); d c^2 / d a = 2 c (b / (|a| |b|) - c a / |a|^2).
void RoutingTerms::orthogonality(Layer& layer, const RoutedRows& rows, std::vector<double>& d) {
  const auto width = static_cast<size_t>(rows.d_model), slots = static_cast<size_t>(rows.n_slots);
  const double factor = settings_.coefficient(RoutingTerm::orthogonality) / static_cast<double>(layers_.size());
  std::vector<size_t> used;
  for (size_t t = 0; t < static_cast<size_t>(rows.n_tokens); ++t) {
    used.clear();
    for (size_t k = 0; k < slots; ++k)
      if (rows.ids[t * slots + k] >= 0) used.push_back(t * slots + k);
    if (used.size() < 2) continue;
    const double weight = 2 / (static_cast<double>(used.size() * (used.size() - 1)) * static_cast<double>(n_tokens_));
    const auto dot = [&](size_t a, size_t b) {
      double sum = 0;
      for (size_t i = 0; i < width; ++i)
        sum += static_cast<double>(rows.outputs[a * width + i]) * static_cast<double>(rows.outputs[b * width + i]);
      return sum;
    };
    for (size_t i = 0; i < used.size(); ++i)
      for (size_t j = i + 1; j < used.size(); ++j) {
        const size_t a = used[i], b = used[j];
        const double aa = dot(a, a), bb = dot(b, b);
        if (aa == 0 || bb == 0) continue;  // no direction: orthogonal to all
        const double norms = std::sqrt(aa * bb), c = dot(a, b) / norms;
        layer.sums[static_cast<size_t>(RoutingTerm::orthogonality)] += weight * c * c;
        for (size_t x = 0; x < width; ++x) {
          const auto of_a = static_cast<double>(rows.outputs[a * width + x]),
                     of_b = static_cast<double>(rows.outputs[b * width + x]);
          d[a * width + x] += factor * weight * 2 * c * (of_b / norms - c * of_a / aa);
          d[b * width + x] += factor * weight * 2 * c * (of_a / norms - c * of_b / bb);
        }
      }
  }
}

RoutingTerms::Slopes RoutingTerms::slopes(const RoutedRows& rows) {
  Layer& layer = layer_of(rows.layer);
  const size_t n = layer.n_experts;
  Slopes slopes{std::vector<double>(rows.logits.size()), std::vector<double>(rows.outputs.size())};
  std::vector<double> p(rows.logits.size()), d_p(rows.logits.size());
  for (size_t t = 0; t < static_cast<size_t>(rows.n_tokens); ++t)
    scores(p.data() + t * n, rows.logits.data() + t * n, n, layer.sigmoid);
  balance(layer, rows, p, d_p);
  for (size_t t = 0; t < static_cast<size_t>(rows.n_tokens); ++t) {
    double mean = 0;
    for (size_t i = t * n; i < (t + 1) * n; ++i) mean += d_p[i] * p[i];
    for (size_t i = t * n; i < (t + 1) * n; ++i) {
      slopes.logits[i] = p[i] * score_slope(rows.logits[i], layer.sigmoid) * (d_p[i] - mean);
    }
  }
  if (has(z_loss) || has(balance_transformers) || has(router_anchor)) logit_terms(layer, rows, p, slopes.logits);
  if (wants_outputs()) orthogonality(layer, rows, slopes.outputs);
  if (settings_.counts_load)
    for (const int32_t id : rows.ids)
      if (id >= 0) ++layer.load[static_cast<size_t>(id)];
  return slopes;
}

void RoutingTerms::add(const RoutedRows& rows, std::span<float> d_logits, std::span<float> d_outputs) {
  const Slopes found = slopes(rows);
  for (size_t i = 0; i < d_logits.size(); ++i) d_logits[i] += static_cast<float>(found.logits[i]);
  for (size_t i = 0; i < d_outputs.size(); ++i) d_outputs[i] += static_cast<float>(found.outputs[i]);
}

std::vector<double> RoutingTerms::values() const {
  std::vector<double> values;
  for (const RoutingTerm term : terms()) {
    double sum = 0;
    for (const Layer& layer : layers_) {
      sum += layer.sums[static_cast<size_t>(term)];
      if (term != balance_switch) continue;
      const auto tokens = static_cast<double>(n_tokens_);
      for (size_t e = 0; e < layer.n_experts; ++e)
        sum += static_cast<double>(layer.n_experts) * static_cast<double>(layer.counts[e]) /
               (static_cast<double>(layer.n_active) * tokens) * layer.p_sums[e] / tokens;
    }
    values.push_back(sum / static_cast<double>(layers_.size()));
  }
  return values;
}

double RoutingTerms::loss() const {
  double loss = 0;
  const std::vector<double> found = values();
  const std::vector<RoutingTerm> of = terms();
  for (size_t i = 0; i < of.size(); ++i) loss += settings_.coefficient(of[i]) * found[i];
  return loss;
}

std::vector<std::vector<int64_t>> RoutingTerms::loads() const {
  std::vector<std::vector<int64_t>> loads;
  for (const Layer& layer : layers_) loads.push_back(layer.load);
  return loads;
}

}  // namespace signalbox::train
