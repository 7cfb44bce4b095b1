#include "eval/compress/expert_outputs.h"

namespace signalbox::eval {

std::vector<float>& ExpertOutputs::of(const float* x, int64_t n, std::span<const int32_t> experts) {
  const int64_t d = model_.d_model, d_ff = weights_.gate.front().rows;
  const auto rows = n * static_cast<int64_t>(experts.size());
  hidden_.resize(static_cast<size_t>(rows * d_ff));
  out_.resize(static_cast<size_t>(rows * d));
  ids_.clear();
  for (int64_t t = 0; t < n; ++t) ids_.insert(ids_.end(), experts.begin(), experts.end());
  Route route;
  route.n_slots = static_cast<int32_t>(experts.size());
  route.ids = ids_.data();
  const Tensor in(const_cast<float*>(x), n, d), inner(hidden_.data(), rows, d_ff), outer(out_.data(), rows, d);
  backend_.experts_hidden(inner, in, route, n, weights_.experts(), model_.activation, nullptr);
  backend_.experts_out(outer, inner, route, n, weights_.experts());
  return out_;
}

}  // namespace signalbox::eval
