// The shim itself: each instruction against a plain loop, orders, streams and graphs.
#include <algorithm>
#include <numeric>

#include "tests/device/shim_run.h"
#include "tests/ops/op_data.h"

namespace signalbox::test {

namespace {

using namespace shim_run;

uint16_t random_bf16(Noise& noise) { return to_bf16(noise.normal()).bits; }

// ---- warps

__global__ void shuffle_kernel(int* out, const int* in) {
  const int i = static_cast<int>(threadIdx.x);
  const int x = in[i];
  int* row = out + i * 8;
  row[0] = __shfl_sync(all_lanes, x, 5);
  row[1] = __shfl_sync(all_lanes, x, i * 7);  // modulo 32
  row[2] = __shfl_xor_sync(all_lanes, x, 9);
  row[3] = __shfl_down_sync(all_lanes, x, 3);
  row[4] = __shfl_up_sync(all_lanes, x, 30);
  row[5] = static_cast<int>(__ballot_sync(all_lanes, x % 3 == 0));
  row[6] = __any_sync(all_lanes, x == in[33]) * 2 + __all_sync(all_lanes, x > 0);
  row[7] = __reduce_add_sync(all_lanes, x) + __reduce_max_sync(all_lanes, x) * 100000;
}

__global__ void wide_shuffle_kernel(double* out, const double* in) {
  out[threadIdx.x] = __shfl_xor_sync(all_lanes, in[threadIdx.x], 1);
}

TEST_CASE("shim: shuffles, votes and reductions of warps") {
  std::vector<int> in(64);
  for (int i = 0; i < 64; ++i) in[static_cast<size_t>(i)] = (i * 37 + 11) % 101 + 1;
  in_each_order([&] {
    const Array<int> from(in), to(64 * 8);
    go(shuffle_kernel, 1, 64, 0, to.data(), from.data());
    const std::vector<int> got = to.get();
    for (int i = 0; i < 64; ++i) {
      const int first = i / 32 * 32, lane = i % 32;
      auto value = [&](int other) { return in[static_cast<size_t>(first + other)]; };
      unsigned votes = 0;
      int sum = 0, most = 0;
      bool any = false, all = true;
      for (int j = 0; j < 32; ++j) {
        votes |= static_cast<unsigned>(value(j) % 3 == 0) << j;
        sum += value(j), most = std::max(most, value(j));
        any = any || value(j) == in[33], all = all && value(j) > 0;
      }
      const int want[8] = {value(5),
                           value(i * 7 % 32),
                           value(lane ^ 9),
                           lane + 3 < 32 ? value(lane + 3) : value(lane),
                           lane >= 30 ? value(lane - 30) : value(lane),
                           static_cast<int>(votes),
                           any * 2 + all,
                           sum + most * 100000};
      for (int j = 0; j < 8; ++j) {
        CAPTURE(i);
        CAPTURE(j);
        CHECK(got[static_cast<size_t>(i * 8 + j)] == want[j]);
      }
    }
    const std::vector<double> wide_in(32, 1e300 / 7);
    const Array<double> wide(wide_in), wide_out(32);
    go(wide_shuffle_kernel, 1, 32, 0, wide_out.data(), wide.data());
    CHECK(wide_out.get() == wide_in);
  });
}

TEST_CASE("shim: bit operations") {
  CHECK(__byte_perm(0x33221100, 0x77665544, 0x7531) == 0x77553311);
  CHECK(__byte_perm(0x000080ff, 0, 0x9a21) == 0xff000080);  // 8: the sign of a byte
  CHECK(__funnelshift_l(0x80000001, 0x12345678, 4) == 0x23456788);
  CHECK(__funnelshift_r(0x80000001, 0x12345678, 4) == 0x88000000);
  CHECK(__brev(0x00000005) == 0xa0000000);
  CHECK(__umulhi(0xffffffff, 0xffffffff) == 0xfffffffe);
  CHECK(__clz(1) == 31);
  CHECK(__clz(0) == 32);
  CHECK(__ffs(0) == 0);
  CHECK(__ffs(8) == 4);
}

// ---- blocks

__global__ void sums_kernel(float* out, const float* in, int n) {
  SharedMemory memory;
  float* scratch = memory.take<float>(32);
  float* reversed = memory.take<float>(1024);
  const int i = static_cast<int>(threadIdx.x), size = static_cast<int>(blockDim.x);
  float x = i < n ? in[blockIdx.x * static_cast<unsigned>(n) + threadIdx.x] : 0;
  for (int round = 0; round < 3; ++round) {
    reversed[size - 1 - i] = x;
    __syncthreads();
    x = reversed[i] + 1;
    __syncthreads();
  }
  const float sum = block_sum(x, scratch);
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void votes_kernel(int* out, int limit) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = __syncthreads_count(i < limit);
  __syncthreads();
  out[i] = out[i] * 4 + (__syncthreads_or(i + 1 < limit) != 0) * 2;
  out[i] += __syncthreads_and(i < limit) != 0;
}

TEST_CASE("shim: barriers of blocks") {
  in_each_order([&] {
    for (const int n : {1, 31, 256}) {
      std::vector<float> in(static_cast<size_t>(n) * 3);
      std::iota(in.begin(), in.end(), 1.f);
      const Array<float> from(in), to(3 * 256);
      go(sums_kernel, 3, 256, shared_bytes_of<float>(32) + shared_bytes_of<float>(1024), to.data(), from.data(), n);
      const std::vector<float> got = to.get();
      for (int b = 0; b < 3; ++b) {
        const float want = std::accumulate(in.begin() + b * n, in.begin() + (b + 1) * n, 3.f * 256);
        for (int i = 0; i < 256; ++i) CHECK(got[static_cast<size_t>(b * 256 + i)] == want);
      }
    }
    for (const int limit : {0, 1, 33, 64}) {
      const Array<int> votes(64);
      go(votes_kernel, 1, 64, 0, votes.data(), limit);
      for (const int got : votes.get()) CHECK(got == limit * 4 + (limit > 1) * 2 + (limit == 64));
    }
  });
}

__global__ void places_kernel(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

TEST_CASE("shim: indices of blocks and threads") {
  in_each_order([&] {
    const Array<unsigned> out(30 * 64);
    go(places_kernel, dim3(2, 3, 5), dim3(8, 4, 2), 0, out.data());
    const std::vector<unsigned> got = out.get();
    for (unsigned i = 0; i < got.size(); ++i) CHECK(got[i] == i / 64 * 1000 + i % 64);
  });
}

// ---- matrix instructions, by the layouts that the PTX ISA documents element by element

// d += a b; fragments [32] of the four, two and four registers of each lane.
__global__ void mma_kernel(float* d, const uint32_t* a, const uint32_t* b) {
  float acc[4];
  uint32_t left[4], right[2];
  for (unsigned i = 0; i < 4; ++i) left[i] = a[threadIdx.x * 4 + i], acc[i] = d[threadIdx.x * 4 + i];
  for (unsigned i = 0; i < 2; ++i) right[i] = b[threadIdx.x * 2 + i];
  mma(acc, left, right);
  mma(acc, left, right);
  for (unsigned i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = acc[i];
}

TEST_CASE("shim: mma") {
  Noise noise(4);
  std::vector<uint16_t> a(16 * 16), b(16 * 8);  // [m, k], [k, n]
  std::vector<float> c(16 * 8);
  for (uint16_t& x : a) x = random_bf16(noise);
  for (uint16_t& x : b) x = random_bf16(noise);
  for (float& x : c) x = noise.normal();
  std::vector<uint16_t> a_halves(32 * 8), b_halves(32 * 4);
  std::vector<float> c_registers(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
      a_halves[static_cast<size_t>(lane * 8 + i)] = a[static_cast<size_t>(row * 16 + column)];
    }
    for (int i = 0; i < 4; ++i) {
      const int row = in_group * 2 + (i & 1) + (i < 2 ? 0 : 8);
      b_halves[static_cast<size_t>(lane * 4 + i)] = b[static_cast<size_t>(row * 8 + group)];
      c_registers[static_cast<size_t>(lane * 4 + i)] =
          c[static_cast<size_t>((i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1))];
    }
  }
  std::vector<uint32_t> a_registers(32 * 4), b_registers(32 * 2);
  std::memcpy(a_registers.data(), a_halves.data(), 32 * 16);
  std::memcpy(b_registers.data(), b_halves.data(), 32 * 8);
  in_each_order([&] {
    const Array<uint32_t> left(a_registers), right(b_registers);
    const Array<float> acc(c_registers);
    go(mma_kernel, 1, 32, 0, acc.data(), left.data(), right.data());
    const std::vector<float> got = acc.get();
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = lane % 4 * 2 + (i & 1);
        double want = static_cast<double>(c[static_cast<size_t>(row * 8 + column)]);
        for (int k = 0; k < 16; ++k)
          want += 2.0 * static_cast<double>(to_float(bf16{a[static_cast<size_t>(row * 16 + k)]})) *
                  static_cast<double>(to_float(bf16{b[static_cast<size_t>(k * 8 + column)]}));
        CHECK(static_cast<double>(got[static_cast<size_t>(lane * 4 + i)]) == doctest::Approx(want).epsilon(1e-5));
      }
    }
  });
}

__global__ void load_kernel(uint32_t* out, const uint16_t* in, int stride, int transposed) {
  SharedMemory memory;
  uint16_t* tile = memory.take<uint16_t>(static_cast<size_t>(32 * stride));
  for (int i = static_cast<int>(threadIdx.x); i < 32 * stride; i += 32) tile[i] = in[i];
  __syncwarp();
  uint32_t r[4];
  if (transposed) {
    load_matrices_transposed(r, tile + static_cast<int>(threadIdx.x) * stride);
  } else {
    load_matrices(r, tile + static_cast<int>(threadIdx.x) * stride);
  }
  for (unsigned i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = r[i];
}

TEST_CASE("shim: ldmatrix") {
  in_each_order([&] {
    for (const int stride : {8, 24}) {
      std::vector<uint16_t> in(static_cast<size_t>(32 * stride));
      std::iota(in.begin(), in.end(), uint16_t{100});
      const Array<uint16_t> from(in);
      const Array<uint32_t> to(32 * 4);
      for (const int transposed : {0, 1}) {
        go(load_kernel, 1, 32, shared_bytes_of<uint16_t>(static_cast<size_t>(32 * stride)), to.data(), from.data(),
           stride, transposed);
        std::vector<uint16_t> got(32 * 8);
        std::memcpy(got.data(), to.data(), 32 * 16);
        for (int lane = 0; lane < 32; ++lane) {
          for (int i = 0; i < 8; ++i) {
            const int matrix = i / 2;
            int row = lane / 4, column = lane % 4 * 2 + i % 2;
            if (transposed) std::swap(row, column);
            const int from_row = matrix * 8 + row;
            CHECK(got[static_cast<size_t>(lane * 8 + i)] == in[static_cast<size_t>(from_row * stride + column)]);
          }
        }
      }
    }
  });
}

// out = x w^T as kernels do it: x [16, 32], w [8, 32] row-major, both through ldmatrix.
__global__ void product_kernel(float* out, const uint16_t* x, const uint16_t* w) {
  SharedMemory memory;
  uint16_t* xs = memory.take<uint16_t>(16 * 40);
  uint16_t* ws = memory.take<uint16_t>(8 * 40);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * 4; i += 32) copy_async(xs + i / 4 * 40 + i % 4 * 8, x + i / 4 * 32 + i % 4 * 8);
  for (int i = lane; i < 8 * 4; i += 32) copy_async(ws + i / 4 * 40 + i % 4 * 8, w + i / 4 * 32 + i % 4 * 8);
  commit_copies();
  wait_copies<0>();
  __syncwarp();
  float acc[4] = {};
  uint32_t b[4];
  load_matrices(b, ws + lane % 8 * 40 + lane / 8 * 8);  // columns 0-7, 8-15, 16-23, 24-31
  for (int k = 0; k < 2; ++k) {
    uint32_t a[4];
    load_matrices(a, xs + lane % 16 * 40 + k * 16 + lane / 16 * 8);
    const uint32_t half[2] = {b[k * 2], b[k * 2 + 1]};
    mma(acc, a, half);
  }
  for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

TEST_CASE("shim: a product through asynchronous copies, ldmatrix and mma") {
  Noise noise(6);
  std::vector<uint16_t> x(16 * 32), w(8 * 32);
  for (uint16_t& v : x) v = random_bf16(noise);
  for (uint16_t& v : w) v = random_bf16(noise);
  in_each_order([&] {
    const Array<uint16_t> xs(x), ws(w);
    const Array<float> out(16 * 8);
    go(product_kernel, 1, 32, shared_bytes_of<uint16_t>(16 * 40) + shared_bytes_of<uint16_t>(8 * 40), out.data(),
       xs.data(), ws.data());
    const std::vector<float> got = out.get();
    for (size_t r = 0; r < 16; ++r) {
      for (size_t c = 0; c < 8; ++c) {
        double want = 0;
        for (size_t k = 0; k < 32; ++k)
          want +=
              static_cast<double>(to_float(bf16{x[r * 32 + k]})) * static_cast<double>(to_float(bf16{w[c * 32 + k]}));
        CHECK(static_cast<double>(got[r * 8 + c]) == doctest::Approx(want).epsilon(1e-5));
      }
    }
  });
}

// ---- asynchronous copies

// Thread i copies i % 17 bytes into piece i; what it sees while two groups are open, while one is, and at the end.
__global__ void copies_kernel(unsigned char* out, const unsigned char* in, int early) {
  SharedMemory memory;
  auto* pieces = memory.take<unsigned char>(2 * 32 * 16);
  const unsigned i = threadIdx.x;
  for (unsigned group = 0; group < 2; ++group) {
    copy_async(pieces + (group * 32 + i) * 16, in + (group * 32 + i) * 16, static_cast<int>((i + group) % 17));
    commit_copies();
  }
  if (early == 1) wait_copies<1>();
  if (early == 2) wait_copies<2>();
  // Sanitizers do not let anybody read what has not landed, so only group 0 after wait_copies<1> is looked at.
  if (early == 1)
    for (unsigned j = 0; j < 16; ++j) out[i * 16 + j] = pieces[i * 16 + j];
  wait_copies<0>();
  __syncthreads();
  if (early != 1)
    for (unsigned j = 0; j < 16; ++j) out[i * 16 + j] = pieces[(32 + i) * 16 + j];
}

// Reads its copy before it waits.
__global__ __attribute__((no_sanitize("address"))) void impatient_kernel(unsigned char* seen, const unsigned char* in) {
  SharedMemory memory;
  auto* piece = memory.take<unsigned char>(32 * 16) + threadIdx.x * 16;
  copy_async(piece, in + threadIdx.x * 16);
  commit_copies();
  wait_copies<1>();
  seen[threadIdx.x] = static_cast<volatile unsigned char*>(piece)[3];
  wait_copies<0>();
}

TEST_CASE("shim: asynchronous copies land when they are waited for, and zero the rest") {
  std::vector<unsigned char> in(2 * 32 * 16);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<unsigned char>(i % 251 + 1);
  in_each_order([&] {
    const Array<unsigned char> from(in), to(32 * 16), seen(32);
    for (const int early : {0, 1, 2}) {
      go(copies_kernel, 1, 32, 1024, to.data(), from.data(), early);
      const std::vector<unsigned char> got = to.get();
      const size_t group = early == 1 ? 0 : 1;
      for (size_t i = 0; i < 32; ++i) {
        for (size_t j = 0; j < 16; ++j)
          CHECK(got[i * 16 + j] == (j < (i + group) % 17 ? in[(group * 32 + i) * 16 + j] : 0));
      }
    }
    go(impatient_kernel, 1, 32, 512, seen.data(), from.data());
    CHECK(seen.get() == std::vector<unsigned char>(32, 0xff));
  });
}

// ---- memory

__global__ void garbage_kernel(unsigned* out, int write) {
  SharedMemory memory;
  unsigned* words = memory.take<unsigned>(64);
  out[blockIdx.x * 32 + threadIdx.x] = words[threadIdx.x];
  if (write) words[threadIdx.x] = 7;
}

__global__ void alignment_kernel(uint64_t* out) {
  SharedMemory memory;
  memory.take<char>(5);
  out += threadIdx.x * 2;
  out[0] = reinterpret_cast<uintptr_t>(memory.take<char>(100)) % 128;
  out[1] = reinterpret_cast<uintptr_t>(memory.take<char>(1)) % 128;
}

TEST_CASE("shim: memory starts as NaN, and arrays are as aligned as on a device") {
  const Array<unsigned> out(96);
  for (const unsigned x : out.get()) CHECK(x == 0xffffffffu);
  go(garbage_kernel, 3, 32, 256, out.data(), 1);
  for (const unsigned x : out.get()) CHECK(x == 0xffffffffu);
  const Array<uint64_t> offsets(64);
  go(alignment_kernel, 1, 32, 256, offsets.data());
  for (size_t i = 0; i < 64; i += 2) {
    CHECK(offsets.get()[i] == 16);     // behind 5 bytes
    CHECK(offsets.get()[i + 1] == 0);  // behind 16 + 112
  }
  CHECK(reinterpret_cast<uintptr_t>(out.data()) % 256 == 0);
  const size_t before = free_device_bytes();
  {
    const Array<char> some(12345);
    CHECK(free_device_bytes() == before - 12345);
    CHECK_THROWS_WITH_AS(allocate_device(before), doctest::Contains("expected room for"), Error);
  }
  CHECK(free_device_bytes() == before);
  CHECK_THROWS_WITH_AS(open_device(1), doctest::Contains("expected device 0 of 1, found 1"), Error);
}

// ---- orders

__global__ void turns_kernel(int* out, int* counter, int with_warp_operations) {
  const int me = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  out[atomicAdd(counter, 1)] = me;
  if (with_warp_operations) {
    __syncwarp();
    out[atomicAdd(counter, 1)] = me;
  }
}

std::vector<int> turns(simt::Order order, uint64_t seed, int with_warp_operations) {
  simt::set_order(order, seed);
  const Array<int> out(256 * 2), counter(std::vector<int>{0});
  go(turns_kernel, 2, 128, 0, out.data(), counter.data(), with_warp_operations);
  simt::set_order(simt::Order::ascending);
  std::vector<int> got = out.get();
  got.resize(with_warp_operations ? 512 : 256);
  return got;
}

TEST_CASE("shim: orders") {
  std::vector<int> want(256);
  std::iota(want.begin(), want.end(), 0);
  CHECK(turns(simt::Order::ascending, 0, 0) == want);
  std::reverse(want.begin(), want.end());
  CHECK(turns(simt::Order::descending, 0, 0) == want);
  std::vector<int> first = turns(simt::Order::shuffled, 1, 0), second = turns(simt::Order::shuffled, 2, 0);
  CHECK(first != want);
  CHECK(first != second);
  std::sort(first.begin(), first.end());
  std::reverse(want.begin(), want.end());
  CHECK(first == want);
  // Shuffled, warps overtake each other between warp operations: some warp begins before another's second part.
  int changes = 0;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const std::vector<int> mixed = turns(simt::Order::shuffled, seed, 1);
    for (size_t i = 1; i < mixed.size(); ++i) changes += mixed[i] / 32 != mixed[i - 1] / 32;
  }
  CHECK(changes > 8 * 7);  // eight warps one after another change seven times
}

__global__ __attribute__((no_sanitize("thread"))) void racy_kernel(int* out) {
  SharedMemory memory;
  int* words = memory.take<int>(64);
  words[threadIdx.x] = static_cast<int>(threadIdx.x);
  // A barrier is missing here.
  out[threadIdx.x] = words[(threadIdx.x + 40) % 64];
}

TEST_CASE("shim: a race gives other results in another order") {
  std::vector<std::vector<int>> results;
  in_each_order([&] {
    const Array<int> out(64);
    go(racy_kernel, 1, 64, 256, out.data());
    results.push_back(out.get());
  });
  CHECK(results[0] != results[1]);
}

// ---- streams and graphs

__global__ void scale_kernel(float* x, float factor) { x[threadIdx.x] *= factor; }

TEST_CASE("shim: streams, events and pinned memory") {
  in_each_order([&] {
    const StreamOwner one, two;
    const Array<float> x(std::vector<float>(32, 3.f)), y(std::vector<float>(32, 0.f));
    Event done(true), copied(true);
    launch("scale", scale_kernel, 1, 32, 0, one, x.data(), 2.f);
    done.record(one);
    done.hold(two);
    copy_async(y.data(), x.data(), 32 * sizeof(float), two);
    copied.record(two);
    CHECK(copied.done());
    CHECK(y.get() == std::vector<float>(32, 6.f));
    CHECK(Event::seconds(done, copied) >= 0);
    fill_async(y.data(), 0, 32 * sizeof(float), two);
    std::vector<float> host(32, 1.f);
    copy_async(host.data(), y.data(), 32 * sizeof(float), two);  // not pinned: done on return
    CHECK(host == std::vector<float>(32, 0.f));
    launch("scale", scale_kernel, dim3(0), 32, 0, one, x.data(), 2.f);  // an empty grid is no work
  });
}

TEST_CASE("shim: deferred work happens when it is waited for") {
  simt::set_deferred(true);
  const StreamOwner stream;
  auto* pinned = static_cast<float*>(allocate_pinned(4));
  const Array<float> x(1);
  *pinned = 1;
  copy_async(x.data(), pinned, 4, stream);
  *pinned = 2;  // too early: the copy reads it later
  synchronize(stream);
  CHECK(x.get()[0] == 2);
  free_pinned(pinned);
  simt::set_deferred(false);
}

TEST_CASE("shim: graphs repeat launches with the arguments that were captured") {
  in_each_order([&] {
    const StreamOwner stream;
    const Array<float> x(std::vector<float>(32, 1.f));
    float factor = 3;
    Graph::begin(stream);
    launch("scale", scale_kernel, 1, 32, 0, stream, x.data(), factor);
    factor = 5;
    launch("scale", scale_kernel, 1, 32, 0, stream, x.data(), factor);
    const std::unique_ptr<Graph> graph = Graph::end(stream);
    synchronize(stream);
    CHECK(x.get() == std::vector<float>(32, 1.f));  // captured, not run
    factor = 7;
    graph->launch(stream);
    graph->launch(stream);
    synchronize(stream);
    CHECK(x.get() == std::vector<float>(32, 225.f));
  });
}

TEST_CASE("shim: launches are counted") {
  auto count = [] {
    for (const auto& [name, n] : simt::launches())
      if (name == "counted") return n;
    return int64_t{0};
  };
  const int64_t before = count();
  const StreamOwner stream;
  const Array<float> x(32);
  for (int i = 0; i < 3; ++i) launch("counted", scale_kernel, 1, 32, 0, stream, x.data(), 1.f);
  CHECK(count() == before + 3);
}

}  // namespace

}  // namespace signalbox::test
