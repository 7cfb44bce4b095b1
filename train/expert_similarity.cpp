#include "train/expert_similarity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "engine/run_plan.h"
#include "eval/compress/assignment.h"
#include "eval/compress/expert_outputs.h"
#include "eval/compress/neurons.h"
#include "eval/data/dice.h"
#include "train/moved_expert.h"

namespace signalbox::train {

namespace {

constexpr double kept_variance = 0.99;
constexpr double most_products = 1e13;
constexpr int64_t block_floats = int64_t{1} << 25;

const MoeWeights& moe_weights(const Weights& weights, int32_t layer) {
  return std::get<MoeWeights>(weights.layers[static_cast<size_t>(layer)].ffn);
}
const Moe& moe_of(const Model& model, int32_t layer) { return *model.layers[static_cast<size_t>(layer)].moe(); }

std::vector<int32_t> every_expert(int32_t n) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

// [expert][token] 1: selected.
std::vector<std::vector<uint8_t>> selected_by(const LayerStates& states, int32_t n_experts, int64_t n) {
  std::vector<std::vector<uint8_t>> out(static_cast<size_t>(n_experts), std::vector<uint8_t>(static_cast<size_t>(n)));
  for (int64_t t = 0; t < n; ++t)
    for (int64_t k = 0; k < states.n_slots; ++k)
      if (const int32_t e = states.ids[static_cast<size_t>(t * states.n_slots + k)]; e >= 0)
        out[static_cast<size_t>(e)][static_cast<size_t>(t)] = 1;
  return out;
}

double jaccard(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  int64_t both = 0, either = 0;
  for (size_t t = 0; t < a.size(); ++t) {
    both += a[t] & b[t];
    either += a[t] | b[t];
  }
  return either > 0 ? static_cast<double>(both) / static_cast<double>(either) : no_number;
}

// Of one pair over some tokens.
struct AnswerSums {
  double cosine = 0, difference = 0, square = 0;
  int64_t n = 0, defined = 0;
  void add(const float* a, const float* b, int64_t d) {
    double aa = 0, bb = 0, ab = 0, diff = 0;
    for (int64_t c = 0; c < d; ++c) {
      const double x = a[c], y = b[c];
      aa += x * x;
      bb += y * y;
      ab += x * y;
      diff += (x - y) * (x - y);
    }
    ++n;
    difference += diff;
    square += bb;
    if (aa == 0 || bb == 0) return;
    cosine += std::clamp(ab / std::sqrt(aa * bb), -1.0, 1.0);
    ++defined;
  }
  double mean_cosine() const { return defined > 0 ? cosine / static_cast<double>(defined) : no_number; }
  double error() const { return square > 0 ? std::sqrt(difference / square) : no_number; }
};

// Rows of a's outputs in b's basis: scale * out * row.
std::vector<float> in_basis(const std::vector<float>& rows, const BasisMap& map, const std::vector<float>& out_map,
                            Backend& backend) {
  if (map.kind == Basis::none) return rows;
  const int64_t d_a = map.out.cols, d_b = map.out.rows, n = static_cast<int64_t>(rows.size()) / d_a;
  std::vector<float> out(static_cast<size_t>(n * d_b));
  backend.matmul(Tensor(out.data(), n, d_b), Tensor(const_cast<float*>(rows.data()), n, d_a),
                 Matrix{out_map.data(), DType::f32, d_b, d_a, d_a, nullptr, 0}, {});
  return out;
}

// Outputs of one expert on all states, centred and turned: what CKA and SVCCA are made of.
struct Representation {
  std::vector<float> columns;   // [d, n]
  std::vector<double> squares;  // [n] |x_t|^2
  double self = 0;
  DenseMatrix directions;  // [k, d] for SVCCA
};

std::vector<float> cross_products(const Representation& x, const Representation& y, Backend& backend) {
  const auto n = static_cast<int64_t>(x.squares.size());
  const int64_t d_x = static_cast<int64_t>(x.columns.size()) / n, d_y = static_cast<int64_t>(y.columns.size()) / n;
  std::vector<float> out(static_cast<size_t>(d_x * d_y));
  backend.matmul(Tensor(out.data(), d_x, d_y), Tensor(const_cast<float*>(x.columns.data()), d_x, n),
                 Matrix{y.columns.data(), DType::f32, d_y, n, n, nullptr, 0}, {});
  return out;
}

DenseMatrix dense_of(const std::vector<float>& values, int64_t rows, int64_t cols) {
  DenseMatrix out(rows, cols);
  std::copy(values.begin(), values.end(), out.values.begin());
  return out;
}

Representation represent(const std::vector<float>& rows, int64_t n, bool directions, Backend& backend) {
  const int64_t d = static_cast<int64_t>(rows.size()) / n;
  Representation out;
  out.columns.resize(rows.size());
  out.squares.assign(static_cast<size_t>(n), 0);
  for (int64_t c = 0; c < d; ++c) {
    double mean = 0;
    for (int64_t t = 0; t < n; ++t) mean += rows[static_cast<size_t>(t * d + c)];
    mean /= static_cast<double>(n);
    for (int64_t t = 0; t < n; ++t) {
      const auto x = static_cast<float>(rows[static_cast<size_t>(t * d + c)] - mean);
      out.columns[static_cast<size_t>(c * n + t)] = x;
      out.squares[static_cast<size_t>(t)] += static_cast<double>(x) * x;
    }
  }
  const std::vector<float> own = cross_products(out, out, backend);
  out.self = unbiased_hsic(own, out.squares, out.squares);
  if (directions) out.directions = whitening_directions(dense_of(own, d, d), kept_variance);
  return out;
}

// One layer of the first model beside one of the second.
class LayerComparison {
 public:
  LayerComparison(const ModelSide& a, const ModelSide& b, const LayerStates& states_a, const LayerStates& states_b,
                  const std::vector<int64_t>& states, const LikenessOptions& options, Backend& backend,
                  ThreadPool& pool, LayerLikeness& out)
      : a_(a),
        b_(b),
        options_(options),
        backend_(backend),
        pool_(pool),
        out_(out),
        n_(static_cast<int64_t>(states.size())),
        states_(states) {
    const Model &model_a = a.session->model, &model_b = b.session->model;
    out.n_a = moe_of(model_a, out.layer_a).router.n_experts;
    out.n_b = moe_of(model_b, out.layer_b).router.n_experts;
    d_ = model_b.d_model;
    x_a_ = expert_inputs(backend, model_a, *a.weights, out.layer_a, states_a.mid);
    x_b_ = expert_inputs(backend, model_b, *b.weights, out.layer_b, states_b.mid);
    const auto n_tokens = static_cast<int64_t>(states_a.ids.size()) / std::max<int64_t>(1, states_a.n_slots);
    select_a_ = selected_by(states_a, out.n_a, n_tokens);
    const auto select_b = selected_by(states_b, out.n_b, n_tokens);
    for (int32_t e = 0; e < out.n_a; ++e)
      for (int32_t f = 0; f < out.n_b; ++f) {
        ExpertLikeness& pair = out.pairs.emplace_back();
        pair.expert_a = e;
        pair.expert_b = f;
        pair.routing = jaccard(select_a_[static_cast<size_t>(e)], select_b[static_cast<size_t>(f)]);
      }
  }

  // function, its errors and the null: all experts on all states.
  void compare_answers(const std::function<void(int64_t tokens)>& on_done) {
    const Model &model_a = a_.session->model, &model_b = b_.session->model;
    const int64_t d_a = model_a.d_model;
    ExpertOutputs of_a(backend_, model_a, moe_weights(*a_.weights, out_.layer_a)),
        of_b(backend_, model_b, moe_weights(*b_.weights, out_.layer_b));
    const std::vector<int32_t> all_a = every_expert(out_.n_a), all_b = every_expert(out_.n_b);
    std::vector<float> out_map;
    for (const double value : out_.map.out.values) out_map.push_back(static_cast<float>(out_.map.scale * value));
    std::vector<int64_t> shuffled(static_cast<size_t>(d_));
    std::iota(shuffled.begin(), shuffled.end(), 0);
    Dice(options_.seed, "similarity random experts").shuffle(shuffled);
    std::vector<AnswerSums> all(out_.pairs.size()), chosen(all.size()), random(all.size());
    const int64_t step = std::clamp<int64_t>(block_floats / ((out_.n_a + 2 * out_.n_b) * std::max(d_a, d_)), 1, n_);
    std::vector<float> x;
    for (int64_t first = 0; first < n_; first += step) {
      const int64_t n = std::min(step, n_ - first);
      const std::vector<float> theirs =
                                   in_basis(of_a.of(x_a_.data() + first * d_a, n, all_a), out_.map, out_map, backend_),
                               ours = of_b.of(x_b_.data() + first * d_, n, all_b);
      x.assign(static_cast<size_t>(n * d_), 0);
      for (int64_t t = 0; t < n; ++t)
        for (int64_t c = 0; c < d_; ++c)
          x[static_cast<size_t>(t * d_ + c)] = x_b_[static_cast<size_t>((first + t) * d_ + shuffled[c])];
      const std::vector<float>& others = of_b.of(x.data(), n, all_b);
      pool_.parallel_for(out_.n_a, [&](int64_t e, int) {
        for (int64_t t = 0; t < n; ++t) {
          const auto token = static_cast<size_t>(states_[static_cast<size_t>(first + t)]);
          const float* row = theirs.data() + (t * out_.n_a + e) * d_;
          for (int64_t f = 0; f < out_.n_b; ++f) {
            const auto at = static_cast<size_t>(e * out_.n_b + f);
            const float* other = ours.data() + (t * out_.n_b + f) * d_;
            all[at].add(row, other, d_);
            if (select_a_[static_cast<size_t>(e)][token]) chosen[at].add(row, other, d_);
            random[at].add(row, others.data() + (t * out_.n_b + f) * d_, d_);
          }
        }
      });
      on_done(first + n);
    }
    std::vector<double> of_random;
    double sum = 0;
    int64_t defined = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      ExpertLikeness& pair = out_.pairs[i];
      pair.function = all[i].mean_cosine();
      pair.error = all[i].error();
      pair.function_selected = chosen[i].mean_cosine();
      pair.error_selected = chosen[i].error();
      of_random.push_back(random[i].mean_cosine());
      if (std::isnan(pair.function)) continue;
      sum += pair.function;
      ++defined;
    }
    out_.all_mean = defined > 0 ? sum / static_cast<double>(defined) : no_number;
    std::vector<double> function;
    for (const ExpertLikeness& pair : out_.pairs) function.push_back(pair.function);
    out_.matched_mean = assign(function, &out_.matched);
    out_.random_mean = assign(of_random, nullptr);
  }

  // Pairs whose weights and representations are compared: those of the highest function, ties to the lower ids.
  std::vector<size_t> chosen_pairs() const {
    std::vector<size_t> order(out_.pairs.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return value(i) > value(j); });
    int64_t limit = options_.pairs;
    if (limit < 0) {
      const auto d_ff = static_cast<double>(neurons());
      const double one = 3 * static_cast<double>(d_) * d_ff * d_ff +
                         static_cast<double>(n_) * static_cast<double>(d_) * static_cast<double>(d_);
      limit =
          std::max<int64_t>(1, static_cast<int64_t>(most_products / static_cast<double>(options_.layers.size()) / one));
    }
    order.resize(std::min(order.size(), static_cast<size_t>(limit)));
    std::sort(order.begin(), order.end());
    return order;
  }

  void compare_closely(const std::vector<size_t>& pairs, bool cka, const std::function<void()>& on_done) {
    out_.no_weight = experts_misfit(a_.session->model, moe_of(a_.session->model, out_.layer_a), b_.session->model,
                                    moe_of(b_.session->model, out_.layer_b));
    std::map<int32_t, Representation> kept_a, kept_b;
    std::map<int32_t, Neurons> neurons_a, neurons_b;
    for (const size_t at : pairs) {
      ExpertLikeness& pair = out_.pairs[at];
      // Pairs stand by a: what was made of an earlier one has had its use.
      kept_a.erase(kept_a.begin(), kept_a.lower_bound(pair.expert_a));
      neurons_a.erase(neurons_a.begin(), neurons_a.lower_bound(pair.expert_a));
      if (out_.no_weight.empty()) {
        const Activation& activation = b_.session->model.activation;
        if (neurons_a.empty()) neurons_a.emplace(pair.expert_a, neurons_of_a(pair.expert_a, activation));
        if (!neurons_b.count(pair.expert_b)) {
          if (neurons_b.size() * bytes_of_neurons() > most_kept) neurons_b.clear();
          const SingleExpert one(
              padded_expert(read_expert(moe_weights(*b_.weights, out_.layer_b), pair.expert_b), neurons()));
          neurons_b.emplace(pair.expert_b, read_neurons(one.weights, 0, activation));
        }
        pair.weight = align(neurons_a.at(pair.expert_a), neurons_b.at(pair.expert_b), backend_).similarity;
      }
      if (cka) {
        if (kept_a.empty()) kept_a.emplace(pair.expert_a, of_expert(a_, out_.layer_a, x_a_, pair.expert_a));
        if (!kept_b.count(pair.expert_b)) {
          if (kept_b.size() * static_cast<size_t>(n_ * d_) * 4 > most_kept) kept_b.clear();
          kept_b.emplace(pair.expert_b, of_expert(b_, out_.layer_b, x_b_, pair.expert_b));
        }
        compare_representations(kept_a.at(pair.expert_a), kept_b.at(pair.expert_b), pair);
      }
      on_done();
    }
  }

 private:
  static constexpr size_t most_kept = size_t{1} << 31;

  double value(size_t i) const { return std::isnan(out_.pairs[i].function) ? -2 : out_.pairs[i].function; }
  int64_t neurons() const {
    return std::max(moe_of(a_.session->model, out_.layer_a).d_ff, moe_of(b_.session->model, out_.layer_b).d_ff);
  }
  size_t bytes_of_neurons() const { return static_cast<size_t>(neurons() * d_) * 12; }

  Neurons neurons_of_a(int32_t expert, const Activation& activation) const {
    const auto norm = [](const ModelSide& side, int32_t layer) {
      const Vector& weight = side.weights->layers[static_cast<size_t>(layer)].ffn_norm;
      return std::vector<float>(weight.data, weight.data + weight.n);
    };
    const ExpertValues moved = moved_expert(read_expert(moe_weights(*a_.weights, out_.layer_a), expert), out_.map,
                                            norm(a_, out_.layer_a), norm(b_, out_.layer_b));
    return read_neurons(SingleExpert(padded_expert(moved, neurons())).weights, 0, activation);
  }

  Representation of_expert(const ModelSide& side, int32_t layer, const std::vector<float>& x, int32_t expert) {
    ExpertOutputs outputs(backend_, side.session->model, moe_weights(*side.weights, layer));
    return represent(outputs.of(x.data(), n_, std::span(&expert, 1)), n_, options_.svcca, backend_);
  }

  void compare_representations(const Representation& x, const Representation& y, ExpertLikeness& pair) {
    const std::vector<float> cross = cross_products(x, y, backend_);
    if (x.self > 0 && y.self > 0) pair.cka = unbiased_hsic(cross, x.squares, y.squares) / std::sqrt(x.self * y.self);
    if (!options_.svcca) return;
    const int64_t k = std::min(x.directions.rows, y.directions.rows);
    if (k == 0) return;
    const DenseMatrix inner = product(x.directions, dense_of(cross, x.directions.cols, y.directions.cols));
    pair.svcca = nuclear_norm(product_transposed(inner, y.directions)) / static_cast<double>(k);
  }

  // The mean over the best assignment; who goes with whom.
  double assign(const std::vector<double>& scores, std::vector<int32_t>* matched) const {
    const int64_t n = std::max(out_.n_a, out_.n_b);
    std::vector<float> square(static_cast<size_t>(n * n), -2);
    for (int64_t e = 0; e < out_.n_a; ++e)
      for (int64_t f = 0; f < out_.n_b; ++f)
        if (const double score = scores[static_cast<size_t>(e * out_.n_b + f)]; !std::isnan(score))
          square[static_cast<size_t>(e * n + f)] = static_cast<float>(score);
    const std::vector<int32_t> columns = best_assignment(square, n);
    double sum = 0;
    int64_t count = 0;
    for (int32_t e = 0; e < out_.n_a; ++e) {
      const int32_t f = columns[static_cast<size_t>(e)];
      const bool real = f < out_.n_b && !std::isnan(scores[static_cast<size_t>(e * out_.n_b + f)]);
      if (matched) matched->push_back(real ? f : -1);
      if (!real) continue;
      sum += scores[static_cast<size_t>(e * out_.n_b + f)];
      ++count;
    }
    return count > 0 ? sum / static_cast<double>(count) : no_number;
  }

  const ModelSide &a_, &b_;
  const LikenessOptions& options_;
  Backend& backend_;
  ThreadPool& pool_;
  LayerLikeness& out_;
  int64_t n_ = 0, d_ = 0;
  const std::vector<int64_t>& states_;
  std::vector<float> x_a_, x_b_;
  std::vector<std::vector<uint8_t>> select_a_;
};

}  // namespace

double unbiased_hsic(const std::vector<float>& cross, const std::vector<double>& squares_a,
                     const std::vector<double>& squares_b) {
  const auto n = static_cast<double>(squares_a.size());
  double trace = 0, both = 0, sum_a = 0, sum_b = 0;
  for (const float value : cross) trace += static_cast<double>(value) * value;
  for (size_t t = 0; t < squares_a.size(); ++t) {
    both += squares_a[t] * squares_b[t];
    sum_a += squares_a[t];
    sum_b += squares_b[t];
  }
  // Kernels without their diagonals: of centred columns row t sums to -|x_t|^2.
  return (trace - both + sum_a * sum_b / ((n - 1) * (n - 2)) - 2 / (n - 2) * both) / (n * (n - 3));
}

std::vector<int64_t> drawn_tokens(int64_t total, int64_t n, uint64_t seed) {
  std::vector<int64_t> out(static_cast<size_t>(total));
  std::iota(out.begin(), out.end(), 0);
  if (n >= total) return out;
  Dice(seed, "paired tokens").shuffle(out);
  out.resize(static_cast<size_t>(n));
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<float> expert_inputs(Backend& backend, const Model& model, const Weights& weights, int32_t layer,
                                 const std::vector<float>& mid) {
  const int64_t d = model.d_model, n = static_cast<int64_t>(mid.size()) / d;
  std::vector<float> out(mid.size());
  backend.rmsnorm(Tensor(out.data(), n, d), Tensor(const_cast<float*>(mid.data()), n, d),
                  weights.layers[static_cast<size_t>(layer)].ffn_norm, model.norm_eps);
  return out;
}

StatePairs state_pairs(const Session& a, int32_t layer_a, const LayerStates& states_a, const Weights& weights_a,
                       const Session& b, int32_t layer_b, const LayerStates& states_b, const Weights& weights_b,
                       const std::vector<int64_t>& examples) {
  const auto norm = [](const Weights& weights, int32_t layer) {
    const Vector& weight = weights.layers[static_cast<size_t>(layer)].ffn_norm;
    return std::vector<float>(weight.data, weight.data + weight.n);
  };
  StatePairs out;
  out.a = &states_a.mid;
  out.b = &states_b.mid;
  out.d_a = a.model.d_model;
  out.d_b = b.model.d_model;
  out.eps_a = a.model.norm_eps;
  out.eps_b = b.model.norm_eps;
  out.weight_a = norm(weights_a, layer_a);
  out.weight_b = norm(weights_b, layer_b);
  out.held_out = held_out_tokens(examples);
  return out;
}

LikenessResult compare_experts(const ModelSide& a, const ModelSide& b, const PairedTokens& tokens,
                               const std::vector<int64_t>& examples, const LikenessOptions& options) {
  LikenessResult result;
  result.tokens = tokens.n();
  result.needed = 4 * std::max(a.session->model.d_model, b.session->model.d_model);
  const std::vector<int64_t> states =
      drawn_tokens(tokens.n(), options.states > 0 ? options.states : 2 * result.needed, options.seed);
  result.states = static_cast<int64_t>(states.size());
  if (states.empty()) throw Error("--data", "expected tokens that both models read, found none");
  std::set<int32_t> layers_a, layers_b;
  for (const auto& [layer_a, layer_b] : options.layers) {
    layers_a.insert(layer_a);
    layers_b.insert(layer_b);
  }
  const auto record = [&](const ModelSide& side, const std::set<int32_t>& layers, const std::vector<TokenAt>& at,
                          const RecordJobs& jobs, const char* stage) {
    StateSink sink(side.session->shape, {layers.begin(), layers.end()}, at, states);
    const int64_t total = planned_tokens(jobs.jobs, true);
    RunEvents events;
    events.on_progress = [&](int64_t done) { options.on_progress(stage, done, total, "tokens"); };
    record_states(*side.session, jobs, sink, events);
    return sink;
  };
  const StateSink of_a = record(a, layers_a, tokens.in_a, tokens.a, "running the first model"),
                  of_b = record(b, layers_b, tokens.in_b, tokens.b, "running the second model");
  std::vector<int64_t> example_of_state;
  for (const int64_t token : states)
    example_of_state.push_back(examples[static_cast<size_t>(tokens.in_a[static_cast<size_t>(token)].first)]);
  const auto backend = make_cpu_backend({options.threads, options.isa});
  ThreadPool pool(options.threads);
  const auto n_layers = static_cast<int64_t>(options.layers.size());
  for (const auto& [layer_a, layer_b] : options.layers) {
    const int64_t before = static_cast<int64_t>(result.layers.size()) * result.states;
    LayerLikeness& one = result.layers.emplace_back();
    one.layer_a = layer_a;
    one.layer_b = layer_b;
    one.map = fit_basis(state_pairs(*a.session, layer_a, of_a.layer(layer_a), *a.weights, *b.session, layer_b,
                                    of_b.layer(layer_b), *b.weights, example_of_state),
                        options.basis, options.ridge, pool);
    LayerComparison comparison(a, b, of_a.layer(layer_a), of_b.layer(layer_b), states, options, *backend, pool, one);
    comparison.compare_answers([&](int64_t done) {
      options.on_progress("comparing outputs", before + done, n_layers * result.states, "tokens");
    });
    const std::vector<size_t> close = comparison.chosen_pairs();
    int64_t done = 0;
    const std::string stage =
        "comparing closely, layers " + std::to_string(layer_a) + " and " + std::to_string(layer_b);
    comparison.compare_closely(close, result.states >= result.needed, [&] {
      options.on_progress(stage, ++done, static_cast<int64_t>(close.size()), "pairs");
    });
  }
  return result;
}

}  // namespace signalbox::train
