#include "train/routing_training.h"

#include "base/error.h"

namespace signalbox::train {

namespace {

RoutingTermSettings terms_of(const RoutingTuning& tuning, const Model& model) {
  RoutingTermSettings terms = tuning.terms;
  terms.counts_load = tuning.bias_rate != 0;
  check_routing_terms(terms, model);
  return terms;
}

}  // namespace

RoutingTraining::RoutingTraining(Session& session, const RoutingTuning& tuning, const Weights& base,
                                 TrainedWeights* weights)
    : tuning_(tuning),
      terms_(*session.backend, session.model, terms_of(tuning, session.model), base),
      weights_(weights) {
  if (tuning.expert_anchor != 0 && !(weights && weights->trains_experts()))
    throw Error("--expert-anchor", "expected weights of experts that train, found none");
  if (tuning.bias_rate != 0) biases_.emplace(session);
}

void RoutingTraining::begin_step(Forward& forward, std::span<const Example* const> examples, const Groups& groups) {
  terms_.begin_step(forward, examples, groups);
}

double RoutingTraining::finish_slopes() {
  if (tuning_.expert_anchor != 0) anchor_ = weights_->add_anchor(tuning_.expert_anchor);
  return terms_.loss() + tuning_.expert_anchor * anchor_;
}

void RoutingTraining::after_step() {
  if (biases_) biases_->update(terms_.loads(), tuning_.bias_rate);
}

std::vector<std::string> RoutingTraining::columns() const {
  std::vector<std::string> columns;
  for (const RoutingTerm term : terms_.terms()) columns.emplace_back(routing_term_name(term));
  if (tuning_.expert_anchor != 0) columns.emplace_back("expert_anchor");
  if (biases_) columns.emplace_back("load_violation");
  return columns;
}

std::vector<double> RoutingTraining::values() const {
  std::vector<double> values = terms_.values();
  if (tuning_.expert_anchor != 0) values.push_back(anchor_);
  if (biases_) values.push_back(load_violation(terms_.loads()));
  return values;
}

std::vector<double> RoutingTraining::state() const { return biases_ ? biases_->values() : std::vector<double>(); }

void RoutingTraining::restore(std::span<const double> state) {
  if (biases_) biases_->set(state);
}

void RoutingTraining::put(ChangedModel& changed) const {
  if (biases_) biases_->put(changed);
}

}  // namespace signalbox::train
