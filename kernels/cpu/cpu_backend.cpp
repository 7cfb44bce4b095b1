#include "kernels/cpu/cpu_backend.h"

#include <cmath>
#include <cstring>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/error.h"
#include "kernels/cpu/isa.h"

namespace signalbox::kernels {

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  int n_threads = options.n_threads;
  if (n_threads < 0)
    throw Error("--threads", "expected 0 (all) or a number of threads, found " + std::to_string(n_threads));
  if (n_threads == 0) n_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::make_unique<cpu::CpuBackend>(cpu::choose_kernels(options.isa, options.fast), n_threads);
}

namespace cpu {

CpuBackend::CpuBackend(const Kernels& kernels, int n_threads)
    : kernels_(kernels), pool_(n_threads), scratch_(static_cast<size_t>(n_threads)) {}

std::shared_ptr<void> CpuBackend::allocate(size_t bytes) {
  // Large blocks ask for huge pages: the rows of a long cache lie on as many pages as there are positions.
  constexpr size_t huge = size_t{2} << 20;
  const size_t alignment = bytes >= 4 * huge ? huge : 64;
  if (bytes > SIZE_MAX - alignment) throw std::bad_alloc();
  const size_t size = std::max<size_t>(alignment, (bytes + alignment - 1) / alignment * alignment);
  void* memory = std::aligned_alloc(alignment, size);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == huge) madvise(memory, size, MADV_HUGEPAGE);  // a wish: refusal changes nothing
#endif
  return std::shared_ptr<void>(memory, [](void* p) { std::free(p); });
}

void CpuBackend::upload(void* device, const void* host, size_t bytes) {
  if (bytes != 0) std::memcpy(device, host, bytes);
}

void CpuBackend::download(void* host, const void* device, size_t bytes) {
  if (bytes != 0) std::memcpy(host, device, bytes);
}

void CpuBackend::copy(void* to, const void* from, size_t bytes) { upload(to, from, bytes); }

void CpuBackend::fill(void* device, uint8_t byte, size_t bytes) {
  if (bytes != 0) std::memset(device, byte, bytes);
}

void CpuBackend::embed(Tensor out, const Matrix& table, const int32_t* ids) {
  const WeightRows w = weight_rows(table);
  for_ranges(out.rows, out.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t t = first; t < last; ++t) kernels_.convert(out.row(t), w, ids[t], out.cols);
  });
}

void CpuBackend::rmsnorm(Tensor out, Tensor x, Vector weight, float eps) {
  for_ranges(x.rows, x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) kernels_.rmsnorm(out.row(r), x.row(r), weight.data, x.cols, eps);
  });
}

void CpuBackend::rope(Tensor x, int64_t n_heads, int64_t first_dim, const RopeTable& table, const int32_t* positions) {
  if (n_heads == 0) return;
  const int64_t d_head = x.cols / n_heads, half = table.n_dims / 2;
  const int64_t second = table.adjacent ? 1 : half, step = table.adjacent ? 2 : 1;
  for_ranges(x.rows, x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t t = first; t < last; ++t) {
      const float* cos = table.cos + positions[t] * half;
      const float* sin = table.sin + positions[t] * half;
      for (int64_t h = 0; h < n_heads; ++h) {
        float* v = x.row(t) + h * d_head + first_dim;
        for (int64_t i = 0; i < half; ++i) {
          const float a = v[i * step], b = v[i * step + second];
          v[i * step] = a * cos[i] - b * sin[i];
          v[i * step + second] = b * cos[i] + a * sin[i];
        }
      }
    }
  });
}

void CpuBackend::clamp(Tensor x, float limit) {
  for_ranges(x.rows, x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) kernels_.clamp(x.row(r), limit, x.cols);
  });
}

void CpuBackend::add(Tensor out, Tensor a, Tensor b) {
  for_ranges(out.rows, out.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) kernels_.add(out.row(r), a.row(r), b.row(r), out.cols);
  });
}

void CpuBackend::scale_rows(Tensor x, const float* factor) {
  for_ranges(x.rows, x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) kernels_.scale(x.row(r), x.row(r), factor[r], x.cols);
  });
}

void CpuBackend::sigmoid_scale(Tensor x, Tensor gate) {
  for_ranges(x.rows, x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float sigmoid = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(*gate.row(r)))));
      kernels_.scale(x.row(r), x.row(r), sigmoid, x.cols);
    }
  });
}

void CpuBackend::store_rows(void* cache, int64_t stride, Tensor x, const int32_t* kv_rows) {
  for_ranges(x.rows, x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t t = first; t < last; ++t)
      std::copy_n(x.row(t), x.cols, static_cast<float*>(cache) + kv_rows[t] * stride);
  });
}

void CpuBackend::gather_rows(Tensor out, Tensor x, const int32_t* rows) {
  for_ranges(out.rows, x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) std::copy_n(x.row(rows[i]), x.cols, out.row(i));
  });
}

// In listed order on one thread: a row may be listed more than once.
void CpuBackend::edit_rows(Tensor x, std::span<const int32_t> rows, Tensor values, std::span<const int32_t> value_rows,
                           std::span<const int32_t> columns, bool add, float scale) {
  for (size_t i = 0; i < rows.size(); ++i) {
    float* to = x.row(rows[i]);
    const float* from = values.row(value_rows[i]);
    if (columns.empty()) {
      if (add) {
        kernels_.accumulate(to, from, scale, x.cols);
      } else {
        std::copy_n(from, x.cols, to);
      }
    } else {
      for (const int32_t c : columns) to[c] = add ? std::fma(scale, from[c], to[c]) : from[c];
    }
  }
}

}  // namespace cpu
}  // namespace signalbox::kernels
