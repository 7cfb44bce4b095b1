#include "loaders/synthetic/reserved.h"

#include <algorithm>

#include "base/error.h"

namespace signalbox::loaders::synthetic {

namespace {

bool writes_residual(Role role) {
  return role == Role::o || role == Role::dense_down || role == Role::expert_down || role == Role::shared_down;
}

bool writes_residual_bias(Role role) { return role == Role::o_bias || role == Role::expert_down_bias; }

bool reads_residual(Role role) {
  switch (role) {
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::q_a:
    case Role::kv_a:
    case Role::dense_gate:
    case Role::dense_up:
    case Role::expert_gate:
    case Role::expert_up:
    case Role::shared_gate:
    case Role::shared_up:
    case Role::shared_scale:
    case Role::router:
    case Role::lm_head: return true;
    default: return false;
  }
}

bool residual_norm(Role role) { return role == Role::attn_norm || role == Role::ffn_norm || role == Role::final_norm; }

}  // namespace

int64_t Reserved::take() {
  if (empty()) first_ = constant_;
  if (--first_ < model_.d_model / 2)
    throw Error("planted", "expected reserved dimensions for at most half of hidden_size " +
                               std::to_string(model_.d_model) + ", found more");
  return first_;
}

void Reserved::apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  if (empty()) return;
  const Role role = slot.id.role;
  const int64_t cols = slot.cols;
  const auto row = [&](int64_t r) { return values + (r - first) * cols; };
  if (role == Role::embed) {
    for (int64_t r = first; r < first + n; ++r) {
      std::fill(row(r) + first_, row(r) + cols, 0.0f);
      row(r)[constant_] = static_cast<float>(amplitude_ * constant_size_);
    }
    return;
  }
  if (residual_norm(role)) std::fill(values + first_, values + cols, 1.0f);
  if (writes_residual_bias(role)) std::fill(values + first_, values + cols, 0.0f);
  if (writes_residual(role))
    for (int64_t r = std::max(first, first_); r < first + n; ++r) std::fill_n(row(r), cols, 0.0f);
  if (reads_residual(role))
    for (int64_t r = first; r < first + n; ++r) std::fill(row(r) + first_, row(r) + cols, 0.0f);
}

}  // namespace signalbox::loaders::synthetic
