#include "train/trained_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "kernels/weight_adjoint.h"

namespace signalbox::train {

namespace {

float value_of(const Matrix& matrix, int64_t row, int64_t col) {
  const int64_t at = row * matrix.row_stride + col;
  if (matrix.dtype == DType::f32) {
    float value;
    std::memcpy(&value, static_cast<const std::byte*>(matrix.data) + 4 * at, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, static_cast<const std::byte*>(matrix.data) + 2 * at, 2);
  return matrix.dtype == DType::f16 ? float_of_f16(half) : float_of_bf16(half);
}

bool decays(const WantedWeight& of) {
  return !of.vector && of.id.role != Role::router && of.id.role != Role::shared_scale;
}

bool all_zero(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return x == 0; });
}

// A matrix of another dtype, kept alive by `owner`.
Matrix rounded(const float* values, int64_t rows, int64_t cols, DType dtype, Weights& owner) {
  Matrix matrix;
  matrix.data = values;
  matrix.dtype = dtype;
  matrix.rows = rows;
  matrix.cols = matrix.row_stride = cols;
  if (dtype == DType::f32) return matrix;
  auto halves = std::make_shared<std::vector<uint16_t>>(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < halves->size(); ++i)
    (*halves)[i] = dtype == DType::f16 ? f16_of_float(values[i]) : bf16_of_float(values[i]);
  matrix.data = halves->data();
  owner.owners.push_back(std::move(halves));
  return matrix;
}

}  // namespace

TrainedWeights::TrainedWeights(Session& session, const std::vector<WantedWeight>& wanted, int threads)
    : session_(session), pool_(std::max(1, threads)) {
  Backend& backend = *session.backend;
  weight_adjoints(backend);
  if (!backend.shares_host_memory())
    throw Error("--device", "expected cpu (nothing trains elsewhere yet), found " + std::string(backend.name()));
  std::map<std::string, TensorPlace> places;
  for_each_tensor(session.model, session.weights,
                  [&](const TensorPlace& place) { places[weight_name(place.id)] = place; });
  const auto zeros = [&](size_t n) {
    std::shared_ptr<void> memory = backend.allocate(n * sizeof(float));
    std::memset(memory.get(), 0, n * sizeof(float));
    return memory;
  };
  for (const WantedWeight& of : wanted) {
    One one;
    one.of = of;
    one.m.resize(one.n());
    one.v.resize(one.n());
    one.weights = zeros(one.n());
    one.slopes = zeros(one.n());
    const TensorPlace& place = places.at(weight_name(of.id));
    if (place.vector) {
      std::copy_n(place.vector->data, of.cols, one.weight());
    } else {
      for (int64_t r = 0; r < of.rows; ++r)
        for (int64_t c = 0; c < of.cols; ++c) one.weight()[r * of.cols + c] = value_of(*place.matrix, r, c);
    }
    if (of.id.role == Role::embed && session.model.tied_embeddings) tied_head_ = zeros(one.n());
    index_[weight_name(of.id)] = ones_.size();
    ones_.push_back(std::move(one));
  }
  replace_views();
}

void TrainedWeights::replace_views() {
  for_each_tensor(session_.model, session_.weights, [&](const TensorPlace& place) {
    const auto found = index_.find(weight_name(place.id));
    if (found == index_.end()) return;
    const One& one = ones_[found->second];
    if (place.vector) {
      place.vector->data = one.weight();
      return;
    }
    place.matrix->data = one.weight();
    place.matrix->dtype = DType::f32;
    place.matrix->row_stride = one.of.cols;
  });
  if (session_.model.tied_embeddings) session_.weights.lm_head = session_.weights.embed;
}

Tensor TrainedWeights::sum(const TensorId& id) {
  const bool head = id.role == Role::lm_head && tied_head_;
  const auto found = index_.find(weight_name(head ? TensorId{Role::embed, -1, -1} : id));
  if (found == index_.end()) return {};
  const One& one = ones_[found->second];
  return Tensor(head ? static_cast<float*>(tied_head_.get()) : one.slope(), one.of.rows, one.of.cols);
}

void TrainedWeights::zero_sums() {
  for (const One& one : ones_) std::memset(one.slopes.get(), 0, one.n() * sizeof(float));
  if (tied_head_) std::memset(tied_head_.get(), 0, ones_[index_.at("embed")].n() * sizeof(float));
}

double TrainedWeights::gradient_norm() {
  if (tied_head_) {
    const One& embed = ones_[index_.at("embed")];
    const auto* head = static_cast<const float*>(tied_head_.get());
    for (size_t i = 0; i < embed.n(); ++i) embed.slope()[i] += head[i];
  }
  std::vector<double> squares(ones_.size());
  pool_.parallel_for(static_cast<int64_t>(ones_.size()), [&](int64_t i, int) {
    const One& one = ones_[static_cast<size_t>(i)];
    squares[static_cast<size_t>(i)] = squared_norm({one.slope(), one.n()});
  });
  double sum = 0;
  for (const double square : squares) sum += square;
  return std::sqrt(sum);
}

int64_t TrainedWeights::step(const AdamW& adam, double lr, float factor) {
  std::atomic<int64_t> left{0};
  pool_.parallel_for(static_cast<int64_t>(ones_.size()), [&](int64_t i, int) {
    One& one = ones_[static_cast<size_t>(i)];
    const std::span<const float> slopes(one.slope(), one.n());
    if (one.of.id.expert >= 0 && all_zero(slopes)) {
      ++left;
      return;
    }
    ++one.steps;
    adamw_step({one.weight(), one.n()}, one.m, one.v, slopes, adam, one.steps, lr, decays(one.of) ? adam.decay : 0,
               factor);
  });
  return left;
}

int64_t TrainedWeights::n_values() const {
  int64_t n = 0;
  for (const One& one : ones_) n += static_cast<int64_t>(one.n());
  return n;
}

std::vector<std::string> TrainedWeights::names() const {
  std::vector<std::string> names;
  for (const One& one : ones_) names.push_back(weight_name(one.of.id));
  return names;
}

void TrainedWeights::save(const std::filesystem::path& file, const More& more) const {
  std::vector<safetensors::TensorHeader> headers;
  for (const One& one : ones_)
    for (const char* part : {".weight", ".m", ".v"})
      headers.push_back({weight_name(one.of.id) + part, "F32", {one.of.rows, one.of.cols}});
  headers.push_back({"steps", "I64", {static_cast<int64_t>(ones_.size())}});
  headers.push_back({more.name, "F64", {static_cast<int64_t>(more.values.size())}});
  safetensors::Writer writer(file, headers, more.metadata);
  std::vector<int64_t> steps;
  for (const One& one : ones_) {
    for (const float* part : {static_cast<const float*>(one.weight()), one.m.data(), one.v.data()})
      writer.write(part, one.n() * sizeof(float));
    steps.push_back(one.steps);
  }
  writer.write(steps.data(), steps.size() * sizeof(int64_t));
  writer.write(more.values.data(), more.values.size() * sizeof(double));
  writer.finish();
}

void TrainedWeights::load(const safetensors::File& file) {
  const auto read = [&](const std::string& name, const std::string& dtype, std::vector<int64_t> shape, void* to) {
    const safetensors::TensorInfo& info = file.at(name);
    if (info.dtype != dtype || info.shape != shape)
      throw Error(file.name() + ": " + name, "expected " + dtype + " of shape " + safetensors::shape_text(shape) +
                                                 ", found " + info.dtype + " of " +
                                                 safetensors::shape_text(info.shape));
    std::memcpy(to, file.data(info), info.bytes);
  };
  std::vector<int64_t> steps(ones_.size());
  read("steps", "I64", {static_cast<int64_t>(ones_.size())}, steps.data());
  for (size_t i = 0; i < ones_.size(); ++i) {
    One& one = ones_[i];
    const std::string name = weight_name(one.of.id);
    read(name + ".weight", "F32", {one.of.rows, one.of.cols}, one.weight());
    read(name + ".m", "F32", {one.of.rows, one.of.cols}, one.m.data());
    read(name + ".v", "F32", {one.of.rows, one.of.cols}, one.v.data());
    one.steps = steps[i];
  }
}

ChangedModel TrainedWeights::changed(const std::function<DType(const TensorId&)>& stored_dtype) const {
  ChangedModel changed = keep_experts(session_.model, session_.weights, {});
  for (ExpertChange& change : changed.changes)
    for (const One& one : ones_)
      if (one.of.id.layer == change.layer && one.of.id.expert >= 0)
        change.replaced[static_cast<size_t>(one.of.id.expert)] = 1;
  for_each_tensor(changed.model, changed.weights, [&](const TensorPlace& place) {
    const auto found = index_.find(weight_name(place.id));
    if (found == index_.end()) return;
    const One& one = ones_[found->second];
    if (place.id.expert < 0) changed.replaced.push_back(place.id);
    if (place.vector) {
      place.vector->data = one.weight();
    } else {
      *place.matrix = rounded(one.weight(), one.of.rows, one.of.cols, stored_dtype(place.id), changed.weights);
    }
  });
  return changed;
}

}  // namespace signalbox::train
