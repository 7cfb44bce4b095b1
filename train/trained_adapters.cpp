#include "train/trained_adapters.h"

#include <cmath>
#include <cstring>

#include "engine/matrix_values.h"
#include "eval/data/dice.h"

namespace signalbox::train {

namespace {

Matrix parameter_view(const Parameter& of) {
  Matrix matrix;
  matrix.data = of.weight();
  matrix.rows = of.rows;
  matrix.cols = matrix.row_stride = of.cols;
  return matrix;
}

// Uniform in +-1/sqrt(cols), on a grid of 2^24 so that the bits are the same everywhere.
void draw(const Parameter& a, uint64_t seed) {
  Dice dice(seed, "lora " + a.name);
  const float bound = 1 / std::sqrt(static_cast<float>(a.cols));
  for (size_t i = 0; i < a.n(); ++i)
    a.weight()[i] = bound * (static_cast<float>(dice.below(uint64_t{1} << 24)) / 8388608.f - 1);
}

}  // namespace

float AdapterSettings::scale() const {
  const auto r = static_cast<double>(rank);
  return static_cast<float>(alpha / (rslora ? std::sqrt(r) : r));
}

TrainedAdapters::TrainedAdapters(Session& session, const std::vector<TensorId>& targets,
                                 const AdapterSettings& settings, int threads)
    : Trained(*session.backend, threads), session_(session), settings_(settings) {
  std::map<std::string, TensorId> wanted;
  for (const TensorId& id : targets) wanted[weight_name(id)] = id;
  if (wanted.contains("lm_head") && session.model.tied_embeddings) session.model.tied_embeddings = false;
  int64_t group = 0;
  for_each_tensor(session.model, session.weights, [&](const TensorPlace& place) {
    const std::string name = weight_name(place.id);
    if (!wanted.contains(name)) return;
    Target target;
    target.id = place.id;
    target.base = *place.matrix;
    target.merged = std::make_shared<std::vector<float>>(static_cast<size_t>(place.rows * place.cols));
    const bool expert = place.id.expert >= 0;
    const bool decays = place.id.role != Role::router && place.id.role != Role::shared_scale;
    // Up stands behind the gate of its expert: its pair may go on with that one's a and is left alone together with it.
    const bool behind = place.id.role == Role::expert_up && !targets_.empty() &&
                        targets_.back().id.role == Role::expert_gate && targets_.back().id.expert == place.id.expert &&
                        targets_.back().id.layer == place.id.layer;
    if (!behind) ++group;
    if (behind && settings_.shares_gate_up) {
      target.a = targets_.back().a;
      target.own_a = zeros(parameters_[target.a].n());
    } else {
      target.a = parameters_.size();
      draw(add(name + ".a", settings_.rank, place.cols, decays, expert ? group : -1), settings_.seed);
    }
    target.b = parameters_.size();
    add(name + ".b", place.rows, settings_.rank, decays, expert ? group : -1);
    if (place.id.role == Role::kv_b) target.whole = zeros(target.merged->size());
    index_[name] = targets_.size();
    targets_.push_back(std::move(target));
  });
  for (Target& target : targets_) {
    target.pair = {parameter_view(parameters_[target.a]), parameter_view(parameters_[target.b]), settings_.scale()};
  }
  merge();
  replace_views();
}

void TrainedAdapters::replace_views() {
  for_each_tensor(session_.model, session_.weights, [&](const TensorPlace& place) {
    const auto found = index_.find(weight_name(place.id));
    if (found == index_.end()) return;
    Matrix merged;
    merged.data = targets_[found->second].merged->data();
    merged.rows = place.rows;
    merged.cols = merged.row_stride = place.cols;
    *place.matrix = merged;
  });
}

void TrainedAdapters::merge() {
  pool_.parallel_for(static_cast<int64_t>(targets_.size()), [&](int64_t i, int) {
    const Target& target = targets_[static_cast<size_t>(i)];
    read_matrix(target.merged->data(), target.base);
    add_product(*target.merged, target.pair);
  });
}

const TrainedAdapters::Target* TrainedAdapters::find(const TensorId& id) const {
  const auto found = index_.find(weight_name(id));
  return found == index_.end() ? nullptr : &targets_[found->second];
}

Tensor TrainedAdapters::sum(const TensorId& id) {
  const Target* target = find(id);
  if (!target || !target->whole) return {};
  return Tensor(static_cast<float*>(target->whole.get()), target->base.rows, target->base.cols);
}

const Adapter* TrainedAdapters::adapter(const TensorId& id) {
  const Target* target = find(id);
  return target && !target->whole ? &target->pair : nullptr;
}

Tensor TrainedAdapters::sum_of_a(const TensorId& id) {
  const Target& target = *find(id);
  const Parameter& a = parameters_[target.a];
  return Tensor(target.own_a ? static_cast<float*>(target.own_a.get()) : a.slope(), a.rows, a.cols);
}

Tensor TrainedAdapters::sum_of_b(const TensorId& id) {
  const Parameter& b = parameters_[find(id)->b];
  return Tensor(b.slope(), b.rows, b.cols);
}

void TrainedAdapters::zero_sums() {
  Trained::zero_sums();
  for (const Target& target : targets_) {
    if (target.own_a) std::memset(target.own_a.get(), 0, parameters_[target.a].n() * sizeof(float));
    if (target.whole) std::memset(target.whole.get(), 0, target.merged->size() * sizeof(float));
  }
}

// d_b = s d_w a^T, d_a = s b^T d_w.
void TrainedAdapters::finish_sums() {
  for (const Target& target : targets_) {
    if (target.own_a)
      for (size_t i = 0; i < parameters_[target.a].n(); ++i)
        parameters_[target.a].slope()[i] += static_cast<const float*>(target.own_a.get())[i];
    if (!target.whole) continue;
    const Parameter &a = parameters_[target.a], &b = parameters_[target.b];
    const auto* d_w = static_cast<const float*>(target.whole.get());
    const float scale = target.pair.scale;
    const int64_t rank = a.rows, cols = a.cols;
    for (int64_t o = 0; o < b.rows; ++o)
      for (int64_t k = 0; k < rank; ++k) {
        const float b_ok = scale * b.weight()[o * rank + k];
        double sum = 0;
        for (int64_t i = 0; i < cols; ++i) {
          sum += double{d_w[o * cols + i]} * double{a.weight()[k * cols + i]};
          a.slope()[k * cols + i] += b_ok * d_w[o * cols + i];
        }
        b.slope()[o * rank + k] += scale * static_cast<float>(sum);
      }
  }
}

std::vector<AdaptedMatrix> TrainedAdapters::matrices() const {
  std::vector<AdaptedMatrix> all;
  for (const Target& target : targets_) all.push_back({target.id, target.pair});
  return all;
}

}  // namespace signalbox::train
