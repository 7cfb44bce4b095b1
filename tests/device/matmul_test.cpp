// Dense products in tiles on a device: against the CPU backend on the same values, and the same bits in every size of
// tiles. The invariant mode takes tiles for any number of rows; the default mode from nine rows on.
#include <cmath>
#include <vector>

#include "base/error.h"
#include "doctest/doctest.h"
#include "kernels/cases/products.h"
#include "tests/device/device.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

// Longer sums are tested on the CPU alone: the tolerances here are for this many terms.
constexpr int64_t most_terms = 520;

template <class Case>
std::string text(const Case& s) {
  return std::to_string(s.m) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k);
}

std::vector<float> matmul(Backend& backend, int64_t m, const std::vector<float>& x, const Matrix& w, Vector bias,
                          int64_t x_gap = 0, int64_t out_gap = 0) {
  const DeviceTensor device_x(backend, m, w.cols, backend.operand_dtype(), x, w.cols + x_gap);
  const DeviceTensor out(backend, m, w.rows, DType::f32, {}, w.rows + out_gap);
  backend.matmul(out.view(), device_x.view(), w, bias);
  CHECK(out.guards_hold());
  return out.get();
}

std::vector<float> rows_of(const std::vector<float>& x, int64_t first, int64_t count, int64_t cols) {
  return {x.begin() + first * cols, x.begin() + (first + count) * cols};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> want_matmul(const cases::Product& s, const std::vector<float>& x, const StoredMatrix& w,
                               const std::vector<float>& bias) {
  const auto backend = cpu();
  return matmul(*backend, s.m, x, w.matrix(), s.bias ? Vector{bias.data(), s.n} : Vector{});
}

}  // namespace

TEST_CASE("device matmul: every size of tiles, ragged everywhere") {
  for (const bool invariant : {true, false}) {
    for (const cases::Product& s : cases::products) {
      if (s.k > most_terms || (!invariant && s.m <= 8)) continue;
      const std::vector<float> x = normal_values(s.m * s.k, 1, true), bias = normal_values(s.n, 2);
      const StoredMatrix w(DType::bf16, s.n, s.k, 3);
      const std::vector<float> want = want_matmul(s, x, w, bias);
      for_each_device(
          [&](Backend& device, const std::string& what) {
            // All sums are the same in both modes on the shim; one order is enough for the second.
            if (!invariant && what.find("shim") == 0 && what.find("shuffled") == std::string::npos) return;
            const auto uploaded = device.upload_matrix(w.matrix(), false);
            const Buffer<float> device_bias(device, bias);
            const Vector b = s.bias ? Vector{device_bias.data(), s.n} : Vector{};
            const std::vector<float> got = matmul(device, s.m, x, uploaded.matrix, b, s.x_gap, s.out_gap);
            const auto& t = tolerance::device_matmul;
            const Worst worst = compare(got, want, t.absolute, t.relative);
            INFO(what, ", ", text(s), ": ", worst.text);
            CHECK(worst.excess <= 0);
          },
          invariant);
    }
  }
}

TEST_CASE("device matmul: the bits of a row do not depend on the other rows") {
  const int64_t m = 140, n = 260, k = 200;
  const std::vector<float> x = normal_values(m * k, 5, true), bias = normal_values(n, 6);
  const StoredMatrix w(DType::bf16, n, k, 7);
  for_each_device(
      [&](Backend& device, const std::string& what) {
        if (what.find("descending") != std::string::npos) return;
        const auto uploaded = device.upload_matrix(w.matrix(), false);
        const Buffer<float> device_bias(device, bias);
        const Vector b{device_bias.data(), n};
        const std::vector<float> all = matmul(device, m, x, uploaded.matrix, b);
        for (const auto& range : {std::pair<int64_t, int64_t>{0, 1}, {139, 1}, {3, 16}, {60, 50}, {20, 30}}) {
          const int64_t first = range.first, count = range.second;
          INFO(what, ", rows ", first, " + ", count);
          CHECK(same_bits(matmul(device, count, rows_of(x, first, count, k), uploaded.matrix, b),
                          rows_of(all, first, count, n)));
        }
      },
      true);
}

TEST_CASE("device gated_hidden: both activations") {
  for (const cases::Gated& s : cases::gated) {
    if (s.k > most_terms) continue;
    Activation activation;
    activation.kind = s.m % 2 != 0 ? Activation::Kind::clamped : Activation::Kind::silu;
    activation.limit = 2.5f;
    const std::vector<float> x = normal_values(s.m * s.k, 11, true);
    const StoredMatrix gate(DType::bf16, s.n, s.k, 12), up(DType::bf16, s.n, s.k, 13);
    const auto host = cpu();
    const DeviceTensor host_x(*host, s.m, s.k, DType::f32, x), host_out(*host, s.m, s.n, DType::f32);
    host->gated_hidden(host_out.view(), host_x.view(), gate.matrix(), up.matrix(), activation);
    const std::vector<float> want = host_out.get();
    for_each_device(
        [&](Backend& device, const std::string& what) {
          const auto device_gate = device.upload_matrix(gate.matrix(), false);
          const auto device_up = device.upload_matrix(up.matrix(), false);
          const DeviceTensor device_x(device, s.m, s.k, DType::bf16, x, s.k + s.x_gap);
          const DeviceTensor out(device, s.m, s.n, DType::bf16, {}, s.n + s.out_gap);
          device.gated_hidden(out.view(), device_x.view(), device_gate.matrix, device_up.matrix, activation);
          const Worst worst =
              compare(out.get(), want, tolerance::device_hidden.absolute, tolerance::device_hidden.relative);
          INFO(what, ", ", text(s), ": ", worst.text);
          CHECK(worst.excess <= 0);
          CHECK(out.guards_hold());
        },
        true);
  }
}

TEST_CASE("device mla_absorb and mla_expand") {
  for (const cases::Latent& s : cases::latents) {
    const int64_t d_in = s.nope + s.rope, d_out = s.latent + s.rope;
    const StoredMatrix kv_b(DType::bf16, s.heads * (s.nope + s.value), s.latent, 21);
    // The nope part becomes an operand; the rope part is copied as it is.
    std::vector<float> q = normal_values(s.tokens * s.heads * d_in, 22);
    for (size_t i = 0; i < q.size(); ++i) {
      if (static_cast<int64_t>(i) % d_in < s.nope) q[i] = rounded_bf16(q[i]);
    }
    const std::vector<float> latent = normal_values(s.tokens * s.heads * s.latent, 23, true);
    const auto run = [&](Backend& backend, const Matrix& w, DType operand, int64_t gap) {
      const DeviceTensor device_q(backend, s.tokens, s.heads * d_in, DType::f32, q, s.heads * d_in + gap);
      const DeviceTensor absorbed(backend, s.tokens, s.heads * d_out, DType::f32, {}, s.heads * d_out + gap);
      const DeviceTensor device_latent(backend, s.tokens, s.heads * s.latent, operand, latent,
                                       s.heads * s.latent + gap);
      const DeviceTensor expanded(backend, s.tokens, s.heads * s.value, operand, {}, s.heads * s.value + gap);
      backend.mla_absorb(absorbed.view(), device_q.view(), w, s.heads, s.nope, s.rope, s.value);
      backend.mla_expand(expanded.view(), device_latent.view(), w, s.heads, s.nope, s.value);
      CHECK(absorbed.guards_hold());
      CHECK(expanded.guards_hold());
      return std::pair(absorbed.get(), expanded.get());
    };
    const auto host = cpu();
    const auto want = run(*host, kv_b.matrix(), DType::f32, 0);
    for_each_device(
        [&](Backend& device, const std::string& what) {
          const auto uploaded = device.upload_matrix(kv_b.matrix(), false);
          const auto got = run(device, uploaded.matrix, DType::bf16, s.gap);
          const auto& t = tolerance::device_matmul;
          const auto& h = tolerance::device_rounded_matmul;
          const Worst absorb = compare(got.first, want.first, t.absolute, t.relative);
          const Worst expand = compare(got.second, want.second, h.absolute, h.relative);
          INFO(what, ", ", s.tokens, " tokens, absorb ", absorb.text, ", expand ", expand.text);
          CHECK(absorb.excess <= 0);
          CHECK(expand.excess <= 0);
          int64_t wrong = 0;
          for (int64_t i = 0; i < s.tokens * s.heads; ++i) {
            for (int64_t r = 0; r < s.rope; ++r) {
              wrong += got.first[static_cast<size_t>(i * d_out + s.latent + r)] !=
                       q[static_cast<size_t>(i * d_in + s.nope + r)];
            }
          }
          CHECK(wrong == 0);
        },
        true);
  }
}

TEST_CASE("device matmul: no rows, and weights of another dtype") {
  for_each_device(
      [&](Backend& device, const std::string&) {
        const StoredMatrix w(DType::bf16, 8, 16, 3);
        auto uploaded = device.upload_matrix(w.matrix(), false);
        const DeviceTensor x(device, 20, 16, DType::bf16, normal_values(20 * 16, 1)), out(device, 20, 8, DType::f32);
        device.matmul(out.view().first_rows(0), x.view().first_rows(0), uploaded.matrix, {});
        for (const float value : out.get()) CHECK(std::isnan(value));
        uploaded.matrix.dtype = DType::f32;
        CHECK_THROWS_WITH(device.matmul(out.view(), x.view(), uploaded.matrix, {}),
                          "CUDA matrix product: expected weights of BF16, found F32");
      },
      true);
}

}  // namespace signalbox::test
