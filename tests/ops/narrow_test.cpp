// Products of bf16 with bf16 (--numerics fast, amx): against double sums of what is multiplied, and the same bits
// whatever the rows and threads. Tiles are emulated here, and compared with the processor's where it has them.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/gemm_tiles.inc"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.inc"
#include "tests/ops/op_data.h"

namespace signalbox::test {

namespace {

constexpr cpu::Kernels emulated = cpu::make_kernels("emulated", &cpu::tile_products<1>);
constexpr cpu::Kernels emulated_whole = cpu::make_kernels("emulated", &cpu::tile_products<3>);

struct Way {
  const cpu::Kernels* kernels;
  bool rounded;  // x to one bf16 number
};

std::vector<Way> ways() {
  std::vector<Way> ways = {{&emulated, true}, {&emulated_whole, false}};
  if (cpu::has_isa("avx512_bf16")) ways.push_back({&cpu::kernels_avx512_bf16(), true});
  if (cpu::has_isa("amx")) {
    ways.push_back({&cpu::kernels_amx_fast(), true});
    ways.push_back({&cpu::kernels_amx(), false});
  }
  return ways;
}

double rounded(float x) { return static_cast<double>(float_of_bf16(bf16_of_float(x))); }

struct NarrowSizes {
  int64_t m, n, k;
};
constexpr NarrowSizes narrow_sizes[] = {{1, 1, 1},     {1, 40, 130},  {2, 17, 64},   {3, 33, 31},
                                        {4, 16, 32},   {5, 66, 520},  {6, 4, 16},    {7, 13, 65},
                                        {17, 31, 64},  {33, 65, 100}, {40, 8, 1},    {1, 100, 1100},
                                        {9, 50, 1056}, {97, 18, 40},  {113, 49, 33}, {13, 7, 2100}};

}  // namespace

TEST_CASE("narrow: products of bf16 against double, guards untouched") {
  for (const Way& way : ways()) {
    for (const NarrowSizes& s : narrow_sizes) {
      for (const bool with_bias : {false, true}) {
        cpu::CpuBackend backend(*way.kernels, 2);
        Guarded x(s.m, s.k, 1), out(s.m, s.n), bias(1, s.n, 3);
        const StoredMatrix w(DType::bf16, s.n, s.k, 2, 5 * (s.n % 2));
        backend.matmul(out.view(), x.view(), w.matrix(), with_bias ? Vector{bias.row(0).data, s.n} : Vector{});
        int64_t wrong = 0;
        for (int64_t r = 0; r < s.m; ++r) {
          for (int64_t n = 0; n < s.n; ++n) {
            double want = with_bias ? static_cast<double>(bias.at(0, n)) : 0, magnitude = std::abs(want);
            for (int64_t k = 0; k < s.k; ++k) {
              const double term = (way.rounded ? rounded(x.at(r, k)) : static_cast<double>(x.at(r, k))) * w.value(n, k);
              want += term, magnitude += std::abs(term);
            }
            wrong += !near(out.at(r, n), want, magnitude, tolerance::matmul);
          }
        }
        INFO(way.kernels->name, way.rounded, " ", s.m, " x ", s.n, " x ", s.k);
        CHECK(wrong == 0);
        CHECK(out.guards_hold());
      }
    }
  }
}

TEST_CASE("narrow: bits do not depend on rows and threads" *
          doctest::test_suite("repeats: the same kernels on the same values, to compare bits")) {
  for (const Way& way : ways()) {
    for (const NarrowSizes& s : {NarrowSizes{13, 70, 96}, NarrowSizes{99, 9, 264}, NarrowSizes{25, 21, 1133}}) {
      Guarded x(s.m, s.k, 5), want(s.m, s.n);
      const StoredMatrix w(DType::bf16, s.n, s.k, 6);
      cpu::CpuBackend one(*way.kernels, 1);
      one.matmul(want.view(), x.view(), w.matrix(), {});
      cpu::CpuBackend three(*way.kernels, 3);
      Guarded all(s.m, s.n);
      three.matmul(all.view(), x.view(), w.matrix(), {});
      CHECK(same_bits(all.view(), want.view()));
      for (const int64_t chunk : {1, 3, 6, 11}) {
        Guarded parts(s.m, s.n);
        for (int64_t r = 0; r < s.m; r += chunk) {
          const int64_t rows = std::min(chunk, s.m - r);
          one.matmul(Tensor(parts.view().row(r), rows, s.n, s.n + 3), Tensor(x.view().row(r), rows, s.k, s.k + 3),
                     w.matrix(), {});
        }
        CHECK(same_bits(parts.view(), want.view()));
      }
    }
  }
}

TEST_CASE("narrow: three parts are the f32 number, ties and specials round as they should") {
  const std::vector<float> values = {0.f,       -0.f,   1.f,        1.00390625f, 1.01171875f, 3.14159274f,
                                     -2.5e-20f, 1e30f,  INFINITY,   -INFINITY,   NAN,         0x1.fffffep-3f,
                                     0x1p-126f, 7e-39f, 123456.78f, 0.1f};
  std::vector<uint16_t> packed(cpu::tile_values * 3);
  const cpu::PackArgs args{values.data(), 16, nullptr, 1, 0, 1, 16};
  cpu::tiles_pack<3>(packed.data(), args);
  for (size_t k = 0; k < values.size(); ++k) {
    const auto part = [&](size_t p) {
      return static_cast<double>(float_of_bf16(packed[p * cpu::tile_values + k / 2 * 32 + k % 2]));
    };
    const double sum = part(2) + part(1) + part(0), want = static_cast<double>(values[k]);
    INFO(want);
    if (std::isnan(want)) {
      CHECK(std::isnan(part(2)));
    } else {
      CHECK(part(2) == rounded(values[k]));
      // Subnormal parts have fewer bits, and count as zeros.
      CHECK((sum == want || std::abs(sum - want) < 0x1p-126));
    }
  }
}

TEST_CASE("narrow: gate and up, experts over gathered rows, and mla_expand") {
  const int64_t n_experts = 5, k = 72, n = 50, tokens = 40, slots = 2;
  std::vector<StoredMatrix> gates, ups;
  for (int64_t e = 0; e < n_experts; ++e) {
    gates.emplace_back(DType::bf16, n, k, 40 + e);
    ups.emplace_back(DType::bf16, n, k, 60 + e);
  }
  std::vector<Matrix> gate, up;
  for (int64_t e = 0; e < n_experts; ++e) {
    gate.push_back(gates[static_cast<size_t>(e)].matrix());
    up.push_back(ups[static_cast<size_t>(e)].matrix());
  }
  ExpertMatrices experts;
  experts.gate = gate;
  experts.up = up;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens * slots; ++i) ids.push_back(i % 7 == 6 ? -1 : static_cast<int32_t>(i * i % n_experts));
  Route route;
  route.ids = ids.data();
  route.n_slots = static_cast<int32_t>(slots);
  for (const Way& way : ways()) {
    cpu::CpuBackend backend(*way.kernels, 2);
    Guarded x(tokens, k, 8), hidden(tokens * slots, n), one(1, n);
    backend.experts_hidden(hidden.view(), x.view(), route, tokens, experts, {}, nullptr);
    for (int64_t i = 0; i < tokens * slots; ++i) {
      const int32_t e = ids[static_cast<size_t>(i)];
      if (e < 0) continue;
      backend.gated_hidden(one.view(), x.row(i / slots), gate[static_cast<size_t>(e)], up[static_cast<size_t>(e)], {});
      CHECK(same_bits(hidden.row(i), one.view()));
    }
    const int64_t heads = 3, nope = 8, value = 21;
    const StoredMatrix kv_b(DType::bf16, heads * (nope + value), k, 21);
    Guarded latent(20, heads * k, 23), expanded(20, heads * value), part(20, value);
    backend.mla_expand(expanded.view(), latent.view(), kv_b.matrix(), heads, nope, value);
    Matrix rows = kv_b.matrix();
    rows.data = static_cast<const uint16_t*>(rows.data) + (nope + value + nope) * rows.row_stride;
    rows.rows = value;
    backend.matmul(part.view(), latent.view().columns(k, k), rows, {});
    CHECK(same_bits(expanded.view().columns(value, value), part.view()));
    CHECK(hidden.guards_hold());
    CHECK(expanded.guards_hold());
  }
}

TEST_CASE("narrow: the processor's tiles give the emulation's bits") {
  if (!cpu::has_isa("amx")) return;
  for (const NarrowSizes& s : narrow_sizes) {
    Guarded x(s.m, s.k, 1), want(s.m, s.n), got(s.m, s.n);
    const StoredMatrix w(DType::bf16, s.n, s.k, 2);
    cpu::CpuBackend(emulated_whole, 1).matmul(want.view(), x.view(), w.matrix(), {});
    cpu::CpuBackend(cpu::kernels_amx(), 1).matmul(got.view(), x.view(), w.matrix(), {});
    CHECK(same_bits(got.view(), want.view()));
  }
}

}  // namespace signalbox::test
