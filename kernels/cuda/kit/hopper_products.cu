// wgmma on operands laid out as PTX's descriptors are understood here, one assumption at a time: the host lays a tile
// out, the kernel copies it to shared memory as it is and multiplies. What comes back is judged by
// tools/bench/instructions.py, so that a wrong assumption is a fact in a file and not a wrong kernel.
#include <utility>

#include "kernels/cuda/kit/hopper_kit.h"
#include "kernels/cuda/kit/operands.h"
#include "kernels/cuda/kit/tiles.h"
#include "kernels/cuda/kit/wgmma.h"

namespace signalbox::kernels::cuda {

namespace {

constexpr int n_m = 64;
constexpr uint32_t shared_bytes_of_tile = 224 << 10;  // a wrong stride still stays inside
constexpr uint32_t a_room = 16 << 10;                 // of it for A; B begins behind it

struct Steps {
  uint64_t a_bits, b_bits;
  uint32_t a[n_steps], b[n_steps];
};

template <int n, bool from_registers, bool transposed>
__global__ void __launch_bounds__(128) wgmma_kernel(float* d, const uint4* a, const uint4* b, int a_pieces,
                                                    int b_pieces, const uint16_t* a_rows, Steps steps) {
  SharedMemory memory;
  unsigned char* raw = memory.take<unsigned char>(shared_bytes_of_tile + 1024);
  // Patterns of 8 rows of 128 bytes repeat every 1024: so the tile begins at a multiple of that.
  const uint32_t base = (shared_address(raw) + 1023) / 1024 * 1024;
  unsigned char* tile = raw + (base - shared_address(raw));
  const int t = static_cast<int>(threadIdx.x);
  const uint4 nothing = make_uint4(0, 0, 0, 0);
  for (int i = t; i < static_cast<int>(shared_bytes_of_tile / 16); i += 128)
    reinterpret_cast<uint4*>(tile)[i] = nothing;
  __syncthreads();
  for (int i = t; i < a_pieces; i += 128) reinterpret_cast<uint4*>(tile)[i] = a[i];
  for (int i = t; i < b_pieces; i += 128) reinterpret_cast<uint4*>(tile + a_room)[i] = b[i];
  fence_async_proxy();
  __syncthreads();
  float sums[n / 2];
  for (float& x : sums) x = 0;
  const int warp = t / 32, g = t % 32 / 4, c = t % 4 * 2;
  uint32_t own[n_steps][4];
  if (from_registers) {
    for (int s = 0; s < n_steps; ++s)
      for (int r = 0; r < 4; ++r)
        own[s][r] =
            *reinterpret_cast<const uint32_t*>(a_rows + (warp * 16 + g + r % 2 * 8) * n_k + s * k_step + c + r / 2 * 8);
  }
  wgmma_fence();
#pragma unroll
  for (int s = 0; s < n_steps; ++s) {
    const uint64_t right = descriptor(steps.b_bits, base + a_room + steps.b[s]);
    if constexpr (from_registers)
      Wgmma<n>::registers(sums, own[s], right, s > 0);
    else
      Wgmma<n>::template shared<transposed>(sums, descriptor(steps.a_bits, base + steps.a[s]), right, s > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int j = 0; j < n / 8; ++j)
    for (int i = 0; i < 4; ++i) d[(warp * 16 + g + i / 2 * 8) * n + 8 * j + c + i % 2] = sums[4 * j + i];
}

struct Way {
  std::string name;
  Swizzle swizzle = Swizzle::bytes_128;
  bool leading = true;  // of the two readings of the offsets, the one that the PTX ISA's text suggests
  bool from_registers = false, transposed = false;
};

template <int n>
void multiply(const Way& way, Values values, const char* operands, uint64_t seed, const KitReport& report) {
  const std::vector<uint16_t> a = bf16_operand(values, seed, n_m, n_k), b = bf16_operand(values, seed + 1, n, n_k);
  const Laid left = along_k(a, n_m, way.swizzle, way.leading);
  const Laid right = way.transposed ? along_rows(b, n, way.leading) : along_k(b, n, way.swizzle, way.leading);
  Steps steps;
  steps.a_bits = left.bits;
  steps.b_bits = right.bits;
  for (int s = 0; s < n_steps; ++s) steps.a[s] = left.starts[s], steps.b[s] = right.starts[s];
  const KitMemory a_bytes(left.bytes), b_bytes(right.bytes), a_rows(a);
  const KitMemory out(std::vector<uint32_t>(n_m * n, 0xdeadbeefu));
  const KitStream stream;
  const auto go = [&](auto kernel) {
    launch("kit_wgmma", kernel, dim3(1), dim3(128), shared_bytes_of_tile + 1024, stream, out.as<float>(),
           a_bytes.as<uint4>(), b_bytes.as<uint4>(), static_cast<int>(left.bytes.size() / 16),
           static_cast<int>(right.bytes.size() / 16), a_rows.as<uint16_t>(), steps);
  };
  if (way.transposed)
    go(wgmma_kernel<n, false, true>);
  else if (way.from_registers)
    go(wgmma_kernel<n, true, false>);
  else
    go(wgmma_kernel<n, false, false>);
  std::string name("wgmma."), of("n");
  name.append(way.name);
  of.append(std::to_string(n)).append(" ").append(operands);
  report({name, of, seed, n, out.get<uint32_t>(n_m * n, stream)});
}

template <int n>
void both(const Way& way, const KitReport& report) {
  multiply<n>(way, Values::integers, "integers", 1000 + n, report);
  if (n == 16) multiply<n>(way, Values::ordinary, "ordinary", 2000, report);
}

void run_way(const Way& way, const KitReport& report) {
  if (!way.transposed) {
    both<8>(way, report);
    both<16>(way, report);
    both<32>(way, report);
  }
  both<64>(way, report);
  if (!way.transposed) both<96>(way, report);
  both<128>(way, report);
  both<192>(way, report);
  both<256>(way, report);
}

}  // namespace

std::vector<KitCase> product_cases() {
  std::vector<Way> ways;
  ways.push_back({"swizzle128", Swizzle::bytes_128});
  ways.push_back({"swizzle64", Swizzle::bytes_64});
  ways.push_back({"swizzle32", Swizzle::bytes_32});
  ways.push_back({"none, leading offset along k", Swizzle::none});
  ways.push_back({"none, leading offset along rows", Swizzle::none, false});
  ways.push_back({"swizzle128, a in registers", Swizzle::bytes_128, true, true});
  ways.push_back({"swizzle128, b along n, leading offset along n", Swizzle::bytes_128, true, false, true});
  ways.push_back({"swizzle128, b along n, leading offset along k", Swizzle::bytes_128, false, false, true});
  const char* names[] = {"wgmma-128",        "wgmma-64",        "wgmma-32",         "wgmma-none",
                         "wgmma-none-other", "wgmma-registers", "wgmma-transposed", "wgmma-transposed-other"};
  std::vector<KitCase> cases;
  for (size_t i = 0; i < ways.size(); ++i)
    cases.push_back({names[i], [way = ways[i]](const KitReport& report) { run_way(way, report); }});
  return cases;
}

}  // namespace signalbox::kernels::cuda
