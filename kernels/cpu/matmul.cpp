// Matrix products: the split of one or many of them into blocks of outputs.
#include "base/error.h"
#include "kernels/cpu/cpu_backend.h"

namespace signalbox::kernels::cpu {

namespace {

// Columns of a block whose weights are converted once: a chunk of them takes half a megabyte of f32, so that it stays
// in L2.
constexpr int64_t packed_columns = 64;

// Columns of a block whose weights stream through once: enough to make a task worth its hand-over, few enough to
// balance.
int64_t direct_columns(int64_t n, int64_t work_each, int n_threads, int64_t unit) {
  const int64_t enough = 65536 / std::max<int64_t>(work_each, 1), balanced = n / (8 * n_threads);
  return std::max<int64_t>({unit, enough / unit * unit, balanced / unit * unit});
}

// Rows of x that a task rounds at once.
constexpr int64_t pack_rows = 16;

// Rows of x in a block where columns alone make too few blocks, or where partial sums of all rows have to wait.
constexpr int64_t block_rows = 240;

void gemm_block(const Kernels& kernels, const Task& p, const Matrix& w, const float* bias, float* out,
                int64_t out_stride, const int32_t* out_rows, int64_t m_first, int64_t m_last, int64_t n_first,
                int64_t n_last, float* scratch) {
  GemmArgs args{};
  args.out = out;
  args.out_stride = out_stride;
  args.out_rows = out_rows;
  args.x = p.x_rows ? p.x : p.x + m_first * p.x_stride;
  args.x_stride = p.x_stride;
  args.x_rows = p.x_rows ? p.x_rows + m_first : nullptr;
  args.m = m_last - m_first;
  args.k = w.cols;
  args.w = weight_rows(w);
  args.n_first = p.first_row + n_first;
  args.n_last = p.first_row + n_last;
  args.bias = bias ? bias - p.first_row : nullptr;
  args.scratch = scratch;
  if (!p.packed) return kernels.gemm(args);
  args.packed = p.packed;
  args.packed_first = m_first;
  args.packed_m = p.m;
  kernels.packed_x->gemm(args);
}

}  // namespace

WeightRows weight_rows(const Matrix& w) {
  WeightRows rows{w.data, w.scales, w.row_stride, w.scale_stride, WeightType::f32};
  switch (w.dtype) {
    case DType::f32: rows.type = WeightType::f32; break;
    case DType::f16: rows.type = WeightType::f16; break;
    case DType::bf16: rows.type = WeightType::bf16; break;
    case DType::mxfp4: rows.type = WeightType::mxfp4; break;
    case DType::int8: rows.type = WeightType::int8; break;
    case DType::int4: rows.type = WeightType::int4; break;
    default: throw Error("weights", "expected a matrix of f32, f16, bf16, mxfp4, int8 or int4, found another dtype");
  }
  return rows;
}

ActivationArgs activation_args(const Activation& activation) {
  return {activation.kind == Activation::Kind::clamped, activation.alpha, activation.limit};
}

// Lays out the x of products that want it so, each once.
void CpuBackend::pack_x(std::vector<Task>& products) {
  if (!kernels_.packed_x) return;
  const auto takes = [&](const Task& p) {
    const WeightType w = weight_rows(*p.w).type;
    return p.m > 0 && p.n > 0 && kernels_.packed_x->takes(w, p.up ? weight_rows(*p.up).type : w, p.m);
  };
  const auto bytes_of = [&](const Task& p) { return (kernels_.packed_x->bytes(p.m, p.w->cols) + 63) / 64 * 64; };
  int64_t bytes = 0, work = 0, n_pieces = 0;
  for (const Task& p : products) {
    if (!takes(p)) continue;
    bytes += bytes_of(p);
    work += p.m * p.w->cols;
    n_pieces += (p.m + pack_rows - 1) / pack_rows;
  }
  if (bytes == 0) return;
  auto* at = reinterpret_cast<unsigned char*>(packed_x_.floats((bytes + 3) / 4));
  std::vector<std::pair<const Task*, int64_t>> pieces;
  pieces.reserve(static_cast<size_t>(n_pieces));
  for (Task& p : products) {
    p.packed = nullptr;
    if (!takes(p)) continue;
    p.packed = at;
    at += bytes_of(p);
    for (int64_t m = 0; m < p.m; m += pack_rows) pieces.emplace_back(&p, m);
  }
  const auto pack = [&](int64_t i, int) {
    const auto [p, m] = pieces[static_cast<size_t>(i)];
    const PackArgs args{p->x, p->x_stride, p->x_rows, p->m, m, std::min(p->m, m + pack_rows), p->w->cols};
    kernels_.packed_x->pack(p->packed, args);
  };
  if (work < 131072) {
    for (int64_t i = 0; i < n_pieces; ++i) pack(i, 0);
  } else {
    pool_.parallel_for(n_pieces, pack);
  }
}

void CpuBackend::run_products(std::vector<Task>& products) {
  pack_x(products);
  blocks_.clear();
  int64_t work = 0, scratch_floats = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const Task& p = products[i];
    if (p.m == 0 || p.n == 0) continue;
    const int64_t k = p.w->cols;
    const auto type = static_cast<size_t>(weight_rows(*p.w).type);
    const bool direct = p.packed ? kernels_.packed_x->in_place : p.m <= kernels_.in_place_rows[type];
    const auto scratch_of = [&](int64_t rows, int64_t columns, bool in_place) {
      return p.packed ? kernels_.packed_x->scratch(rows, columns, k) : gemm_scratch(rows, columns, k, in_place);
    };
    const int64_t columns =
        direct ? direct_columns(p.n, p.m * k, n_threads(), p.m > 4 ? blocked_n : 8) : packed_columns;
    const int64_t n_blocks = (p.n + columns - 1) / columns;
    const bool chunked = (k + 15) / 16 > gemm_chunk_steps;
    const bool few_blocks = n_blocks < 4 * n_threads() && products.size() == 1;
    const int64_t rows = !direct && (chunked || few_blocks) ? block_rows : p.m;
    for (int64_t m = 0; m < p.m; m += rows) {
      for (int64_t n = 0; n < p.n; n += columns) {
        blocks_.push_back({static_cast<int32_t>(i), m, std::min(p.m, m + rows), n, std::min(p.n, n + columns)});
      }
    }
    work += p.m * p.n * k;
    const int64_t up = p.up ? std::min(p.m, rows) * columns : 0;
    scratch_floats = std::max(scratch_floats, up + 16 + scratch_of(std::min(p.m, rows), columns, direct));
    // The last rows may be so few that they read the weights in place, and then all their sums wait.
    const int64_t last = p.m % rows;
    if (last > 0 && last <= kernels_.in_place_rows[type]) {
      scratch_floats = std::max(scratch_floats, up + 16 + scratch_of(last, columns, true));
    }
  }
  const auto run = [&](int64_t task, int thread) {
    const Block& b = blocks_[static_cast<size_t>(task)];
    const Task& p = products[static_cast<size_t>(b.product)];
    const int64_t m = b.m_last - b.m_first, n = b.n_last - b.n_first;
    float* scratch = scratch_[static_cast<size_t>(thread)].floats(scratch_floats);
    float* up = scratch;  // [m, n]
    if (p.up) scratch += (m * n + 15) / 16 * 16;
    float* out = p.out + b.n_first + (p.out_rows ? 0 : b.m_first * p.out_stride);
    const int32_t* out_rows = p.out_rows ? p.out_rows + b.m_first : nullptr;
    gemm_block(kernels_, p, *p.w, p.bias, out, p.out_stride, out_rows, b.m_first, b.m_last, b.n_first, b.n_last,
               scratch);
    if (!p.up) return;
    gemm_block(kernels_, p, *p.up, p.up_bias, up, n, nullptr, b.m_first, b.m_last, b.n_first, b.n_last, scratch);
    const ActivationArgs activation = activation_args(*p.activation);
    for (int64_t i = 0; i < m; ++i) {
      kernels_.activate(out + (out_rows ? out_rows[i] : i) * p.out_stride, up + i * n, n, activation);
    }
  };
  const int64_t n_tasks = static_cast<int64_t>(blocks_.size());
  if (work < 131072) {
    for (int64_t task = 0; task < n_tasks; ++task) run(task, 0);
  } else {
    pool_.parallel_for(n_tasks, run);
  }
}

void CpuBackend::matmul(Tensor out, Tensor x, const Matrix& w, Vector bias) {
  Task p;
  p.out = out.data;
  p.out_stride = out.stride;
  p.x = x.data;
  p.x_stride = x.stride;
  p.m = x.rows;
  p.w = &w;
  p.bias = bias.data;
  p.n = w.rows;
  products_.assign(1, p);
  run_products(products_);
}

void CpuBackend::gated_hidden(Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                              const Activation& activation) {
  Task p;
  p.out = hidden.data;
  p.out_stride = hidden.stride;
  p.x = x.data;
  p.x_stride = x.stride;
  p.m = x.rows;
  p.w = &gate;
  p.up = &up;
  p.activation = &activation;
  p.n = gate.rows;
  products_.assign(1, p);
  run_products(products_);
}

void CpuBackend::mla_expand(Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                            int64_t d_value) {
  products_.clear();
  for (int64_t h = 0; h < n_heads; ++h) {
    Task p;
    p.out = out.data + h * d_value;
    p.out_stride = out.stride;
    p.x = latent.data + h * kv_b.cols;
    p.x_stride = latent.stride;
    p.m = latent.rows;
    p.w = &kv_b;
    p.first_row = h * (d_nope + d_value) + d_nope;
    p.n = d_value;
    products_.push_back(p);
  }
  run_products(products_);
}

void CpuBackend::mla_absorb(Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                            int64_t d_value) {
  const int64_t d_latent = kv_b.cols, d_in = d_nope + d_rope, d_out = d_latent + d_rope, n_tokens = q.rows;
  if (n_tokens == 0) return;
  const WeightRows w = weight_rows(kv_b);
  const int64_t rows = 64, n_blocks = (n_tokens + rows - 1) / rows;
  const auto run = [&](int64_t task, int) {
    const int64_t h = task / n_blocks, t = task % n_blocks * rows;
    RowSumArgs args{};
    args.out = out.row(t) + h * d_out;
    args.out_stride = out.stride;
    args.x = q.row(t) + h * d_in;
    args.x_stride = q.stride;
    args.m = std::min(rows, n_tokens - t);
    args.n_rows = d_nope;
    args.cols = d_latent;
    args.w = w;
    args.first_row = h * (d_nope + d_value);
    kernels_.row_sum(args);
    for (int64_t i = t; i < t + args.m; ++i) {
      std::copy_n(q.row(i) + h * d_in + d_nope, d_rope, out.row(i) + h * d_out + d_latent);
    }
  };
  if (n_tokens * n_heads * d_nope * d_latent < 131072) {
    for (int64_t task = 0; task < n_heads * n_blocks; ++task) run(task, 0);
  } else {
    pool_.parallel_for(n_heads * n_blocks, run);
  }
}

}  // namespace signalbox::kernels::cpu
