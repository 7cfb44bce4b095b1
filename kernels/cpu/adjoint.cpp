// Adjoints of products, norms, rotations and gated blocks. Products with the weights the other way round are sums over
// rows of them (Kernels::row_sum), each output in the order of those rows.
#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_backend.h"

namespace signalbox::kernels::cpu {

namespace {

// Rows of d_out that a task takes: they share what is read of the weights.
constexpr int64_t task_rows = 32;

// A block of columns of out = sum over rows of w: so many that a task is worth its hand-over.
int64_t column_block(int64_t n_rows, int64_t cols, int n_threads) {
  const int64_t enough = 65536 / std::max<int64_t>(n_rows, 1) / 32 * 32;
  const int64_t balanced = cols / (4 * n_threads) / 32 * 32;
  return std::max<int64_t>({64, enough, balanced});
}

// A weight matrix from column c on.
WeightRows from_column(WeightRows w, int64_t c) {
  const auto* bytes = static_cast<const uint8_t*>(w.data);
  switch (w.type) {
    case WeightType::f32: w.data = bytes + c * 4; break;
    // Blocks of 32: c is a multiple.
    case WeightType::mxfp4:
      w.data = bytes + c / 2;
      w.scales += c / 32;
      break;
    case WeightType::int8:
      w.data = bytes + c;
      w.scales += c / 32;
      break;
    case WeightType::int4:
      w.data = bytes + c / 2;
      w.scales += c / 32 * 2;
      break;
    default: w.data = bytes + c * 2;
  }
  return w;
}

void add_into(const Kernels& kernels, float* out, const float* x, int64_t n, bool add) {
  if (add) {
    kernels.add(out, out, x, n);
  } else if (out != x) {
    std::copy_n(x, n, out);
  }
}

}  // namespace

// out[i] (+)= sum over `rows` rows of w, from first_row on, of x[i, row] * w[row].   x [m, rows], out [m, w.cols]
void CpuBackend::sum_rows(const std::vector<RowSum>& sums) {
  struct Part {
    size_t sum;
    int64_t row, column, columns;
  };
  std::vector<Part> parts;
  int64_t work = 0, largest = 0;
  for (size_t s = 0; s < sums.size(); ++s) {
    const RowSum& sum = sums[s];
    const int64_t block = column_block(sum.n_rows, sum.w->cols, n_threads());
    for (int64_t i = 0; i < sum.m; i += task_rows) {
      for (int64_t c = 0; c < sum.w->cols; c += block) parts.push_back({s, i, c, std::min(block, sum.w->cols - c)});
    }
    work += sum.m * sum.n_rows * sum.w->cols;
    largest = std::max(largest, block);
  }
  const auto run = [&](int64_t i, int thread) {
    const Part& part = parts[static_cast<size_t>(i)];
    const RowSum& sum = sums[part.sum];
    const int64_t m = std::min(task_rows, sum.m - part.row);
    RowSumArgs args{};
    args.x = sum.x + part.row * sum.x_stride;
    args.x_stride = sum.x_stride;
    args.m = m;
    args.n_rows = sum.n_rows;
    args.cols = part.columns;
    args.w = from_column(weight_rows(*sum.w), part.column);
    args.first_row = sum.first_row;
    float* out = sum.out + part.row * sum.out_stride + part.column;
    if (!sum.add) {
      args.out = out;
      args.out_stride = sum.out_stride;
      kernels_.row_sum(args);
      return;
    }
    float* scratch = scratch_[static_cast<size_t>(thread)].floats(task_rows * largest);
    args.out = scratch;
    args.out_stride = part.columns;
    kernels_.row_sum(args);
    for (int64_t r = 0; r < m; ++r)
      kernels_.add(out + r * sum.out_stride, out + r * sum.out_stride, scratch + r * part.columns, part.columns);
  };
  const int64_t n = static_cast<int64_t>(parts.size());
  if (work < 131072) {
    for (int64_t i = 0; i < n; ++i) run(i, 0);
  } else {
    pool_.parallel_for(n, run);
  }
}

void CpuBackend::matmul_adjoint(Tensor d_x, Tensor d_out, const Matrix& w, bool add) {
  sum_rows({{d_x.data, d_x.stride, d_out.data, d_out.stride, d_out.rows, &w, 0, w.rows, add}});
}

void CpuBackend::rmsnorm_adjoint(Tensor d_x, Tensor d_out, Tensor x, Vector weight, float eps, bool add) {
  for_ranges(x.rows, 4 * x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float* in = x.row(r);
      const float* g = d_out.row(r);
      float* to = d_x.row(r);
      double squares = 0, dot = 0;
      for (int64_t i = 0; i < x.cols; ++i) {
        const double v = in[i];
        squares += v * v;
        dot += v * static_cast<double>(weight.data[i]) * static_cast<double>(g[i]);
      }
      const double n = static_cast<double>(x.cols), square = squares / n + static_cast<double>(eps);
      const double inverse = 1 / std::sqrt(square), along = dot * inverse / (n * square);
      for (int64_t i = 0; i < x.cols; ++i) {
        const double scaled = static_cast<double>(weight.data[i]) * static_cast<double>(g[i]) * inverse;
        const float found = static_cast<float>(scaled - static_cast<double>(in[i]) * along);
        to[i] = add ? to[i] + found : found;
      }
    }
  });
}

void CpuBackend::rope_adjoint(Tensor d_x, int64_t n_heads, int64_t first_dim, const RopeTable& table,
                              const int32_t* positions) {
  if (n_heads == 0) return;
  const int64_t d_head = d_x.cols / n_heads, half = table.n_dims / 2;
  const int64_t second = table.adjacent ? 1 : half, step = table.adjacent ? 2 : 1;
  for_ranges(d_x.rows, d_x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t t = first; t < last; ++t) {
      const float* cos = table.cos + positions[t] * half;
      const float* sin = table.sin + positions[t] * half;
      for (int64_t h = 0; h < n_heads; ++h) {
        float* v = d_x.row(t) + h * d_head + first_dim;
        for (int64_t i = 0; i < half; ++i) {
          const float a = v[i * step], b = v[i * step + second];
          v[i * step] = a * cos[i] + b * sin[i];
          v[i * step + second] = b * cos[i] - a * sin[i];
        }
      }
    }
  });
}

void CpuBackend::clamp_adjoint(Tensor d_x, Tensor x, float limit) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t i = 0; i < x.cols; ++i) {
      if (!(std::fabs(x.row(r)[i]) <= limit)) d_x.row(r)[i] = 0;
    }
  }
}

void CpuBackend::sigmoid_scale_adjoint(Tensor d_x, Tensor d_gate, Tensor x, Tensor gate) {
  for_ranges(x.rows, 2 * x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const double sigmoid = 1 / (1 + std::exp(-static_cast<double>(*gate.row(r))));
      double dot = 0;
      for (int64_t i = 0; i < x.cols; ++i) dot += static_cast<double>(d_x.row(r)[i]) * static_cast<double>(x.row(r)[i]);
      *d_gate.row(r) = static_cast<float>(dot * sigmoid * (1 - sigmoid));
      kernels_.scale(d_x.row(r), d_x.row(r), static_cast<float>(sigmoid), x.cols);
    }
  });
}

void CpuBackend::mla_absorb_adjoint(Tensor d_q, Tensor d_out, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                                    int64_t d_rope, int64_t d_value) {
  const int64_t d_latent = kv_b.cols, d_in = d_nope + d_rope, d_cached = d_latent + d_rope;
  products_.clear();
  for (int64_t h = 0; h < n_heads; ++h) {
    Task p;
    p.out = d_q.data + h * d_in;
    p.out_stride = d_q.stride;
    p.x = d_out.data + h * d_cached;
    p.x_stride = d_out.stride;
    p.m = d_out.rows;
    p.w = &kv_b;
    p.first_row = h * (d_nope + d_value);
    p.n = d_nope;
    products_.push_back(p);
  }
  run_products(products_);
  for (int64_t t = 0; t < d_out.rows; ++t) {
    for (int64_t h = 0; h < n_heads; ++h)
      std::copy_n(d_out.row(t) + h * d_cached + d_latent, d_rope, d_q.row(t) + h * d_in + d_nope);
  }
}

void CpuBackend::mla_expand_adjoint(Tensor d_latent, Tensor d_out, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                                    int64_t d_value) {
  std::vector<RowSum> sums;
  for (int64_t h = 0; h < n_heads; ++h) {
    sums.push_back({d_latent.data + h * kv_b.cols, d_latent.stride, d_out.data + h * d_value, d_out.stride, d_out.rows,
                    &kv_b, h * (d_nope + d_value) + d_nope, d_value, false});
  }
  sum_rows(sums);
}

namespace {

// From d_hidden and what the two products gave, those of the two products, in place: d_hidden becomes d_gate.
void activate_adjoint(const Kernels& kernels, float* d_gate, float* d_up, float* gate, const float* up, float* sigmoid,
                      int64_t n, const Activation& activation) {
  const bool clamped = activation.kind == Activation::Kind::clamped;
  const float alpha = clamped ? activation.alpha : 1.f, limit = activation.limit;
  for (int64_t i = 0; i < n; ++i) sigmoid[i] = -alpha * (clamped ? std::min(gate[i], limit) : gate[i]);
  kernels.exp(sigmoid, sigmoid, n);
  for (int64_t i = 0; i < n; ++i) {
    const float s = 1.f / (1.f + sigmoid[i]), d = d_gate[i];
    if (clamped) {
      const float g = std::min(gate[i], limit), u = std::max(-limit, std::min(limit, up[i]));
      d_up[i] = std::fabs(up[i]) <= limit ? g * s * d : 0.f;
      d_gate[i] = gate[i] <= limit ? d * (u + 1.f) * s * (1.f + alpha * g * (1.f - s)) : 0.f;
    } else {
      d_up[i] = gate[i] * s * d;
      d_gate[i] = d * up[i] * s * (1.f + gate[i] * (1.f - s));
    }
  }
}

}  // namespace

void CpuBackend::gated_slopes(Tensor d_gate, Tensor d_up, Tensor d_hidden, Tensor x, const Matrix& gate,
                              const Matrix& up, const Activation& activation) {
  const int64_t n = x.rows, d_ff = gate.rows;
  std::vector<float> memory(static_cast<size_t>(2 * n * d_ff));
  Tensor g(memory.data(), n, d_ff), u(memory.data() + n * d_ff, n, d_ff);
  matmul(g, x, gate, {});
  matmul(u, x, up, {});
  for_ranges(n, 8 * d_ff, [&](int64_t first, int64_t last, int) {
    std::vector<float> sigmoid(static_cast<size_t>(d_ff));
    for (int64_t t = first; t < last; ++t) {
      std::copy_n(d_hidden.row(t), d_ff, d_gate.row(t));
      activate_adjoint(kernels_, d_gate.row(t), d_up.row(t), g.row(t), u.row(t), sigmoid.data(), d_ff, activation);
    }
  });
}

void CpuBackend::gated_hidden_adjoint(Tensor d_x, Tensor d_hidden, Tensor x, const Matrix& gate, const Matrix& up,
                                      const Activation& activation, bool add) {
  const int64_t n = x.rows, d_ff = gate.rows;
  std::vector<float> memory(static_cast<size_t>(2 * n * d_ff));
  Tensor d_g(memory.data(), n, d_ff), d_u(memory.data() + n * d_ff, n, d_ff);
  gated_slopes(d_g, d_u, d_hidden, x, gate, up, activation);
  matmul_adjoint(d_x, d_g, gate, add);
  matmul_adjoint(d_x, d_u, up, true);
}

void CpuBackend::combine_adjoint(Tensor d_expert_out, float* d_weights, Tensor d_out, Tensor expert_out,
                                 const Route& route) {
  const int64_t n_slots = route.n_slots;
  for_ranges(d_out.rows, 2 * n_slots * d_out.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first * n_slots; i < last * n_slots; ++i) {
      float* to = d_expert_out.row(i);
      d_weights[i] = 0;
      if (route.ids[i] < 0) {
        std::fill_n(to, d_out.cols, 0.f);
        continue;
      }
      const float* d = d_out.row(i / n_slots);
      const float* f = expert_out.row(i);
      double dot = 0;
      for (int64_t c = 0; c < d_out.cols; ++c) dot += static_cast<double>(d[c]) * static_cast<double>(f[c]);
      d_weights[i] = static_cast<float>(dot);
      kernels_.scale(to, d, route.weights[i], d_out.cols);
    }
  });
}

// Rows of the pairs of one expert lie together while its weights are at work.
void CpuBackend::experts_out_adjoint(Tensor d_hidden, Tensor d_out, const Route& route, int64_t n_tokens,
                                     const ExpertMatrices& experts) {
  const size_t n_experts = experts.down.size();
  group_by_expert(route, n_tokens, static_cast<int64_t>(n_experts));
  for (int64_t i = 0; i < n_tokens * route.n_slots; ++i) {
    if (route.ids[i] < 0) std::fill_n(d_hidden.row(i), d_hidden.cols, 0.f);
  }
  const int64_t n_pairs = expert_start_.back(), d_model = d_out.cols, d_ff = d_hidden.cols;
  std::vector<float> memory(static_cast<size_t>(n_pairs * (d_model + d_ff)));
  const Tensor from(memory.data(), n_pairs, d_model), to(memory.data() + n_pairs * d_model, n_pairs, d_ff);
  for (int64_t p = 0; p < n_pairs; ++p)
    std::copy_n(d_out.row(sorted_pairs_[static_cast<size_t>(p)]), d_model, from.row(p));
  std::vector<RowSum> sums;
  for (size_t e = 0; e < n_experts; ++e) {
    const int64_t start = expert_start_[e], count = expert_start_[e + 1] - start;
    if (count > 0)
      sums.push_back({to.row(start), d_ff, from.row(start), d_model, count, &experts.down[e], 0, d_model, false});
  }
  sum_rows(sums);
  for (int64_t p = 0; p < n_pairs; ++p)
    std::copy_n(to.row(p), d_ff, d_hidden.row(sorted_pairs_[static_cast<size_t>(p)]));
}

void CpuBackend::sorted_experts_slopes(Tensor d_g, Tensor d_u, Tensor d_hidden, Tensor x, const ExpertMatrices& experts,
                                       const Activation& activation) {
  const int64_t n_pairs = expert_start_.back(), d_ff = d_hidden.cols;
  const std::vector<int32_t> pairs = sorted_pairs_, tokens = sorted_tokens_;
  std::vector<float> memory(static_cast<size_t>(2 * n_pairs * d_ff));
  const Tensor g(memory.data(), n_pairs, d_ff), u(memory.data() + n_pairs * d_ff, n_pairs, d_ff);
  products_.clear();
  for (size_t e = 0; e < experts.gate.size(); ++e) {
    const int64_t start = expert_start_[e], count = expert_start_[e + 1] - start;
    if (count == 0) continue;
    for (const bool is_up : {false, true}) {
      const auto& biases = is_up ? experts.up_bias : experts.gate_bias;
      Task p;
      p.out = (is_up ? u : g).row(start);
      p.out_stride = d_ff;
      p.x = x.data;
      p.x_stride = x.stride;
      p.x_rows = tokens.data() + start;
      p.m = count;
      p.w = is_up ? &experts.up[e] : &experts.gate[e];
      p.bias = biases.empty() ? nullptr : biases[e].data;
      p.n = d_ff;
      products_.push_back(p);
    }
  }
  run_products(products_);
  for_ranges(n_pairs, 8 * d_ff, [&](int64_t first, int64_t last, int) {
    std::vector<float> sigmoid(static_cast<size_t>(d_ff));
    for (int64_t p = first; p < last; ++p) {
      std::copy_n(d_hidden.row(pairs[static_cast<size_t>(p)]), d_ff, d_g.row(p));
      activate_adjoint(kernels_, d_g.row(p), d_u.row(p), g.row(p), u.row(p), sigmoid.data(), d_ff, activation);
    }
  });
}

void CpuBackend::experts_slopes(Tensor d_gate, Tensor d_up, Tensor d_hidden, Tensor x, const Route& route,
                                int64_t n_tokens, const ExpertMatrices& experts, const Activation& activation) {
  group_by_expert(route, n_tokens, static_cast<int64_t>(experts.gate.size()));
  const int64_t n_pairs = expert_start_.back(), d_ff = d_hidden.cols;
  std::vector<float> memory(static_cast<size_t>(2 * n_pairs * d_ff));
  const Tensor d_g(memory.data(), n_pairs, d_ff), d_u(memory.data() + n_pairs * d_ff, n_pairs, d_ff);
  sorted_experts_slopes(d_g, d_u, d_hidden, x, experts, activation);
  for (int64_t i = 0; i < n_tokens * route.n_slots; ++i) {
    std::fill_n(d_gate.row(i), d_ff, 0.f);
    std::fill_n(d_up.row(i), d_ff, 0.f);
  }
  for (int64_t p = 0; p < n_pairs; ++p) {
    std::copy_n(d_g.row(p), d_ff, d_gate.row(sorted_pairs_[static_cast<size_t>(p)]));
    std::copy_n(d_u.row(p), d_ff, d_up.row(sorted_pairs_[static_cast<size_t>(p)]));
  }
}

void CpuBackend::experts_hidden_adjoint(Tensor d_x, Tensor d_hidden, Tensor x, const Route& route, int64_t n_tokens,
                                        const ExpertMatrices& experts, const Activation& activation, bool add) {
  const size_t n_experts = experts.gate.size();
  group_by_expert(route, n_tokens, static_cast<int64_t>(n_experts));
  const int64_t n_pairs = expert_start_.back(), d_model = x.cols, d_ff = d_hidden.cols;
  const std::vector<int32_t> pairs = sorted_pairs_;
  std::vector<float> memory(static_cast<size_t>(n_pairs * (2 * d_ff + d_model)));
  const Tensor d_g(memory.data(), n_pairs, d_ff), d_u(memory.data() + n_pairs * d_ff, n_pairs, d_ff),
      d_in(memory.data() + 2 * n_pairs * d_ff, n_pairs, d_model);
  sorted_experts_slopes(d_g, d_u, d_hidden, x, experts, activation);
  for (const bool is_up : {false, true}) {
    std::vector<RowSum> sums;
    for (size_t e = 0; e < n_experts; ++e) {
      const int64_t start = expert_start_[e], count = expert_start_[e + 1] - start;
      if (count == 0) continue;
      const Matrix& w = is_up ? experts.up[e] : experts.gate[e];
      sums.push_back({d_in.row(start), d_model, (is_up ? d_u : d_g).row(start), d_ff, count, &w, 0, d_ff, is_up});
    }
    sum_rows(sums);
  }
  std::vector<int64_t> row_of(static_cast<size_t>(n_tokens * route.n_slots), -1);
  for (int64_t p = 0; p < n_pairs; ++p) row_of[static_cast<size_t>(pairs[static_cast<size_t>(p)])] = p;
  for_ranges(n_tokens, (route.n_slots + 1) * d_model, [&](int64_t first, int64_t last, int) {
    std::vector<float> sum(static_cast<size_t>(d_model));
    for (int64_t t = first; t < last; ++t) {
      std::fill(sum.begin(), sum.end(), 0.f);
      for (int64_t i = t * route.n_slots; i < (t + 1) * route.n_slots; ++i) {
        const int64_t row = row_of[static_cast<size_t>(i)];
        if (row >= 0) kernels_.add(sum.data(), sum.data(), d_in.row(row), d_model);
      }
      add_into(kernels_, d_x.row(t), sum.data(), d_model, add);
    }
  });
}

namespace {

// log(sum(exp(z))) of a row, in double.
double log_mass(const float* z, int64_t n) {
  const double top = *std::max_element(z, z + n);
  double mass = 0;
  for (int64_t v = 0; v < n; ++v) mass += std::exp(static_cast<double>(z[v]) - top);
  return top + std::log(mass);
}

}  // namespace

void CpuBackend::log_probs_adjoint(Tensor d_logits, Tensor logits, const int32_t* targets, const float* factors,
                                   bool add) {
  for_ranges(logits.rows, 16 * logits.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float* z = logits.row(r);
      float* to = d_logits.row(r);
      if (!add) std::fill_n(to, logits.cols, 0.f);
      if (targets[r] < 0) continue;
      const double factor = factors[r], log_sum = log_mass(z, logits.cols);
      for (int64_t v = 0; v < logits.cols; ++v)
        to[v] -= static_cast<float>(factor * std::exp(static_cast<double>(z[v]) - log_sum));
      to[targets[r]] += factors[r];
    }
  });
}

void CpuBackend::compare_logits_adjoint(Tensor d_logits, Tensor logits, Tensor reference, const float* factors) {
  for_ranges(logits.rows, 32 * logits.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float* z = logits.row(r);
      const float* base = reference.row(r);
      const double own = log_mass(z, logits.cols), other = log_mass(base, logits.cols), factor = factors[r];
      for (int64_t v = 0; v < logits.cols; ++v)
        d_logits.row(r)[v] = static_cast<float>(
            factor * (std::exp(static_cast<double>(z[v]) - own) - std::exp(static_cast<double>(base[v]) - other)));
    }
  });
}

}  // namespace signalbox::kernels::cpu
