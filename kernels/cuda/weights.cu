// Weights from the host into the layouts of the kernels. Rows pass as they are stored through a piece of device memory
// (CudaBackend::stage) and are converted, filled up, interleaved or packed from there: the bus carries each stored byte
// once, and the host reads its memory once and in order.
#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/mxfp4.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr int threads = 256;
// Stored bytes that are staged at a time. The shim's stay small, so that tests reach several.
#if defined(SIGNALBOX_SHIM)
constexpr int64_t stage_bytes = 256;
#else
constexpr int64_t stage_bytes = int64_t{32} << 20;
#endif

// Where row r of a matrix goes: eight neighbours stay together, and the next eight begin `step` rows later.
struct RowMap {
  int64_t first = 0;  // row of the matrix that is row 0 here
  int64_t step = 8, at = 0;
  __device__ int64_t operator()(int64_t r) const { return (first + r) / 8 * step + (first + r) % 8 + at; }
};

// Staged rows.
struct Source {
  const uint8_t* data = nullptr;
  DType dtype = DType::f32;
  int64_t stride = 0;               // elements
  const uint8_t* scales = nullptr;  // of types in blocks
  int64_t scale_stride = 0;         // scales
  int64_t rows = 0, cols = 0;
};

__device__ inline float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);  // infinite, NaN
  // As a float it is 2^112 too small; the product is exact, for subnormals too.
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}

__device__ inline uint32_t nibble(const uint8_t* data, int64_t i) { return data[i / 2] >> i % 2 * 4 & 15; }

// 2^(scale - 127).
__device__ inline float exponent_scale(uint8_t scale) {
  return __uint_as_float(scale == 0 ? 0x00400000u : uint32_t{scale} << 23);
}

__device__ inline float mxfp4_to_float(uint32_t value, uint8_t scale) {
  const uint32_t exponent = value >> 1 & 3, fraction = value & 1;
  const float magnitude =
      exponent == 0 ? 0.5f * static_cast<float>(fraction) : static_cast<float>((2 + fraction) << exponent) * 0.25f;
  return (value & 8 ? -magnitude : magnitude) * exponent_scale(scale);
}

__device__ inline float element(const Source& from, int64_t r, int64_t c) {
  const int64_t i = r * from.stride + c;
  switch (from.dtype) {
    case DType::f32: return reinterpret_cast<const float*>(from.data)[i];
    case DType::f16: return half_to_float(reinterpret_cast<const uint16_t*>(from.data)[i]);
    case DType::bf16: return to_float(reinterpret_cast<const bf16*>(from.data)[i]);
    case DType::int8:
      return static_cast<float>(static_cast<int8_t>(from.data[i])) *
             exponent_scale(from.scales[r * from.scale_stride + c / 32]);
    case DType::int4: {
      const int code = static_cast<int>(nibble(from.data, i));
      const uint8_t* scale = from.scales + 2 * (r * from.scale_stride + c / 32);
      return static_cast<float>(code < 8 ? code : code - 16) *
             __uint_as_float((uint32_t{scale[0]} | uint32_t{scale[1]} << 8) << 16);
    }
    default: return mxfp4_to_float(nibble(from.data, i), from.scales[r * from.scale_stride + c / 32]);
  }
}

// to[map(r)] = from[r], rounded, with zeros up to to_stride. One thread eight elements; to_stride a multiple of eight
// (f32: of four). fast: rows of bf16 that can be read sixteen bytes at a time.
template <class T>
__global__ void convert_kernel(T* to, int64_t to_stride, RowMap map, Source from, bool fast) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, n = ceil_div(to_stride, 8);
  const int64_t r = i / n, c = i % n * 8;
  if (r >= from.rows) return;
  T* out = to + map(r) * to_stride + c;
  if constexpr (sizeof(T) == 2) {
    uint4 words = make_uint4(0, 0, 0, 0);
    if (fast && c + 8 <= from.cols) {
      words = load_streaming(from.data + (r * from.stride + c) * 2);
    } else {
      float x[8];
      for (int j = 0; j < 8; ++j) x[j] = c + j < from.cols ? element(from, r, c + j) : 0.f;
      words = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    }
    *reinterpret_cast<uint4*>(out) = words;
  } else {
    for (int j = 0; j < 8 && c + j < to_stride; ++j) out[j] = c + j < from.cols ? element(from, r, c + j) : 0.f;
  }
}

// The same for words of mxfp4: one thread per block of 32.
__global__ void repack_kernel(uint32_t* to, int64_t to_stride, RowMap map, Source from, bool fast) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, n = to_stride / 32;
  const int64_t r = i / n, c = i % n * 32;
  if (r >= from.rows) return;
  uint32_t words[4] = {0, 0, 0, 0};
  if (fast && c + 32 <= from.cols) {
    const uint4 loaded = load_streaming(from.data + (r * from.stride + c) / 2);
    words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
  } else {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      for (int j = 0; j < 8 && c + w * 8 + j < from.cols; ++j)
        words[w] |= nibble(from.data, r * from.stride + c + w * 8 + j) << j * 4;
    }
  }
  *reinterpret_cast<uint4*>(to + (map(r) * to_stride + c) / 8) =
      make_uint4(pack_mxfp4(words[0]), pack_mxfp4(words[1]), pack_mxfp4(words[2]), pack_mxfp4(words[3]));
}

// to[map(r)] = from[r]: n scales a row.
__global__ void scales_kernel(uint8_t* to, RowMap map, const uint8_t* from, int64_t from_stride, int64_t rows,
                              int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < rows * n) to[map(i / n) * n + i % n] = from[i / n * from_stride + i % n];
}

dim3 grid_for(int64_t n_threads) { return dim3(static_cast<unsigned>(ceil_div(n_threads, threads))); }

void convert(Stream stream, bf16* to, int64_t to_stride, RowMap map, const Source& from) {
  const bool fast =
      from.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(from.data) % 16 == 0 && from.stride % 8 == 0;
  launch("convert_weights", convert_kernel<bf16>, grid_for(from.rows * ceil_div(to_stride, 8)), threads, 0, stream, to,
         to_stride, map, from, fast);
}
void convert(Stream stream, float* to, int64_t to_stride, RowMap map, const Source& from) {
  launch("convert_weights", convert_kernel<float>, grid_for(from.rows * ceil_div(to_stride, 8)), threads, 0, stream, to,
         to_stride, map, from, false);
}
void repack(Stream stream, uint32_t* to, int64_t to_stride, RowMap map, const Source& from) {
  const bool fast = reinterpret_cast<uintptr_t>(from.data) % 16 == 0 && from.stride % 32 == 0;
  launch("repack_weights", repack_kernel, grid_for(from.rows * (to_stride / 32)), threads, 0, stream, to, to_stride,
         map, from, fast);
}

bool is_stored(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || in_blocks(dtype);
}
bool halves(DType dtype) { return dtype == DType::mxfp4 || dtype == DType::int4; }  // two a byte
// Of the elements from the first of a row on.
int64_t bytes_of(DType dtype, int64_t elements) {
  return element_bytes(dtype, halves(dtype) ? elements + elements % 2 : elements);
}
const uint8_t* row_of(const Matrix& m, int64_t r) {
  return static_cast<const uint8_t*>(m.data) +
         (halves(m.dtype) ? r * m.row_stride / 2 : bytes_of(m.dtype, r * m.row_stride));
}
void check(const Matrix& m) {
  if (!is_stored(m.dtype))
    throw Error("weights",
                "expected a matrix of f32, f16, bf16, mxfp4, int8 or int4, found " + std::string(dtype_name(m.dtype)));
  if (halves(m.dtype) && m.row_stride % 2 != 0)
    throw Error("weights",
                "expected rows of " + std::string(dtype_name(m.dtype)) + " to begin with a byte, found an odd stride");
}

// Device memory with host's bytes, until the next call.
using Stage = std::function<const uint8_t*(const void* host, int64_t bytes)>;

// Calls use(first, source) for pieces of m, staged; rows are `span` elements long, of which m's are the first m.cols.
// scales: those of the rows are staged behind them.
template <class F>
void stage_rows(const Stage& stage, const Matrix& m, int64_t span, bool scales, F use) {
  const int64_t n_scales = scales ? ceil_div(m.cols, 32) : 0, scale_size = scale_bytes(m.dtype);
  const int64_t row_scales = n_scales * scale_size;  // bytes
  const int64_t row_bytes = std::max<int64_t>(1, bytes_of(m.dtype, m.row_stride) + row_scales);
  const int64_t step = std::max<int64_t>(1, stage_bytes / row_bytes);
  std::vector<uint8_t> joined;
  for (int64_t first = 0; first < m.rows; first += step) {
    const int64_t n = std::min(step, m.rows - first);
    const int64_t bytes = bytes_of(m.dtype, (n - 1) * m.row_stride + span);
    Source source;
    if (scales) {
      joined.resize(static_cast<size_t>(bytes + n * row_scales));
      std::memcpy(joined.data(), row_of(m, first), static_cast<size_t>(bytes));
      for (int64_t r = 0; r < n; ++r)
        std::memcpy(joined.data() + bytes + r * row_scales, m.scales + (first + r) * m.scale_stride * scale_size,
                    static_cast<size_t>(row_scales));
      source.data = stage(joined.data(), static_cast<int64_t>(joined.size()));
      source.scales = source.data + bytes;
      source.scale_stride = n_scales;
    } else {
      source.data = stage(row_of(m, first), bytes);
    }
    source.dtype = m.dtype;
    source.stride = m.row_stride;
    source.rows = n;
    source.cols = m.cols;
    use(first, source);
  }
}

bool has_kernel_layout(const Matrix& m, DType dtype, int64_t stride) {
  return m.dtype == dtype && m.row_stride == stride && m.cols == stride;
}

// Rows of up lie between those of gate.
bool is_interleaved(const Matrix& gate, const Matrix& up) {
  return gate.dtype == up.dtype && gate.row_stride == 2 * gate.cols && up.row_stride == gate.row_stride &&
         (!halves(gate.dtype) || gate.cols % 2 == 0) &&
         row_of(up, 0) == row_of(gate, 0) + bytes_of(gate.dtype, gate.cols);
}

// The part of a staged piece that begins `cols` later.
Source behind(Source source, int64_t cols) {
  source.data += bytes_of(source.dtype, cols);
  return source;
}

void pack_scales(Stream stream, const Stage& stage, uint8_t* to, RowMap map, const Matrix& m, int64_t n) {
  const int64_t step = std::max<int64_t>(1, stage_bytes / std::max<int64_t>(1, m.scale_stride));
  for (int64_t first = 0; first < m.rows; first += step) {
    const int64_t rows = std::min(step, m.rows - first);
    const uint8_t* staged = stage(m.scales + first * m.scale_stride, (rows - 1) * m.scale_stride + n);
    map.first = first;
    launch("pack_scales", scales_kernel, grid_for(rows * n), threads, 0, stream, to, map, staged, m.scale_stride, rows,
           n);
  }
}

// How a matrix that is no expert's lies on the device.
DType matrix_dtype(bool router) { return router ? DType::f32 : DType::bf16; }
int64_t matrix_stride(const Matrix& host, bool router) { return round_up(host.cols, router ? 4 : 8); }

// How the experts of a layer lie on the device: mxfp4 where all of them are stored so, else bf16. Sizes are those of
// one expert.
struct ExpertLayout {
  bool packed = true;
  int64_t d_ff = 0, d_model = 0;
  int64_t gate_up_rows = 0, gate_up_stride = 0, down_stride = 0;  // down has d_model rows

  explicit ExpertLayout(const ExpertMatrices& host) : d_ff(host.gate[0].rows), d_model(host.gate[0].cols) {
    for (const auto& list : {host.gate, host.up, host.down})
      for (const Matrix& m : list) packed = packed && m.dtype == DType::mxfp4;
    gate_up_rows = 2 * round_up(d_ff, 8);
    gate_up_stride = round_up(d_model, packed ? 32 : 8);
    down_stride = round_up(d_ff, packed ? 32 : 8);
  }
  int64_t gate_up_bytes() const { return bytes_of(dtype(), gate_up_rows * gate_up_stride); }
  int64_t down_bytes() const { return bytes_of(dtype(), d_model * down_stride); }
  int64_t gate_up_scales() const { return packed ? gate_up_rows * gate_up_stride / 32 : 0; }  // a byte each
  int64_t down_scales() const { return packed ? d_model * down_stride / 32 : 0; }

 private:
  DType dtype() const { return packed ? DType::mxfp4 : DType::bf16; }
};

}  // namespace

int64_t CudaBackend::matrix_bytes(const Matrix& host, bool router) const {
  return bytes_of(matrix_dtype(router), host.rows * matrix_stride(host, router));
}

int64_t CudaBackend::experts_bytes(const ExpertMatrices& host) const {
  if (host.n_experts() == 0) return 0;
  const ExpertLayout layout(host);
  int64_t biases = 0;
  if (!host.gate_bias.empty()) biases += layout.d_ff;
  if (!host.up_bias.empty()) biases += layout.d_ff;
  if (!host.down_bias.empty()) biases += layout.d_model;
  return host.n_experts() * (layout.gate_up_bytes() + layout.down_bytes() + layout.gate_up_scales() +
                             layout.down_scales() + biases * static_cast<int64_t>(sizeof(float)));
}

Backend::Uploaded CudaBackend::upload_matrix(const Matrix& host, bool router) {
  check(host);
  const DType dtype = matrix_dtype(router);
  const int64_t stride = matrix_stride(host, router);
  const auto memory = allocate(static_cast<size_t>(matrix_bytes(host, router)));
  Uploaded uploaded;
  uploaded.matrix.data = memory.get();
  uploaded.matrix.dtype = dtype;
  uploaded.matrix.rows = host.rows;
  uploaded.matrix.cols = host.cols;
  uploaded.matrix.row_stride = stride;
  uploaded.owner = memory;
  if (has_kernel_layout(host, dtype, stride)) {
    upload(memory.get(), host.data, static_cast<size_t>(bytes_of(dtype, host.rows * stride)));
    return uploaded;
  }
  const Stage stage = [this](const void* from, int64_t bytes) {
    return static_cast<const uint8_t*>(this->stage(from, static_cast<size_t>(bytes)));
  };
  stage_rows(stage, host, host.cols, in_blocks(host.dtype), [&](int64_t first, const Source& rows) {
    RowMap map;
    map.first = first;
    if (router) {
      convert(stream_, static_cast<float*>(memory.get()), stride, map, rows);
    } else {
      convert(stream_, static_cast<bf16*>(memory.get()), stride, map, rows);
    }
  });
  return uploaded;
}

std::shared_ptr<const PackedExperts> CudaBackend::pack_experts(const ExpertMatrices& host) {
  auto block = std::make_shared<ExpertBlock>();
  block->n_experts = host.n_experts();
  if (block->n_experts == 0) return block;
  const ExpertLayout layout(host);
  const bool packed = layout.packed;
  block->d_ff = layout.d_ff;
  block->d_model = layout.d_model;
  for (const auto& list : {host.gate, host.up, host.down}) {
    for (const Matrix& m : list) {
      check(m);
      const bool down = list.data() == host.down.data();
      if (m.rows != (down ? block->d_model : block->d_ff) || m.cols != (down ? block->d_ff : block->d_model))
        throw Error("experts", "expected matrices of one shape, found others");
    }
  }
  block->format = packed ? ExpertBlock::Format::mxfp4 : ExpertBlock::Format::bf16;
  block->gate_up_rows = layout.gate_up_rows;
  block->gate_up_stride = layout.gate_up_stride;
  block->down_stride = layout.down_stride;

  const auto take = [&](int64_t bytes) {
    block->owners.push_back(allocate(static_cast<size_t>(bytes)));
    return block->owners.back().get();
  };
  const int64_t gate_up_bytes = layout.gate_up_bytes(), down_bytes = layout.down_bytes();
  uint8_t* gate_up = static_cast<uint8_t*>(take(block->n_experts * gate_up_bytes));
  uint8_t* down = static_cast<uint8_t*>(take(block->n_experts * down_bytes));
  uint8_t *gate_up_scales = nullptr, *down_scales = nullptr;
  if (packed) {
    gate_up_scales = static_cast<uint8_t*>(take(block->n_experts * layout.gate_up_scales()));
    down_scales = static_cast<uint8_t*>(take(block->n_experts * layout.down_scales()));
  }
  if (block->d_ff % 8 != 0) {  // the rows behind the last
    fill(gate_up, 0, static_cast<size_t>(block->n_experts * gate_up_bytes));
    if (packed) fill(gate_up_scales, 0, static_cast<size_t>(block->n_experts * layout.gate_up_scales()));
  }

  const Stage stage = [this](const void* from, int64_t bytes) {
    return static_cast<const uint8_t*>(this->stage(from, static_cast<size_t>(bytes)));
  };
  const auto put = [&](uint8_t* to, int64_t stride, RowMap map, const Source& rows) {
    if (packed) {
      repack(stream_, reinterpret_cast<uint32_t*>(to), stride, map, rows);
    } else {
      convert(stream_, reinterpret_cast<bf16*>(to), stride, map, rows);
    }
  };
  // Rows in blocks that become bf16 need their scales beside them; mxfp4 that stays has them packed alone.
  const auto put_matrix = [&](uint8_t* to, int64_t stride, RowMap map, const Matrix& m) {
    stage_rows(stage, m, m.cols, !packed && in_blocks(m.dtype), [&](int64_t first, const Source& rows) {
      RowMap here = map;
      here.first = first;
      put(to, stride, here, rows);
    });
  };
  RowMap gate_map, up_map;
  gate_map.step = up_map.step = 16;
  up_map.at = 8;
  for (int64_t e = 0; e < block->n_experts; ++e) {
    const Matrix& gate = host.gate[static_cast<size_t>(e)];
    const Matrix& up = host.up[static_cast<size_t>(e)];
    const Matrix& m = host.down[static_cast<size_t>(e)];
    uint8_t* to = gate_up + e * gate_up_bytes;
    if (is_interleaved(gate, up) && (packed || !in_blocks(gate.dtype))) {
      stage_rows(stage, gate, 2 * gate.cols, false, [&](int64_t first, const Source& rows) {
        RowMap map = gate_map;
        map.first = first;
        put(to, block->gate_up_stride, map, rows);
        map.at = up_map.at;
        put(to, block->gate_up_stride, map, behind(rows, gate.cols));
      });
    } else {
      put_matrix(to, block->gate_up_stride, gate_map, gate);
      put_matrix(to, block->gate_up_stride, up_map, up);
    }
    if (has_kernel_layout(m, DType::bf16, block->down_stride)) {
      upload(down + e * down_bytes, m.data, static_cast<size_t>(down_bytes));
    } else {
      put_matrix(down + e * down_bytes, block->down_stride, {}, m);
    }
    if (packed) {
      const int64_t n = block->gate_up_stride / 32;
      uint8_t* scales = gate_up_scales + e * layout.gate_up_scales();
      pack_scales(stream_, stage, scales, gate_map, gate, n);
      pack_scales(stream_, stage, scales, up_map, up, n);
      pack_scales(stream_, stage, down_scales + e * layout.down_scales(), {}, m, block->down_stride / 32);
    }
  }

  const auto join = [&](std::span<const Vector> biases, int64_t n) -> const float* {
    if (biases.empty()) return nullptr;
    std::vector<float> all;
    all.reserve(static_cast<size_t>(block->n_experts * n));
    for (const Vector& bias : biases) all.insert(all.end(), bias.data, bias.data + n);
    float* to = static_cast<float*>(take(block->n_experts * n * static_cast<int64_t>(sizeof(float))));
    upload(to, all.data(), all.size() * sizeof(float));
    return to;
  };
  block->gate_up = gate_up;
  block->down = down;
  block->gate_up_scales = gate_up_scales;
  block->down_scales = down_scales;
  block->gate_bias = join(host.gate_bias, block->d_ff);
  block->up_bias = join(host.up_bias, block->d_ff);
  block->down_bias = join(host.down_bias, block->d_model);
  return block;
}

}  // namespace signalbox::kernels::DEVICE_SPACE
