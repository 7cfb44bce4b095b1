#include "train/trained_weights.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/matrix_values.h"

namespace signalbox::train {

namespace {

bool decays(const WantedWeight& of) {
  return !of.vector && of.id.role != Role::router && of.id.role != Role::shared_scale;
}

}  // namespace

TrainedWeights::TrainedWeights(Session& session, const std::vector<WantedWeight>& wanted, int threads)
    : Trained(*session.backend, threads), session_(session), before_(session.weights), wanted_(wanted) {
  std::map<std::string, TensorPlace> places;
  for_each_tensor(session.model, session.weights,
                  [&](const TensorPlace& place) { places[weight_name(place.id)] = place; });
  for (const WantedWeight& of : wanted_) {
    const std::string name = weight_name(of.id);
    const auto index = static_cast<int64_t>(parameters_.size());
    const Parameter& one = add(name, of.rows, of.cols, decays(of), of.id.expert >= 0 ? index : -1);
    const TensorPlace& place = places.at(name);
    if (place.vector) {
      std::copy_n(place.vector->data, of.cols, one.weight());
    } else {
      read_matrix(one.weight(), *place.matrix);
    }
    if (of.id.role == Role::embed && session.model.tied_embeddings) tied_head_ = zeros(one.n());
    index_[name] = static_cast<size_t>(index);
  }
  replace_views();
}

void TrainedWeights::replace_views() {
  for_each_tensor(session_.model, session_.weights, [&](const TensorPlace& place) {
    const auto found = index_.find(weight_name(place.id));
    if (found == index_.end()) return;
    const Parameter& one = parameters_[found->second];
    if (place.vector) {
      place.vector->data = one.weight();
      return;
    }
    place.matrix->data = one.weight();
    place.matrix->dtype = DType::f32;
    place.matrix->row_stride = one.cols;
  });
  if (session_.model.tied_embeddings) session_.weights.lm_head = session_.weights.embed;
}

Tensor TrainedWeights::sum(const TensorId& id) {
  const bool head = id.role == Role::lm_head && tied_head_;
  const auto found = index_.find(weight_name(head ? TensorId{Role::embed, -1, -1} : id));
  if (found == index_.end()) return {};
  const Parameter& one = parameters_[found->second];
  return Tensor(head ? static_cast<float*>(tied_head_.get()) : one.slope(), one.rows, one.cols);
}

void TrainedWeights::zero_sums() {
  Trained::zero_sums();
  if (tied_head_) std::memset(tied_head_.get(), 0, parameters_[index_.at("embed")].n() * sizeof(float));
}

void TrainedWeights::finish_sums() {
  if (!tied_head_) return;
  const Parameter& embed = parameters_[index_.at("embed")];
  const auto* head = static_cast<const float*>(tied_head_.get());
  for (size_t i = 0; i < embed.n(); ++i) embed.slope()[i] += head[i];
}

bool TrainedWeights::trains_experts() const {
  return std::any_of(wanted_.begin(), wanted_.end(), [](const WantedWeight& of) { return of.id.expert >= 0; });
}

double TrainedWeights::add_anchor(double coefficient) {
  std::vector<double> squares(parameters_.size());
  std::vector<TensorPlace> places(parameters_.size());
  for_each_tensor(session_.model, before_, [&](const TensorPlace& place) {
    const auto found = index_.find(weight_name(place.id));
    if (found != index_.end()) places[found->second] = place;
  });
  pool_.parallel_for(static_cast<int64_t>(parameters_.size()), [&](int64_t i, int) {
    const TensorPlace& place = places[static_cast<size_t>(i)];
    if (place.id.expert < 0) return;
    const Parameter& one = parameters_[static_cast<size_t>(i)];
    std::vector<float> before(one.n());
    if (place.vector) {
      std::copy_n(place.vector->data, one.n(), before.data());
    } else {
      read_matrix(before.data(), *place.matrix);
    }
    double sum = 0;
    for (size_t j = 0; j < one.n(); ++j) {
      const double change = static_cast<double>(one.weight()[j]) - static_cast<double>(before[j]);
      sum += change * change;
      one.slope()[j] += static_cast<float>(2 * coefficient * change);
    }
    squares[static_cast<size_t>(i)] = sum;
  });
  return std::accumulate(squares.begin(), squares.end(), 0.0);
}

ChangedModel TrainedWeights::changed(const std::function<DType(const TensorId&)>& stored_dtype) const {
  ChangedModel changed = keep_experts(session_.model, session_.weights, {});
  for (ExpertChange& change : changed.changes)
    for (const WantedWeight& of : wanted_)
      if (of.id.layer == change.layer && of.id.expert >= 0) change.replaced[static_cast<size_t>(of.id.expert)] = 1;
  for_each_tensor(changed.model, changed.weights, [&](const TensorPlace& place) {
    const auto found = index_.find(weight_name(place.id));
    if (found == index_.end()) return;
    const Parameter& one = parameters_[found->second];
    if (place.id.expert < 0) changed.replaced.push_back(place.id);
    if (place.vector) {
      place.vector->data = one.weight();
    } else {
      *place.matrix = rounded(one.weight(), one.rows, one.cols, stored_dtype(place.id), changed.weights);
    }
  });
  return changed;
}

}  // namespace signalbox::train
