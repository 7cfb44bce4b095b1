// Terms on the routing that a training adds to its loss: balance of experts, the size of router logits, an anchor at
// the routes of the untouched model, and terms that drive experts apart. Each has its loss and its gradient at router
// logits (or at the experts' outputs), from where the one way back goes on (engine/routing_slopes.h).
//
// Over the T tokens of a step, all of them, and the L layers with a router; p [T, E] are the router's own scores that
// sum to 1: softmax of the logits, or sigmoid over its sum. c_i counts selections, k experts are active. Every term is
// a mean over layers, so that a coefficient means the same for a deep model; where other code adds layers up, its
// coefficient is 1 / L of the one here.
//
//   switch         E sum_i f_i P_i, f_i = c_i / (k T) held, P_i = mean p_i      Fedus et al. 2022 (4-6); balanced: 1
//   transformers   load_balancing_loss_func of transformers: softmax always, the layers as one long list of T L tokens,
//                  E sum_i f_i P_i with f_i = c_i / (T L); balanced: k
//   sequence       mean over sequences of sum_i f_i P_i, f_i = E c_i / (k T_s)  Liu et al. 2024 (2405.04434)
//   section 2.2.3;
//                  balanced: 1
//   device         the same with groups D of neighbours: sum_D mean(f in D) sum(P in D)
//   communication  the same with f_D = D / (M T_s) tokens sent to D, of M devices a token may use
//   z-loss         mean_t (log sum_i exp z_ti)^2                                Zoph et al. 2022 (5)
//   router anchor  mean_t KL(p of the untouched model || p)
//   orthogonality  mean_t of the mean over pairs of chosen experts of cos^2 of their outputs    Guo et al. 2025
//   (2505.22323) variance       - mean_i of the variance of p_ti over the step's tokens                      the same
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/gradient.h"
#include "engine/routing_slopes.h"
#include "train/namespaces.h"
#include "train/target_loss.h"

namespace signalbox::train {

enum class RoutingTerm : uint8_t {
  balance_switch,
  balance_transformers,
  balance_sequence,
  balance_device,
  balance_communication,
  z_loss,
  router_anchor,
  orthogonality,
  variance,
};
inline constexpr size_t n_routing_terms = 9;
std::string_view routing_term_name(RoutingTerm term);  // of its column in log.csv

struct RoutingTermSettings {
  std::array<double, n_routing_terms> coefficients{};  // 0: the term is absent
  int64_t devices = 0, devices_per_token = 0;          // of the device and communication terms
  bool all_experts = false;                            // router logits see all experts (engine/unselected_experts.h)
  bool counts_load = false;                            // loads are wanted, for a bias update
  double coefficient(RoutingTerm term) const { return coefficients[static_cast<size_t>(term)]; }
  double& coefficient(RoutingTerm term) { return coefficients[static_cast<size_t>(term)]; }
  bool any() const;
};

// Throws Error naming the flag: terms that this model cannot have (no layer with a router; transformers: routers that
// do not choose the largest logits, or differ in size; device groups that do not divide the experts).
void check_routing_terms(const RoutingTermSettings& settings, const Model& model);

// What of one step, its records all known, the terms are made of and for. In a step's order:
//   begin_step(), [the runs of Gradient, which call begin() and add()], values()
class RoutingTerms final : public RoutingSlopes {
 public:
  // `base`: what the model's weights were before the training, for the router anchor; kept.
  RoutingTerms(Backend& backend, const Model& model, const RoutingTermSettings& settings, const Weights& base);
  ~RoutingTerms() override;

  const RoutingTermSettings& settings() const { return settings_; }
  std::vector<RoutingTerm> terms() const;  // those that have a coefficient

  // The step's records, in the order in which they will run. Where a term needs the counts or the mean scores of the
  // whole step, `forward`, of the weights as they are, runs them first.
  void begin_step(Forward& forward, std::span<const Example* const> examples, const Groups& groups);
  // The same for sequences of these lengths, where nothing is run: `counted` gets the routes if needs_counts().
  void begin_step(std::span<const int64_t> lengths);
  bool needs_counts() const;
  void count(const RoutedRows& rows);  // each layer's rows in order; ids, logits or both
  // Scores of the untouched model for the rows of the next begin(), [n_tokens, n_experts]: what begin() makes by itself
  // where there is a base.
  void set_anchor(int32_t layer, std::span<const float> logits);

  bool wants_outputs() const override;
  bool sees_all_experts() const override { return settings_.all_experts; }
  void begin(const Batch& batch) override;
  void begin(int64_t n_tokens);
  void add(const RoutedRows& rows, std::span<float> d_logits, std::span<float> d_outputs) override;
  // add() in double.
  struct Slopes {
    std::vector<double> logits, outputs;
  };
  Slopes slopes(const RoutedRows& rows);

  // Of the step whose runs are done, without coefficients, in the order of terms().
  std::vector<double> values() const;
  // coefficient times value, summed.
  double loss() const;
  // Selections of each expert in the step, [layers with a router][n_experts]; with counts_load.
  std::vector<std::vector<int64_t>> loads() const;

 private:
  struct Layer;
  class Rows;
  Layer& layer_of(int32_t layer);
  bool has(RoutingTerm term) const { return settings_.coefficient(term) != 0; }
  void balance(Layer& layer, const RoutedRows& rows, const std::vector<double>& p, std::vector<double>& d_p);
  void logit_terms(Layer& layer, const RoutedRows& rows, const std::vector<double>& p, std::vector<double>& d);
  void orthogonality(Layer& layer, const RoutedRows& rows, std::vector<double>& d);

  Backend& backend_;
  const Model& model_;
  RoutingTermSettings settings_;
  Weights base_weights_;
  std::unique_ptr<Forward> base_;
  std::vector<Layer> layers_;
  std::vector<const Example*> examples_;          // of the step
  std::vector<int64_t> lengths_;                  // likewise
  int64_t n_tokens_ = 0;                          // likewise
  size_t first_sequence_ = 0, end_sequence_ = 0;  // of the run at hand
};

}  // namespace signalbox::train
