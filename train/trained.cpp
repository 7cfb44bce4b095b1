#include "train/trained.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "kernels/weight_adjoint.h"

namespace signalbox::train {

namespace {

bool all_zero(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return x == 0; });
}

}  // namespace

Trained::Trained(Backend& backend, int threads) : backend_(backend), pool_(std::max(1, threads)) {
  weight_adjoints(backend);
  if (!backend.shares_host_memory())
    throw Error("--device", "expected cpu (nothing trains elsewhere yet), found " + std::string(backend.name()));
}

std::shared_ptr<void> Trained::zeros(size_t n) const {
  std::shared_ptr<void> memory = backend_.allocate(n * sizeof(float));
  std::memset(memory.get(), 0, n * sizeof(float));
  return memory;
}

Parameter& Trained::add(std::string name, int64_t rows, int64_t cols, bool decays, int64_t group) {
  Parameter one;
  one.name = std::move(name);
  one.rows = rows;
  one.cols = cols;
  one.decays = decays;
  one.group = group;
  one.m.resize(one.n());
  one.v.resize(one.n());
  one.weights = zeros(one.n());
  one.slopes = zeros(one.n());
  parameters_.push_back(std::move(one));
  return parameters_.back();
}

void Trained::zero_sums() {
  for (const Parameter& one : parameters_) std::memset(one.slopes.get(), 0, one.n() * sizeof(float));
}

double Trained::gradient_norm() {
  finish_sums();
  std::vector<double> squares(parameters_.size());
  pool_.parallel_for(static_cast<int64_t>(parameters_.size()), [&](int64_t i, int) {
    const Parameter& one = parameters_[static_cast<size_t>(i)];
    squares[static_cast<size_t>(i)] = squared_norm({one.slope(), one.n()});
  });
  double sum = 0;
  for (const double square : squares) sum += square;
  return std::sqrt(sum);
}

int64_t Trained::step(const AdamW& adam, double lr, float factor) {
  std::vector<std::pair<size_t, size_t>> runs;  // neighbours of one group
  for (size_t first = 0, end; first < parameters_.size(); first = end) {
    const int64_t group = parameters_[first].group;
    for (end = first + 1; end < parameters_.size() && group >= 0 && parameters_[end].group == group;) ++end;
    runs.emplace_back(first, end);
  }
  std::atomic<int64_t> left{0};
  pool_.parallel_for(static_cast<int64_t>(runs.size()), [&](int64_t i, int) {
    const auto [first, end] = runs[static_cast<size_t>(i)];
    const std::span<Parameter> group(parameters_.data() + first, end - first);
    if (group.front().group >= 0 && std::all_of(group.begin(), group.end(), [](const Parameter& one) {
          return all_zero({one.slope(), one.n()});
        })) {
      left += static_cast<int64_t>(group.size());
      return;
    }
    for (Parameter& one : group)
      adamw_step({one.weight(), one.n()}, one.m, one.v, {one.slope(), one.n()}, adam, ++one.steps, lr,
                 one.decays ? adam.decay : 0, factor);
  });
  on_change();
  return left;
}

int64_t Trained::n_values() const {
  int64_t n = 0;
  for (const Parameter& one : parameters_) n += static_cast<int64_t>(one.n());
  return n;
}

std::vector<std::string> Trained::names() const {
  std::vector<std::string> names;
  for (const Parameter& one : parameters_) names.push_back(one.name);
  return names;
}

void Trained::save(const std::filesystem::path& file, const More& more) const {
  std::vector<safetensors::TensorHeader> headers;
  for (const Parameter& one : parameters_)
    for (const char* part : {".weight", ".m", ".v"}) headers.push_back({one.name + part, "F32", {one.rows, one.cols}});
  headers.push_back({"steps", "I64", {static_cast<int64_t>(parameters_.size())}});
  for (const auto& [name, list] : more.lists) headers.push_back({name, "F64", {static_cast<int64_t>(list.size())}});
  safetensors::Writer writer(file, headers, more.metadata);
  std::vector<int64_t> steps;
  for (const Parameter& one : parameters_) {
    for (const float* part : {static_cast<const float*>(one.weight()), one.m.data(), one.v.data()})
      writer.write(part, one.n() * sizeof(float));
    steps.push_back(one.steps);
  }
  writer.write(steps.data(), steps.size() * sizeof(int64_t));
  for (const auto& [name, list] : more.lists) writer.write(list.data(), list.size() * sizeof(double));
  writer.finish();
}

void Trained::load(const safetensors::File& file) {
  const auto read = [&](const std::string& name, const std::string& dtype, std::vector<int64_t> shape, void* to) {
    const safetensors::TensorInfo& info = file.at(name);
    if (info.dtype != dtype || info.shape != shape)
      throw Error(file.name() + ": " + name, "expected " + dtype + " of shape " + safetensors::shape_text(shape) +
                                                 ", found " + info.dtype + " of " +
                                                 safetensors::shape_text(info.shape));
    std::memcpy(to, file.data(info), info.bytes);
  };
  std::vector<int64_t> steps(parameters_.size());
  read("steps", "I64", {static_cast<int64_t>(parameters_.size())}, steps.data());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& one = parameters_[i];
    read(one.name + ".weight", "F32", {one.rows, one.cols}, one.weight());
    read(one.name + ".m", "F32", {one.rows, one.cols}, one.m.data());
    read(one.name + ".v", "F32", {one.rows, one.cols}, one.v.data());
    one.steps = steps[i];
  }
  on_change();
}

}  // namespace signalbox::train
