// The small ops: norms, RoPE, clamps, sums, copies and point edits; and the exp that softmax and activations share.
#include "base/error.h"
#include "kernels/cases/rows.h"
#include "kernels/cpu/isa.h"
#include "tests/ops/op_data.h"

namespace signalbox::test {

TEST_CASE("exp: within 2 ulp of double on every instruction set, with the same bits") {
  std::vector<float> x;
  for (int i = -110 * 64; i <= 92 * 64; ++i)
    x.push_back(static_cast<float>(i) / 64 + 1e-3f * static_cast<float>(i % 7));
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float special : {0.f, -0.f, 1e-30f, -1e-30f, infinity, -infinity, 88.72f, -87.4f, -103.9f, std::nanf("")})
    x.push_back(special);
  std::vector<float> want(x.size()), got(x.size());
  cpu::choose_kernels("scalar").exp(want.data(), x.data(), static_cast<int64_t>(x.size()));
  int64_t wrong = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float exact = static_cast<float>(std::exp(static_cast<double>(x[i])));
    if (std::isnan(exact) || std::isinf(exact)) {
      wrong += std::isnan(exact) != std::isnan(want[i]) || (std::isinf(exact) && want[i] != exact);
    } else {
      const double d = std::exp(static_cast<double>(x[i]));
      wrong += !near(want[i], d, d, tolerance::exponential);
    }
  }
  CHECK(wrong == 0);
  for (const std::string& isa : machine_isas()) {
    cpu::choose_kernels(isa).exp(got.data(), x.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) wrong += std::memcmp(&got[i], &want[i], 4) != 0 && !std::isnan(want[i]);
    CHECK(wrong == 0);
  }
}

TEST_CASE("isa: names that cannot be served are errors") {
  if (!cpu::has_isa("amx")) CHECK_THROWS_AS(cpu("amx"), Error);
  CHECK_THROWS_AS(cpu("sse"), Error);
  CHECK_THROWS_AS(cpu("auto", -1), Error);
  CHECK(cpu("scalar", 3)->isa() == "scalar");
  CHECK(cpu("scalar", 3)->n_threads() == 3);
}

TEST_CASE("rmsnorm: against double, in place, bits invariant") {
  for (const cases::Rows& s : cases::rows) {
    const int64_t n = s.cols;
    Guarded x(s.rows, n, 1), weight(1, n, 2), out(s.rows, n);
    cpu()->rmsnorm(out.view(), x.view(), {weight.row(0).data, n}, 1e-5f);
    for (int64_t r = 0; r < s.rows; ++r) {
      double squares = 0;
      for (int64_t c = 0; c < n; ++c) squares += static_cast<double>(x.at(r, c)) * static_cast<double>(x.at(r, c));
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
      int64_t wrong = 0;
      for (int64_t c = 0; c < n; ++c) {
        const double want = static_cast<double>(x.at(r, c)) * inverse * static_cast<double>(weight.at(0, c));
        wrong += !near(out.at(r, c), want, std::abs(want), tolerance::rmsnorm);
      }
      CHECK(wrong == 0);
    }
    CHECK(out.guards_hold());
    for (const std::string& isa : machine_isas()) {
      Guarded same(s.rows, n, 1);
      cpu(isa, 3)->rmsnorm(same.view(), same.view(), {weight.row(0).data, n}, 1e-5f);
      CHECK(same_bits(same.view(), out.view()));
      CHECK(same.guards_hold());
    }
  }
}

TEST_CASE("rope: adjacent and half pairs, only the rotated dimensions of each head") {
  const int64_t n_heads = 3, d_head = 12, first = 4, n_dims = 6, n_positions = 9;
  Guarded cos(n_positions, n_dims / 2), sin(n_positions, n_dims / 2);
  std::vector<float> cos_table, sin_table;
  for (int64_t p = 0; p < n_positions; ++p) {
    for (int64_t i = 0; i < n_dims / 2; ++i) {
      const double angle = static_cast<double>(p) * std::pow(10.0, -static_cast<double>(i));
      cos_table.push_back(static_cast<float>(std::cos(angle)));
      sin_table.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  const std::vector<int32_t> positions = {8, 0, 3, 3};
  for (const bool adjacent : {true, false}) {
    Guarded x(4, n_heads * d_head, 5), got(4, n_heads * d_head, 5);
    RopeTable table;
    table.cos = cos_table.data();
    table.sin = sin_table.data();
    table.n_positions = n_positions;
    table.n_dims = n_dims;
    table.adjacent = adjacent;
    cpu()->rope(got.view(), n_heads, first, table, positions.data());
    for (int64_t t = 0; t < 4; ++t) {
      for (int64_t h = 0; h < n_heads; ++h) {
        for (int64_t d = 0; d < d_head; ++d) {
          double want = static_cast<double>(x.at(t, h * d_head + d));
          const int64_t in = d - first;
          if (in >= 0 && in < n_dims) {
            const int64_t i = adjacent ? in / 2 : in % (n_dims / 2);
            const bool second = adjacent ? in % 2 == 1 : in >= n_dims / 2;
            const int64_t other = adjacent ? (second ? d - 1 : d + 1) : (second ? d - n_dims / 2 : d + n_dims / 2);
            const double angle = positions[static_cast<size_t>(t)] * std::pow(10.0, -static_cast<double>(i));
            const double partner = static_cast<double>(x.at(t, h * d_head + other));
            want = want * std::cos(angle) + (second ? 1 : -1) * partner * std::sin(angle);
          }
          CHECK(near(got.at(t, h * d_head + d), want, 4, tolerance::elementwise));
        }
      }
    }
    CHECK(got.guards_hold());
  }
}

TEST_CASE("clamp, add, scale_rows, sigmoid_scale") {
  for (const std::string& isa : machine_isas()) {
    const auto backend = cpu(isa);
    for (const int64_t n : {1, 19, 48}) {
      Guarded a(4, n, 1), b(4, n, 2), sum(4, n), gate(4, 1, 3);
      backend->add(sum.view(), a.view(), b.view());
      Guarded clamped(4, n, 1), scaled(4, n, 1), gated(4, n, 1), in_place(4, n, 1);
      backend->add(in_place.view(), in_place.view(), b.view());
      CHECK(same_bits(in_place.view(), sum.view()));
      backend->clamp(clamped.view(), 0.5f);
      const float factors[4] = {0.f, 1.f, -2.f, 0.3f};
      backend->scale_rows(scaled.view(), factors);
      backend->sigmoid_scale(gated.view(), gate.view());
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          const float x = a.at(r, c);
          CHECK(sum.at(r, c) == x + b.at(r, c));
          CHECK(clamped.at(r, c) == std::max(-0.5f, std::min(0.5f, x)));
          CHECK(scaled.at(r, c) == x * factors[r]);
          const double want = static_cast<double>(x) / (1 + std::exp(-static_cast<double>(gate.at(r, 0))));
          CHECK(near(gated.at(r, c), want, std::abs(want), tolerance::elementwise));
        }
      }
      CHECK((sum.guards_hold() && clamped.guards_hold() && scaled.guards_hold() && gated.guards_hold()));
    }
  }
}

TEST_CASE("store_rows, gather_rows") {
  Guarded x(3, 21, 1), cache(6, 21, 2), gathered(4, 21);
  const std::vector<int32_t> to = {4, 0, 5}, from = {2, 2, 0, 1};
  Guarded before(6, 21, 2);
  const auto backend = cpu();
  backend->store_rows(cache.view().data, cache.view().stride, x.view(), to.data());
  for (int64_t r = 0; r < 6; ++r) {
    const auto at = std::find(to.begin(), to.end(), r);
    const Tensor want = at == to.end() ? before.row(r) : x.row(at - to.begin());
    CHECK(same_bits(cache.row(r), want));
  }
  backend->gather_rows(gathered.view(), x.view(), from.data());
  for (int64_t i = 0; i < 4; ++i) CHECK(same_bits(gathered.row(i), x.row(from[static_cast<size_t>(i)])));
  CHECK((cache.guards_hold() && gathered.guards_hold()));
}

TEST_CASE("edit_rows: set and add, whole rows and columns") {
  const std::vector<int32_t> rows = {3, 1, 3}, value_rows = {0, 1, 1}, columns = {0, 20, 7};
  for (const std::string& isa : machine_isas()) {
    for (const bool add : {false, true}) {
      for (const bool some : {false, true}) {
        Guarded x(5, 21, 1), want(5, 21, 1), values(2, 21, 2);
        cpu(isa)->edit_rows(x.view(), rows, values.view(), value_rows,
                            some ? std::span<const int32_t>(columns) : std::span<const int32_t>(), add, -0.7f);
        for (size_t i = 0; i < 3; ++i) {
          for (int64_t c = 0; c < 21; ++c) {
            if (some && std::find(columns.begin(), columns.end(), c) == columns.end()) continue;
            const float v = values.at(value_rows[i], c);
            float& w = want.at(rows[i], c);
            w = add ? std::fma(-0.7f, v, w) : v;
          }
        }
        CHECK(same_bits(x.view(), want.view()));
        CHECK(x.guards_hold());
      }
    }
  }
}

TEST_CASE("allocate: aligned, also for nothing") {
  const auto backend = cpu();
  for (const size_t bytes : {0, 1, 64, 1000, 9000001}) {
    const auto memory = backend->allocate(bytes);
    CHECK(reinterpret_cast<uintptr_t>(memory.get()) % 64 == 0);
    CHECK(memory != nullptr);
  }
  float from[3] = {1, 2, 3}, to[3] = {};
  backend->upload(to, from, sizeof from);
  CHECK(to[2] == 3);
}

}  // namespace signalbox::test
