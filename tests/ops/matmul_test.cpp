// matmul, gated_hidden, mla_absorb, mla_expand and embed against naive sums in double, and the same bits whatever the
// rows, threads and instruction set.
#include "kernels/cases/products.h"
#include "tests/ops/op_data.h"

namespace signalbox::test {

namespace {

struct Shape {
  int64_t m, n, k;
};

double dot(Guarded& x, int64_t r, const StoredMatrix& w, int64_t n, double* magnitude) {
  double sum = 0;
  *magnitude = 0;
  for (int64_t k = 0; k < x.cols(); ++k) {
    const double term = static_cast<double>(x.at(r, k)) * w.value(n, k);
    sum += term;
    *magnitude += std::abs(term);
  }
  return sum;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

double activate(const Activation& a, double gate, double up) {
  if (a.kind == Activation::Kind::silu) return silu(gate) * up;
  const double limit = static_cast<double>(a.limit), alpha = static_cast<double>(a.alpha);
  const double g = std::min(gate, limit), u = std::max(-limit, std::min(limit, up));
  return g / (1 + std::exp(-alpha * g)) * (u + 1);
}

}  // namespace

TEST_CASE("matmul: every dtype and shape against double, guards untouched") {
  for (const std::string& isa : machine_isas()) {
    const auto backend = cpu(isa);
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::mxfp4, DType::int8, DType::int4}) {
      for (const cases::Product& s : cases::products) {
        if (isa == "scalar" && s.m * s.n * s.k > 300000) continue;
        const int64_t k = in_blocks(dtype) ? (s.k + 31) / 32 * 32 : s.k;
        for (const bool with_bias : {false, true}) {
          Guarded x(s.m, k, 1), out(s.m, s.n), bias(1, s.n, 3);
          const StoredMatrix w(dtype, s.n, k, 2, in_blocks(dtype) ? 32 : 5 * (s.n % 2));
          backend->matmul(out.view(), x.view(), w.matrix(), with_bias ? Vector{bias.row(0).data, s.n} : Vector{});
          int64_t wrong = 0;
          for (int64_t r = 0; r < s.m; ++r) {
            for (int64_t n = 0; n < s.n; ++n) {
              double magnitude;
              double want = dot(x, r, w, n, &magnitude);
              if (with_bias)
                want += static_cast<double>(bias.at(0, n)), magnitude += std::abs(static_cast<double>(bias.at(0, n)));
              wrong += !near(out.at(r, n), want, magnitude, tolerance::matmul);
            }
          }
          INFO(isa, " ", dtype_name(dtype), " ", s.m, " x ", s.n, " x ", k);
          CHECK(wrong == 0);
          CHECK(out.guards_hold());
        }
      }
    }
  }
}

TEST_CASE("matmul: bits do not depend on rows, threads or instruction set" *
          doctest::test_suite("repeats: the same kernels on the same values, to compare bits")) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::mxfp4, DType::int8, DType::int4}) {
    for (const Shape& s : {Shape{13, 70, 96}, Shape{200, 70, 544}, Shape{25, 21, in_blocks(dtype) ? 4160 : 4133}}) {
      Guarded x(s.m, s.k, 5);
      const StoredMatrix w(dtype, s.n, s.k, 6);
      Guarded want(s.m, s.n);
      cpu("auto", 1)->matmul(want.view(), x.view(), w.matrix(), {});
      for (const std::string& isa : machine_isas()) {
        const int64_t m = isa == "scalar" ? std::min<int64_t>(s.m, 25) : s.m;
        for (const int n_threads : {1, 2, 3}) {
          const auto backend = cpu(isa, n_threads);
          Guarded all(m, s.n), one(m, s.n);
          backend->matmul(all.view(), x.view().first_rows(m), w.matrix(), {});
          CHECK(same_bits(all.view(), want.view().first_rows(m)));
          if (isa == "scalar" && n_threads > 1) continue;
          for (int64_t r = 0; r < m; ++r) backend->matmul(one.row(r), x.row(r), w.matrix(), {});
          CHECK(same_bits(one.view(), want.view().first_rows(m)));
          // and in chunks of every small size
          for (int64_t chunk = 2; chunk < 15; ++chunk) {
            Guarded parts(m, s.n);
            for (int64_t r = 0; r < m; r += chunk) {
              const int64_t rows = std::min(chunk, m - r);
              backend->matmul(Tensor(parts.view().row(r), rows, s.n, s.n + 3),
                              Tensor(x.view().row(r), rows, s.k, s.k + 3), w.matrix(), {});
            }
            CHECK(same_bits(parts.view(), want.view().first_rows(m)));
          }
        }
      }
    }
  }
}

// Long products are cut into blocks of rows, of which the last may be read by another loop than the others.
TEST_CASE("matmul: the last rows of a product that is cut") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::int8, DType::int4}) {
    for (const Shape& s : {Shape{241, 24, 128}, Shape{262, 24, 128}, Shape{336, 24, 128}, Shape{337, 9, 128},
                           Shape{250, 5, 2144}, Shape{330, 5, 2144}}) {
      Guarded x(s.m, s.k, 5), all(s.m, s.n), one(s.m, s.n);
      const StoredMatrix w(dtype, s.n, s.k, 6);
      const auto backend = cpu("auto", 2);
      backend->matmul(all.view(), x.view(), w.matrix(), {});
      for (int64_t r = 0; r < s.m; ++r) backend->matmul(one.row(r), x.row(r), w.matrix(), {});
      CHECK(same_bits(all.view(), one.view()));
      CHECK(all.guards_hold());
    }
  }
}

TEST_CASE("gated_hidden: both activations") {
  for (const auto kind : {Activation::Kind::silu, Activation::Kind::clamped}) {
    Activation activation;
    activation.kind = kind;
    for (const cases::Gated& s : cases::gated) {
      Guarded x(s.m, s.k, 11), out(s.m, s.n), first(s.m, s.n);
      const StoredMatrix gate(DType::bf16, s.n, s.k, 12), up(DType::bf16, s.n, s.k, 13);
      cpu()->gated_hidden(out.view(), x.view(), gate.matrix(), up.matrix(), activation);
      int64_t wrong = 0;
      for (int64_t r = 0; r < s.m; ++r) {
        for (int64_t n = 0; n < s.n; ++n) {
          double g, u;
          const double want = activate(activation, dot(x, r, gate, n, &g), dot(x, r, up, n, &u));
          wrong += !near(out.at(r, n), want, g * (u + 1) * 0.2 + std::abs(want), tolerance::activation);
        }
      }
      CHECK(wrong == 0);
      CHECK(out.guards_hold());
      for (const std::string& isa : machine_isas()) {
        cpu(isa, 1)->gated_hidden(first.view(), x.view(), gate.matrix(), up.matrix(), activation);
        CHECK(same_bits(first.view(), out.view()));
      }
    }
  }
}

TEST_CASE("mla_absorb and mla_expand: against double, bits invariant") {
  for (const cases::Latent& s : cases::latents) {
    const int64_t d_in = s.nope + s.rope, d_out = s.latent + s.rope;
    const StoredMatrix kv_b(DType::bf16, s.heads * (s.nope + s.value), s.latent, 21);
    Guarded q(s.tokens, s.heads * d_in, 22), absorbed(s.tokens, s.heads * d_out);
    Guarded latent(s.tokens, s.heads * s.latent, 23), expanded(s.tokens, s.heads * s.value);
    const auto backend = cpu();
    backend->mla_absorb(absorbed.view(), q.view(), kv_b.matrix(), s.heads, s.nope, s.rope, s.value);
    backend->mla_expand(expanded.view(), latent.view(), kv_b.matrix(), s.heads, s.nope, s.value);
    int64_t wrong = 0;
    for (int64_t t = 0; t < s.tokens; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t row = h * (s.nope + s.value);
        for (int64_t c = 0; c < s.latent; ++c) {
          double want = 0, magnitude = 0;
          for (int64_t d = 0; d < s.nope; ++d) {
            const double term = static_cast<double>(q.at(t, h * d_in + d)) * kv_b.value(row + d, c);
            want += term, magnitude += std::abs(term);
          }
          wrong += !near(absorbed.at(t, h * d_out + c), want, magnitude, tolerance::matmul);
        }
        for (int64_t r = 0; r < s.rope; ++r)
          wrong += absorbed.at(t, h * d_out + s.latent + r) != q.at(t, h * d_in + s.nope + r);
        for (int64_t v = 0; v < s.value; ++v) {
          double want = 0, magnitude = 0;
          for (int64_t c = 0; c < s.latent; ++c) {
            const double term = static_cast<double>(latent.at(t, h * s.latent + c)) * kv_b.value(row + s.nope + v, c);
            want += term, magnitude += std::abs(term);
          }
          wrong += !near(expanded.at(t, h * s.value + v), want, magnitude, tolerance::matmul);
        }
      }
    }
    CHECK(wrong == 0);
    CHECK(absorbed.guards_hold());
    CHECK(expanded.guards_hold());
    for (const std::string& isa : machine_isas()) {
      const auto other = cpu(isa, 3);
      Guarded a(s.tokens, s.heads * d_out), e(s.tokens, s.heads * s.value);
      for (int64_t t = 0; t < s.tokens; ++t) {
        other->mla_absorb(a.row(t), q.row(t), kv_b.matrix(), s.heads, s.nope, s.rope, s.value);
        other->mla_expand(e.row(t), latent.row(t), kv_b.matrix(), s.heads, s.nope, s.value);
      }
      CHECK(same_bits(a.view(), absorbed.view()));
      CHECK(same_bits(e.view(), expanded.view()));
    }
  }
}

TEST_CASE("embed: rows of the table exactly, in every dtype") {
  const std::vector<int32_t> ids = {3, 0, 10, 3};
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::mxfp4, DType::int8, DType::int4}) {
    for (const std::string& isa : machine_isas()) {
      const StoredMatrix table(dtype, 11, in_blocks(dtype) ? 64 : 39, 31);
      Guarded out(4, table.matrix().cols);
      cpu(isa)->embed(out.view(), table.matrix(), ids.data());
      int64_t wrong = 0;
      for (int64_t t = 0; t < 4; ++t) {
        for (int64_t c = 0; c < out.cols(); ++c)
          wrong += static_cast<double>(out.at(t, c)) != table.value(ids[static_cast<size_t>(t)], c);
      }
      CHECK(wrong == 0);
      CHECK(out.guards_hold());
    }
  }
}

TEST_CASE("mxfp4: the smallest and the largest scales are exact") {
  for (const std::string& isa : machine_isas()) {
    for (const uint8_t scale : {0, 1, 2, 127, 252}) {
      std::vector<uint8_t> nibbles(16), scales = {scale};
      for (size_t i = 0; i < 16; ++i) nibbles[i] = static_cast<uint8_t>(2 * i % 16 | (2 * i + 1) % 16 << 4);
      Matrix table;
      table.data = nibbles.data();
      table.dtype = DType::mxfp4;
      table.rows = 1;
      table.cols = table.row_stride = 32;
      table.scales = scales.data();
      table.scale_stride = 1;
      Guarded out(1, 32);
      const int32_t id = 0;
      cpu(isa)->embed(out.view(), table, &id);
      static const double e2m1[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
      for (int i = 0; i < 32; ++i) {
        CHECK(static_cast<double>(out.at(0, i)) == (i % 16 >= 8 ? -1 : 1) * std::ldexp(e2m1[i % 8], scale - 127));
      }
    }
  }
}

}  // namespace signalbox::test
