#include <cstring>

#include "kernels/cuda/kit/instructions.h"
#include "kernels/cuda/kit/operands.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// d [16, 8] = a [16, 16] b [16, 8] + c, row-major all, one warp a tile.
__global__ void mma_kernel(float* d, const uint16_t* a, const uint16_t* b, const float* c) {
  const int lane = static_cast<int>(threadIdx.x), tile = static_cast<int>(blockIdx.x);
  const int g = lane / 4, k = lane % 4 * 2;
  a += tile * 256, b += tile * 128, c += tile * 128, d += tile * 128;
  const auto pair = [](uint16_t low, uint16_t high) { return uint32_t{low} | uint32_t{high} << 16; };
  uint32_t left[4], right[2];
  for (int r = 0; r < 4; ++r) {
    const uint16_t* at = a + (g + r % 2 * 8) * 16 + k + r / 2 * 8;
    left[r] = pair(at[0], at[1]);
  }
  for (int r = 0; r < 2; ++r) right[r] = pair(b[(k + r * 8) * 8 + g], b[(k + r * 8 + 1) * 8 + g]);
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = c[(g + i / 2 * 8) * 8 + k + i % 2];
  mma(sums, left, right);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + k + i % 2] = sums[i];
}

// from [32 rows of 8 values]; lane i points at row i * 5 % 32. out [32 lanes, 4].
__global__ void matrices_kernel(uint32_t* out, const uint32_t* from, int transposed) {
  SharedMemory memory;
  uint32_t* rows = memory.take<uint32_t>(32 * 4);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 4; ++i) rows[lane * 4 + i] = from[lane * 4 + i];
  __syncthreads();
  uint32_t r[4];
  if (transposed)
    load_matrices_transposed(r, rows + lane * 5 % 32 * 4);
  else
    load_matrices(r, rows + lane * 5 % 32 * 4);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = r[i];
}

// Lane i copies i bytes (0 to 16) of 16; the target held 0xaa. out [32 lanes, 4]: lanes 17 to 31 copy all.
__global__ void copy_kernel(uint32_t* out, const uint32_t* from) {
  SharedMemory memory;
  uint32_t* to = memory.take<uint32_t>(32 * 4);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 4; ++i) to[lane * 4 + i] = 0xaaaaaaaau;
  __syncthreads();
  copy_async(to + lane * 4, from + lane * 4, lane < 16 ? lane : 16);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = to[lane * 4 + i];
}

enum class Function : uint8_t { to_bf16, pack_bf16, exp2, exp, exp_rounded, rsqrt, sqrt, divide, silu };

// out[i] = f(x[i]), bits; pack_bf16 and divide take x[i + 1], of the last one x[0], too.
__global__ void function_kernel(uint32_t* out, const float* x, int n, Function f) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const float v = x[i], next = x[i + 1 < n ? i + 1 : 0];
  switch (f) {
    case Function::to_bf16: out[i] = to_bf16(v).bits; return;
    case Function::pack_bf16: out[i] = pack_bf16(v, next); return;
    case Function::exp2: out[i] = __float_as_uint(exp2f(v)); return;
    case Function::exp: out[i] = __float_as_uint(expf(v)); return;
    case Function::exp_rounded: out[i] = __float_as_uint(static_cast<float>(exp(static_cast<double>(v)))); return;
    case Function::rsqrt: out[i] = __float_as_uint(rsqrtf(v)); return;
    case Function::sqrt: out[i] = __float_as_uint(sqrtf(v)); return;
    case Function::divide: out[i] = __float_as_uint(v / next); return;
    case Function::silu: out[i] = __float_as_uint(v / (1.f + expf(-v))); return;
  }
}

// out [n, 2]: high and low half of exp(x[i]) in double.
__global__ void exp_double_kernel(uint32_t* out, const double* x, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const auto bits = static_cast<uint64_t>(__double_as_longlong(exp(x[i])));
  out[2 * i] = static_cast<uint32_t>(bits >> 32);
  out[2 * i + 1] = static_cast<uint32_t>(bits);
}

constexpr int warp_words = 10;

// out [32 lanes, warp_words] of one word a lane.
__global__ void warp_kernel(uint32_t* out, const uint32_t* x) {
  const int lane = static_cast<int>(threadIdx.x);
  const uint32_t mine = x[lane];
  uint32_t* to = out + lane * warp_words;
  to[0] = __shfl_xor_sync(all_lanes, mine, 5);
  to[1] = __shfl_up_sync(all_lanes, mine, 3);
  to[2] = __shfl_down_sync(all_lanes, mine, 7);
  to[3] = __shfl_sync(all_lanes, mine, lane * 11 + 2);
  to[4] = __ballot_sync(all_lanes, static_cast<int>(mine & 1));
  to[5] = __match_any_sync(all_lanes, mine % 4);
  to[6] = __reduce_add_sync(all_lanes, mine);
  to[7] = __reduce_min_sync(all_lanes, mine);
  to[8] = __reduce_max_sync(all_lanes, mine);
  to[9] = __byte_perm(mine, mine * 3, mine & 0x7777u);
}

// Device memory that goes with the scope.
class Memory {
 public:
  explicit Memory(size_t bytes) : at_(allocate_device(bytes)) {}
  template <class T>
  explicit Memory(const std::vector<T>& values) : Memory(values.size() * sizeof(T)) {
    const Stream stream = make_stream();
    copy_async(at_, values.data(), values.size() * sizeof(T), stream);
    synchronize(stream);
    destroy_stream(stream);
  }
  ~Memory() { free_device(at_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(at_);
  }

 private:
  void* at_;
};

class Kit {
 public:
  explicit Kit(const std::function<void(const InstructionResult&)>& report) : report_(report), stream_(make_stream()) {}
  ~Kit() { destroy_stream(stream_); }
  Kit(const Kit&) = delete;
  Kit& operator=(const Kit&) = delete;

  void products() {
    struct Case {
      const char* name;
      Values a, b, c;
    };
    const Case cases[] = {
        {"integers", Values::integers, Values::integers, Values::integers},
        {"ordinary", Values::ordinary, Values::ordinary, Values::ordinary},
        {"wide", Values::wide, Values::wide, Values::wide},
        {"cancelling", Values::cancelling, Values::ordinary, Values::ordinary},
        {"cancelling onto zero", Values::cancelling, Values::ordinary, Values::zeros},
        {"zeros onto wide", Values::zeros, Values::ordinary, Values::wide},
        {"zeros onto subnormal", Values::ordinary, Values::zeros, Values::subnormal},
        {"subnormal", Values::subnormal, Values::ordinary, Values::subnormal},
        {"special", Values::special, Values::special, Values::special},
    };
    uint64_t seed = 100;
    for (const Case& of : cases) {
      const int64_t n = 4;
      std::vector<uint16_t> a = bf16_operand(of.a, seed, n * 16, 16), b = bf16_operand(of.b, seed + 1, n * 16, 8);
      if (of.a == Values::cancelling) {  // k and k + 8 cancel: A the other sign, B the same
        for (int64_t i = 0; i < n * 256; ++i)
          if (i % 16 >= 8) a[static_cast<size_t>(i)] = a[static_cast<size_t>(i - 8)] ^ 0x8000u;
        for (int64_t i = 0; i < n * 128; ++i)
          if (i / 8 % 16 >= 8) b[static_cast<size_t>(i)] = b[static_cast<size_t>(i - 64)];
      }
      const Memory left(a), right(b), onto(f32_operand(of.c, seed + 2, n * 128));
      run({"mma.m16n8k16.bf16", of.name, seed, n, {}}, n * 128, [&](uint32_t* out) {
        launch("kit_mma", mma_kernel, dim3(static_cast<unsigned>(n)), dim3(32), 0, stream_,
               reinterpret_cast<float*>(out), left.as<uint16_t>(), right.as<uint16_t>(), onto.as<float>());
      });
      seed += 10;
    }
  }

  void copies() {
    const Memory from(word_operand(300, 128));
    for (const bool transposed : {false, true})
      run({transposed ? "ldmatrix.x4.trans" : "ldmatrix.x4", "words", 300, 1, {}}, 128, [&](uint32_t* out) {
        launch("kit_matrices", matrices_kernel, dim3(1), dim3(32), shared_bytes_of<uint32_t>(128), stream_, out,
               from.as<uint32_t>(), transposed);
      });
    run({"cp.async.cg.16", "words", 300, 1, {}}, 128, [&](uint32_t* out) {
      launch("kit_copy", copy_kernel, dim3(1), dim3(32), shared_bytes_of<uint32_t>(128), stream_, out,
             from.as<uint32_t>());
    });
    const Memory words(word_operand(310, 32));
    run({"warp", "words", 310, 1, {}}, 32 * warp_words, [&](uint32_t* out) {
      launch("kit_warp", warp_kernel, dim3(1), dim3(32), 0, stream_, out, words.as<uint32_t>());
    });
  }

  void functions() {
    const int n = 1024;
    // Any bits; then values on a grid of the interval where the function neither vanishes nor overflows, and its ends.
    const auto of = [&](const char* name, Function f, const char* operands, uint64_t seed,
                        const std::vector<uint32_t>& x) {
      const Memory in(x);
      run({name, operands, seed, n, {}}, n, [&](uint32_t* out) {
        launch("kit_function", function_kernel, dim3(n / 128), dim3(128), 0, stream_, out, in.as<float>(), n, f);
      });
    };
    const std::vector<uint32_t> any = word_operand(400, n), special = f32_operand(Values::special, 401, n);
    for (const auto& [name, f] :
         {std::pair("cvt.rn.bf16", Function::to_bf16), std::pair("cvt.rn.bf16x2", Function::pack_bf16)}) {
      of(name, f, "any bits", 400, any);
      of(name, f, "special", 401, special);
    }
    of("exp2f", Function::exp2, "-152 to 129", 410, between(410, n, -152, 129));
    of("exp2f", Function::exp2, "-16 to 0", 411, between(411, n, -16, 0));
    of("expf", Function::exp, "-105 to 90", 412, between(412, n, -105, 90));
    of("expf", Function::exp, "-8 to 8", 413, between(413, n, -8, 8));
    of("exp of double, rounded", Function::exp_rounded, "-105 to 90", 412, between(412, n, -105, 90));
    of("exp of double, rounded", Function::exp_rounded, "-8 to 8", 413, between(413, n, -8, 8));
    of("silu", Function::silu, "-105 to 90", 412, between(412, n, -105, 90));
    of("silu", Function::silu, "-8 to 8", 413, between(413, n, -8, 8));
    for (const auto& [name, f] : {std::pair("rsqrtf", Function::rsqrt), std::pair("sqrtf", Function::sqrt),
                                  std::pair("divide", Function::divide)}) {
      of(name, f, "any bits", 400, any);
      of(name, f, "special", 401, special);
    }
    for (const auto& [operands, seed, low, high] :
         {std::tuple("-746 to 711", 420, -746, 711), std::tuple("-8 to 0", 421, -8, 0)}) {
      const auto in_seed = static_cast<uint64_t>(seed);
      std::vector<double> x;
      for (int i = 0; i < n; ++i) x.push_back(at(draw(in_seed, static_cast<uint64_t>(i)), low, high));
      const Memory in(x);
      run({"exp of double", operands, in_seed, n, {}}, 2 * n, [&](uint32_t* out) {
        launch("kit_exp_double", exp_double_kernel, dim3(n / 128), dim3(128), 0, stream_, out, in.as<double>(), n);
      });
    }
  }

 private:
  // low + (high - low) u, with u in [0, 1) of 53 bits.
  static double at(uint64_t word, int low, int high) {
    return low + (high - low) * (static_cast<double>(word >> 11) * 0x1p-53);
  }
  static std::vector<uint32_t> between(uint64_t seed, int n, int low, int high) {
    std::vector<uint32_t> made;
    for (int i = 0; i < n; ++i) {
      const auto x = static_cast<float>(at(draw(seed, static_cast<uint64_t>(i)), low, high));
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      made.push_back(bits);
    }
    return made;
  }

  template <class F>
  void run(InstructionResult result, int64_t n_words, const F& enqueue) {
    result.words.assign(static_cast<size_t>(n_words), 0xdeadbeefu);
    const size_t bytes = result.words.size() * 4;
    const Memory out(result.words);
    enqueue(out.as<uint32_t>());
    copy_async(result.words.data(), out.as<void>(), bytes, stream_);
    synchronize(stream_);
    report_(result);
  }

  const std::function<void(const InstructionResult&)>& report_;
  Stream stream_;
};

}  // namespace

std::string json_line(const InstructionResult& result) {
  std::string line = "{\"instruction\":\"" + result.instruction + "\",\"operands\":\"" + result.operands +
                     "\",\"seed\":" + std::to_string(result.seed) + ",\"n\":" + std::to_string(result.n) +
                     ",\"words\":\"";
  for (const uint32_t word : result.words)
    for (int shift = 28; shift >= 0; shift -= 4) line += "0123456789abcdef"[word >> shift & 15];
  return line + "\"}";
}

void run_instructions(const std::function<void(const InstructionResult&)>& report) {
  Kit kit(report);
  kit.copies();
  kit.products();
  kit.functions();
}

}  // namespace signalbox::kernels::DEVICE_SPACE
