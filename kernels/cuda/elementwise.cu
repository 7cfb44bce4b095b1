// Ops that touch each element once: memory-bound, so 16-byte accesses where alignment allows and nothing else.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/rows.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// op(row, column, n) for each group of n (4, or fewer at the end of a row) columns.
template <class Op>
__global__ void rows_kernel(Op op, int64_t rows, int64_t cols) {
  const int64_t c = 4 * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (c >= cols) return;
  const int n = in_group(c, cols);
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t r = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; r < rows; r += step) op(r, c, n);
}

// Blocks of 256 threads: as many side by side as a row has groups, the others on further rows.
struct Cover {
  Cover(int64_t rows, int64_t n_across) {
    unsigned across = 8;
    while (across < 256 && across < n_across) across *= 2;
    block = dim3(across, 256 / across);
    const int64_t down = ceil_div(rows, block.y);
    grid =
        dim3(static_cast<unsigned>(ceil_div(n_across, across)), static_cast<unsigned>(std::min<int64_t>(down, 65535)));
  }
  dim3 grid, block;
};

template <class Op>
void launch_rows(const char* name, Op op, int64_t rows, int64_t cols, Stream stream) {
  const Cover cover(rows, ceil_div(cols, 4));
  launch(name, rows_kernel<Op>, cover.grid, cover.block, 0, stream, op, rows, cols);
}

struct Embed {
  float* out;
  int64_t out_stride;
  const bf16* table;
  int64_t table_stride;
  const int32_t* ids;
  bool wide;
  __device__ void operator()(int64_t r, int64_t c, int n) const {
    store_four(out + r * out_stride + c, load_four(table + ids[r] * table_stride + c, n, wide), n, wide);
  }
};

struct Add {
  float* out;
  int64_t out_stride;
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  bool wide;
  __device__ void operator()(int64_t r, int64_t c, int n) const {
    Four x = load_four(a + r * a_stride + c, n, wide);
    const Four y = load_four(b + r * b_stride + c, n, wide);
#pragma unroll
    for (int i = 0; i < 4; ++i) x.v[i] += y.v[i];
    store_four(out + r * out_stride + c, x, n, wide);
  }
};

struct Clamp {
  float* x;
  int64_t stride;
  float limit;
  bool wide;
  __device__ void operator()(int64_t r, int64_t c, int n) const {
    float* p = x + r * stride + c;
    Four v = load_four(p, n, wide);
#pragma unroll
    for (int i = 0; i < 4; ++i) v.v[i] = clamped(v.v[i], limit);
    store_four(p, v, n, wide);
  }
};

// By factor[r], or by sigmoid(gate[r]).
struct Scale {
  float* x;
  int64_t stride;
  const float* factor;
  const float* gate;
  int64_t gate_stride;
  bool wide;
  __device__ void operator()(int64_t r, int64_t c, int n) const {
    const float by =
        factor ? factor[r] : static_cast<float>(1 / (1 + exp(-static_cast<double>(gate[r * gate_stride]))));
    float* p = x + r * stride + c;
    Four v = load_four(p, n, wide);
#pragma unroll
    for (int i = 0; i < 4; ++i) v.v[i] *= by;
    store_four(p, v, n, wide);
  }
};

template <class T>
struct StoreRows {
  bf16* cache;
  int64_t cache_stride;
  const T* x;
  int64_t x_stride;
  const int32_t* kv_rows;
  bool wide;
  __device__ void operator()(int64_t r, int64_t c, int n) const {
    store_four(cache + kv_rows[r] * cache_stride + c, load_four(x + r * x_stride + c, n, wide), n, wide);
  }
};

// Copies bits: T is an unsigned integer of the element's size.
template <class T>
struct GatherRows {
  struct alignas(4 * sizeof(T)) Group {
    T v[4];
  };
  T* out;
  int64_t out_stride;
  const T* x;
  int64_t x_stride;
  const int32_t* rows;
  bool wide;
  __device__ void operator()(int64_t r, int64_t c, int n) const {
    T* to = out + r * out_stride + c;
    const T* from = x + rows[r] * x_stride + c;
    if (wide && n == 4) {
      *reinterpret_cast<Group*>(to) = *reinterpret_cast<const Group*>(from);
    } else {
      for (int i = 0; i < n; ++i) to[i] = from[i];
    }
  }
};

// One thread a pair: pair i of head h is `across` = h * n_pairs + i.
__global__ void rope_kernel(float* x, int64_t stride, const float* cos, const float* sin, const int32_t* positions,
                            int64_t rows, int n_heads, int d_head, int first, int n_pairs, bool adjacent) {
  const int64_t across = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (across >= int64_t{n_heads} * n_pairs) return;
  const int h = static_cast<int>(across / n_pairs), i = static_cast<int>(across % n_pairs);
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t r = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; r < rows; r += step) {
    float* head = x + r * stride + int64_t{h} * d_head + first;
    float& a = head[adjacent ? 2 * i : i];
    float& b = head[adjacent ? 2 * i + 1 : n_pairs + i];
    const int64_t at = int64_t{positions[r]} * n_pairs + i;
    rotate(a, b, cos[at], sin[at]);
  }
}

// The edits of one call, grouped by the row that they change; those of group g are value_rows[starts[g]] and on, in
// listed order. columns null: all; else column columns[j] is taken repeats[j] times, as often as it is listed.
struct EditLists {
  const int32_t* rows;    // [n_groups]
  const int32_t* starts;  // [n_groups + 1]
  const int32_t* value_rows;
  const int32_t* columns;  // [n_columns]
  const int32_t* repeats;
  const float* values;  // [.., value_stride]
};

// One thread a column and group: it walks the group's edits in order.
template <class T>
__global__ void edit_kernel(T* x, int64_t stride, EditLists edits, int64_t value_stride, int64_t n_groups,
                            int64_t n_columns, bool add, float scale) {
  const int64_t j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= n_columns) return;
  const int64_t c = edits.columns ? edits.columns[j] : j;
  const int repeats = add && edits.columns ? edits.repeats[j] : 1;
  for (int64_t g = blockIdx.y; g < n_groups; g += gridDim.y) {
    T& element = x[edits.rows[g] * stride + c];
    float sum = to_float(element);
    for (int32_t i = edits.starts[g]; i < edits.starts[g + 1]; ++i) {
      const float value = edits.values[edits.value_rows[i] * value_stride + c];
      if (!add) sum = value;
      if (add) {
        for (int k = 0; k < repeats; ++k) sum = fmaf(scale, value, sum);
      }
    }
    element = from_float<T>(sum);
  }
}

// Arrays one after the other, each at a multiple of 16 bytes.
class Packer {
 public:
  template <class T>
  size_t put(const T* values, size_t n) {
    const size_t at = round_up(static_cast<int64_t>(bytes_.size()), 16);
    bytes_.resize(at + n * sizeof(T));
    if (n != 0) std::memcpy(&bytes_[at], values, n * sizeof(T));
    return at;
  }
  size_t put(const std::vector<int32_t>& values) { return put(values.data(), values.size()); }
  const std::vector<unsigned char>& bytes() const { return bytes_; }

 private:
  std::vector<unsigned char> bytes_;
};

}  // namespace

void CudaBackend::embed(Tensor out, const Matrix& table, const int32_t* ids) {
  const bf16* rows = static_cast<const bf16*>(table.data);
  const bool wide = wide_rows(out) && wide_rows(rows, table.row_stride);
  launch_rows("embed", Embed{out.data, out.stride, rows, table.row_stride, ids, wide}, out.rows, out.cols, stream_);
}

void CudaBackend::rope(Tensor x, int64_t n_heads, int64_t first, const RopeTable& table, const int32_t* positions) {
  if (n_heads == 0) return;
  const int64_t n_pairs = table.n_dims / 2;
  const Cover cover(x.rows, n_heads * n_pairs);
  launch("rope", rope_kernel, cover.grid, cover.block, 0, stream_, x.data, x.stride, table.cos, table.sin, positions,
         x.rows, n_heads, x.cols / n_heads, first, n_pairs, table.adjacent);
}

void CudaBackend::clamp(Tensor x, float limit) {
  launch_rows("clamp", Clamp{x.data, x.stride, limit, wide_rows(x)}, x.rows, x.cols, stream_);
}

void CudaBackend::add(Tensor out, Tensor a, Tensor b) {
  const bool wide = wide_rows(out) && wide_rows(a) && wide_rows(b);
  launch_rows("add", Add{out.data, out.stride, a.data, a.stride, b.data, b.stride, wide}, out.rows, out.cols, stream_);
}

void CudaBackend::scale_rows(Tensor x, const float* factor) {
  launch_rows("scale_rows", Scale{x.data, x.stride, factor, nullptr, 0, wide_rows(x)}, x.rows, x.cols, stream_);
}

void CudaBackend::sigmoid_scale(Tensor x, Tensor gate) {
  launch_rows("sigmoid_scale", Scale{x.data, x.stride, nullptr, gate.data, gate.stride, wide_rows(x)}, x.rows, x.cols,
              stream_);
}

void CudaBackend::store_rows(void* cache, int64_t stride, Tensor x, const int32_t* kv_rows) {
  bf16* to = static_cast<bf16*>(cache);
  const bool wide = wide_rows(x) && wide_rows(to, stride);
  if (x.dtype == DType::f32) {
    const StoreRows<float> op = {to, stride, x.data, x.stride, kv_rows, wide};
    launch_rows("store_rows", op, x.rows, x.cols, stream_);
  } else {
    const StoreRows<bf16> op = {to, stride, x.as<bf16>(), x.stride, kv_rows, wide};
    launch_rows("store_rows", op, x.rows, x.cols, stream_);
  }
}

void CudaBackend::gather_rows(Tensor out, Tensor x, const int32_t* rows) {
  const bool wide = wide_rows(out) && wide_rows(x);
  if (x.dtype == DType::f32) {
    const GatherRows<uint32_t> op = {out.as<uint32_t>(), out.stride, x.as<uint32_t>(), x.stride, rows, wide};
    launch_rows("gather_rows", op, out.rows, out.cols, stream_);
  } else {
    const GatherRows<uint16_t> op = {out.as<uint16_t>(), out.stride, x.as<uint16_t>(), x.stride, rows, wide};
    launch_rows("gather_rows", op, out.rows, out.cols, stream_);
  }
}

void CudaBackend::edit_rows(Tensor x, std::span<const int32_t> rows, Tensor values, std::span<const int32_t> value_rows,
                            std::span<const int32_t> columns, bool add, float scale) {
  const size_t n = rows.size();
  if (n == 0 || x.cols == 0) return;

  // Entries by row; those of one row keep their order.
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rows[a] < rows[b]; });

  // Only the rows of values that are used travel.
  std::vector<int32_t> used(value_rows.begin(), value_rows.begin() + static_cast<std::ptrdiff_t>(n));
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());

  std::vector<int32_t> groups, starts, entries;
  for (const size_t i : order) {
    if (groups.empty() || groups.back() != rows[i]) {
      groups.push_back(rows[i]);
      starts.push_back(static_cast<int32_t>(entries.size()));
    }
    entries.push_back(static_cast<int32_t>(std::lower_bound(used.begin(), used.end(), value_rows[i]) - used.begin()));
  }
  starts.push_back(static_cast<int32_t>(n));

  std::vector<int32_t> distinct(columns.begin(), columns.end()), repeats;
  std::sort(distinct.begin(), distinct.end());
  for (size_t i = 0; i < distinct.size(); ++i) {
    if (i > 0 && distinct[i] == distinct[i - 1]) {
      ++repeats.back();
    } else {
      repeats.push_back(1);
    }
  }
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());

  Packer packer;
  const size_t at_groups = packer.put(groups), at_starts = packer.put(starts), at_entries = packer.put(entries);
  const size_t at_columns = packer.put(distinct), at_repeats = packer.put(repeats);
  std::vector<float> sent;
  sent.reserve(used.size() * static_cast<size_t>(x.cols));
  for (const int32_t r : used) sent.insert(sent.end(), values.row(r), values.row(r) + x.cols);
  const size_t at_values = packer.put(sent.data(), sent.size());

  const char* base = static_cast<const char*>(stage(packer.bytes().data(), packer.bytes().size()));
  auto list = [&](size_t at) { return reinterpret_cast<const int32_t*>(base + at); };
  const EditLists edits = {list(at_groups),  list(at_starts),
                           list(at_entries), columns.empty() ? nullptr : list(at_columns),
                           list(at_repeats), reinterpret_cast<const float*>(base + at_values)};
  const int64_t n_groups = static_cast<int64_t>(groups.size());
  const int64_t n_columns = columns.empty() ? x.cols : static_cast<int64_t>(distinct.size());
  const dim3 grid(static_cast<unsigned>(ceil_div(n_columns, 128)),
                  static_cast<unsigned>(std::min<int64_t>(n_groups, 65535)));
  if (x.dtype == DType::f32) {
    launch("edit_rows", edit_kernel<float>, grid, 128, 0, stream_, x.data, x.stride, edits, x.cols, n_groups, n_columns,
           add, scale);
  } else {
    launch("edit_rows", edit_kernel<bf16>, grid, 128, 0, stream_, x.as<bf16>(), x.stride, edits, x.cols, n_groups,
           n_columns, add, scale);
  }
}

}  // namespace signalbox::kernels::DEVICE_SPACE
