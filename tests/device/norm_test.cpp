// Norms and the kernels that prepare attention's inputs, on a device: against the CPU backend, and spans against the
// ops that they stand for.
#include <cmath>
#include <vector>

#include "doctest/doctest.h"
#include "kernels/cases/rows.h"
#include "tests/device/device.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

int64_t n_different(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return -1;
  int64_t n = 0;
  for (size_t i = 0; i < got.size(); ++i)
    n += !(std::isnan(got[i]) && std::isnan(want[i])) && std::memcmp(&got[i], &want[i], 4) != 0;
  return n;
}

void check_near(const std::vector<float>& got, const std::vector<float>& want, const Tolerance& tolerance) {
  const Worst worst = compare(got, want, tolerance.absolute, tolerance.relative);
  CHECK_MESSAGE(worst.excess == 0, worst.text);
}

std::vector<float> rounded(std::vector<float> values) {
  for (float& x : values) x = rounded_bf16(x);
  return values;
}

// A rotation's tables on a backend.
struct Rotation {
  Rotation(Backend& backend, int64_t n_positions, int64_t n_dims, bool adjacent)
      : cos(backend, angles(n_positions, n_dims, true)), sin(backend, angles(n_positions, n_dims, false)) {
    table.cos = cos.data();
    table.sin = sin.data();
    table.n_positions = n_positions;
    table.n_dims = n_dims;
    table.adjacent = adjacent;
  }
  static std::vector<float> angles(int64_t n_positions, int64_t n_dims, bool cosine) {
    std::vector<float> values;
    for (int64_t p = 0; p < n_positions; ++p) {
      for (int64_t i = 0; i < n_dims / 2; ++i) {
        const double angle = static_cast<double>(p) * std::pow(0.7, static_cast<double>(i));
        values.push_back(static_cast<float>(cosine ? std::cos(angle) : std::sin(angle)));
      }
    }
    return values;
  }
  Buffer<float> cos, sin;
  RopeTable table;
};

constexpr int64_t n_positions = 30;

std::vector<int32_t> some_positions(int64_t n) {
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < n; ++t) positions.push_back(static_cast<int32_t>((t * 13 + 5) % n_positions));
  return positions;
}
// Rows 1, 3, 5, ... of a cache, the last first.
std::vector<int32_t> some_kv_rows(int64_t n) {
  std::vector<int32_t> rows;
  for (int64_t t = 0; t < n; ++t) rows.push_back(static_cast<int32_t>(2 * (n - t) - 1));
  return rows;
}

}  // namespace

TEST_CASE("device: rmsnorm as on the CPU, bf16 rounded once, in place, bits of a row by its own") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const cases::Rows& s : cases::rows) {
      CAPTURE(s.rows);
      CAPTURE(s.cols);
      const int64_t stride = s.cols + s.gap;
      const std::vector<float> values = normal_values(s.rows * s.cols, 1), delta = normal_values(s.rows * s.cols, 3);
      const std::vector<float> scale = normal_values(s.cols, 2);
      const Buffer<float> host_scale(*host, scale), weight(device, scale);
      const DeviceTensor want(*host, s.rows, s.cols, DType::f32, values, stride);
      host->rmsnorm(want.view(), want.view(), {host_scale.data(), s.cols}, 1e-5f);

      const DeviceTensor x(device, s.rows, s.cols, DType::f32, values, stride);
      const DeviceTensor out(device, s.rows, s.cols, DType::f32, {}, stride + s.gap);
      const DeviceTensor narrow(device, s.rows, s.cols, DType::bf16, {}, stride);
      device.rmsnorm(out.view(), x.view(), {weight.data(), s.cols}, 1e-5f);
      device.rmsnorm(narrow.view(), x.view(), {weight.data(), s.cols}, 1e-5f);
      const std::vector<float> normed = out.get();
      check_near(normed, want.get(), tolerance::device_norm);
      CHECK(n_different(narrow.get(), rounded(normed)) == 0);
      CHECK(n_different(x.get(), values) == 0);

      // The last row alone, from another place in memory.
      const std::vector<float> last(values.end() - s.cols, values.end());
      const DeviceTensor wide(device, 1, s.cols + 1, DType::f32, std::vector<float>(static_cast<size_t>(s.cols + 1)));
      const Tensor moved = wide.view().columns(1, s.cols);
      device.upload(moved.data, last.data(), last.size() * sizeof(float));
      device.rmsnorm(moved, moved, {weight.data(), s.cols}, 1e-5f);
      std::vector<float> alone(static_cast<size_t>(s.cols));
      device.download(alone.data(), moved.data, alone.size() * sizeof(float));
      CHECK(n_different(alone, std::vector<float>(normed.end() - s.cols, normed.end())) == 0);

      // add_rmsnorm is add and rmsnorm.
      const DeviceTensor sum(device, s.rows, s.cols, DType::f32, values, stride);
      const DeviceTensor more(device, s.rows, s.cols, DType::f32, delta, stride + s.gap);
      const DeviceTensor fused(device, s.rows, s.cols, DType::bf16, {}, stride);
      device.add_rmsnorm(sum.view(), more.view(), fused.view(), {weight.data(), s.cols}, 1e-5f);
      device.Backend::add_rmsnorm(x.view(), more.view(), narrow.view(), {weight.data(), s.cols}, 1e-5f);
      CHECK(n_different(sum.get(), x.get()) == 0);
      CHECK(n_different(fused.get(), narrow.get()) == 0);

      device.rmsnorm(sum.view(), sum.view(), {weight.data(), s.cols}, 1e-5f);
      device.rmsnorm(out.view(), x.view(), {weight.data(), s.cols}, 1e-5f);
      CHECK(n_different(sum.get(), out.get()) == 0);
      for (const DeviceTensor* t : {&x, &out, &narrow, &sum, &more, &fused}) CHECK(t->guards_hold());
    }
  });
}

TEST_CASE("device: prepare_heads is its composition") {
  enum class Norm { none, head, row };
  struct Case {
    int64_t n_tokens, n_heads, n_kv_heads, d_head, n_dims;
    Norm norm;
    float clip;
    bool adjacent;
    int64_t gap;  // of tensors and caches
  };
  const Case cases[] = {
      {1, 4, 2, 128, 128, Norm::head, 0, false, 0},  {3, 4, 1, 64, 64, Norm::none, 0, false, 4},
      {2, 3, 3, 16, 16, Norm::row, 0, false, 0},     {2, 16, 16, 64, 64, Norm::row, 0.5f, false, 8},
      {5, 2, 1, 10, 6, Norm::head, 0.7f, false, 0},  {3, 2, 2, 20, 20, Norm::none, 0.4f, true, 3},
      {4, 3, 1, 12, 8, Norm::head, 0, true, 0},      {2, 1, 1, 7, 2, Norm::row, 0, true, 0},
      {2, 2, 1, 8, 0, Norm::none, 0, false, 0},      {2, 5, 5, 6, 6, Norm::row, 0, false, 2},
      {2, 2, 1, 256, 64, Norm::head, 1.f, false, 0}, {1, 40, 8, 128, 128, Norm::none, 0, false, 0},
      {1, 6, 2, 40, 40, Norm::row, 0, true, 4},      {2, 2, 2, 7, 4, Norm::none, 0, false, 4},
      {2, 4, 4, 12, 6, Norm::none, 0, false, 0},     {2, 4, 2, 9, 8, Norm::head, 0, true, 2},
  };
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const Case& c : cases) {
      CAPTURE(c.n_heads);
      CAPTURE(c.d_head);
      CAPTURE(c.adjacent);
      const int64_t q_cols = c.n_heads * c.d_head, kv_cols = c.n_kv_heads * c.d_head, cache_rows = 2 * c.n_tokens + 1;
      const int64_t gap = c.norm == Norm::head ? 0 : c.gap;  // the composition splits rows into heads
      const std::vector<float> q_values = normal_values(c.n_tokens * q_cols, 1);
      const std::vector<float> k_values = normal_values(c.n_tokens * kv_cols, 2);
      const std::vector<float> v_values = normal_values(c.n_tokens * kv_cols, 3);
      struct Result {
        std::vector<float> q, keys, values;
      };
      auto run = [&](Backend& backend, bool composed) {
        const DeviceTensor q(backend, c.n_tokens, q_cols, DType::f32, q_values, q_cols + gap);
        const DeviceTensor k(backend, c.n_tokens, kv_cols, DType::f32, k_values, kv_cols + gap);
        const DeviceTensor v(backend, c.n_tokens, kv_cols, DType::f32, v_values, kv_cols + 2 * gap);
        const DeviceTensor keys(backend, cache_rows, kv_cols, backend.kv_dtype(), {}, kv_cols + c.gap);
        const DeviceTensor values(backend, cache_rows, kv_cols, backend.kv_dtype(), {}, kv_cols + 2 * c.gap);
        const Buffer<int32_t> positions(backend, some_positions(c.n_tokens));
        const Buffer<int32_t> kv_rows(backend, some_kv_rows(c.n_tokens));
        const Buffer<float> q_weight(backend, normal_values(q_cols, 4)), k_weight(backend, normal_values(kv_cols, 5));
        const Rotation rotation(backend, n_positions, c.n_dims, c.adjacent);
        Backend::HeadsArgs args;
        args.n_heads = c.n_heads;
        args.n_kv_heads = c.n_kv_heads;
        args.d_head = c.d_head;
        args.norm_eps = 1e-6f;
        args.clip = c.clip;
        args.rope = rotation.table;
        if (c.norm != Norm::none) {
          args.q_norm = {q_weight.data(), c.norm == Norm::head ? c.d_head : q_cols};
          args.k_norm = {k_weight.data(), c.norm == Norm::head ? c.d_head : kv_cols};
        }
        KvCache cache;
        cache.keys = keys.view().data;
        cache.values = values.view().data;
        cache.key_stride = keys.view().stride;
        cache.value_stride = values.view().stride;
        cache.dtype = backend.kv_dtype();
        BatchView batch;
        batch.n_tokens = c.n_tokens;
        batch.positions = positions.data();
        batch.kv_rows = kv_rows.data();
        if (composed) {
          backend.Backend::prepare_heads(q.view(), k.view(), v.view(), args, cache, batch);
        } else {
          backend.prepare_heads(q.view(), k.view(), v.view(), args, cache, batch);
        }
        for (const DeviceTensor* t : {&q, &k, &v, &keys, &values}) CHECK(t->guards_hold());
        return Result{q.get(), keys.get(), values.get()};
      };
      const Result got = run(device, false), composed = run(device, true), want = run(*host, true);
      CHECK(n_different(got.q, composed.q) == 0);
      CHECK(n_different(got.keys, composed.keys) == 0);
      CHECK(n_different(got.values, composed.values) == 0);
      check_near(got.q, want.q, tolerance::device_heads);
      // Rows that no token owns are NaN in both.
      auto owned = [&](const std::vector<float>& rows) {
        std::vector<float> kept;
        for (size_t i = 0; i < rows.size(); ++i) {
          if (static_cast<int64_t>(i) / kv_cols % 2 == 1)
            kept.push_back(rows[i]);
          else
            CHECK(std::isnan(rows[i]));
        }
        return kept;
      };
      check_near(owned(got.keys), owned(want.keys), tolerance::device_cached);
      CHECK(n_different(owned(got.values), rounded(owned(want.values))) == 0);
    }
  });
}

TEST_CASE("device: prepare_latent is its composition") {
  struct Case {
    int64_t n_tokens, n_heads, d_nope, d_latent, n_dims;
    bool adjacent;
    int64_t gap;
  };
  const Case cases[] = {{1, 2, 16, 512, 64, true, 0}, {3, 4, 8, 32, 8, true, 4}, {2, 1, 5, 9, 4, false, 1},
                        {4, 3, 12, 20, 6, false, 0},  {2, 5, 3, 16, 2, true, 3}, {2, 2, 128, 64, 64, false, 8},
                        {1, 1, 0, 100, 10, false, 2}};
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const Case& c : cases) {
      CAPTURE(c.n_heads);
      CAPTURE(c.d_latent);
      CAPTURE(c.adjacent);
      const int64_t q_cols = c.n_heads * (c.d_nope + c.n_dims), kv_cols = c.d_latent + c.n_dims;
      const int64_t cache_rows = 2 * c.n_tokens + 1;
      struct Result {
        std::vector<float> q, keys;
      };
      auto run = [&](Backend& backend, bool composed) {
        const DeviceTensor q(backend, c.n_tokens, q_cols, DType::f32, normal_values(c.n_tokens * q_cols, 1),
                             q_cols + c.gap);
        const DeviceTensor kv(backend, c.n_tokens, kv_cols, DType::f32, normal_values(c.n_tokens * kv_cols, 2),
                              kv_cols + c.gap);
        const DeviceTensor keys(backend, cache_rows, kv_cols, backend.kv_dtype(), {}, kv_cols + 2 * c.gap);
        const Buffer<int32_t> positions(backend, some_positions(c.n_tokens));
        const Buffer<int32_t> kv_rows(backend, some_kv_rows(c.n_tokens));
        const Buffer<float> weight(backend, normal_values(c.d_latent, 4));
        const Rotation rotation(backend, n_positions, c.n_dims, c.adjacent);
        Backend::LatentArgs args;
        args.n_heads = c.n_heads;
        args.d_nope = c.d_nope;
        args.d_latent = c.d_latent;
        args.norm = {weight.data(), c.d_latent};
        args.norm_eps = 1e-6f;
        args.rope = rotation.table;
        KvCache cache;
        cache.keys = cache.values = keys.view().data;
        cache.key_stride = cache.value_stride = keys.view().stride;
        cache.dtype = backend.kv_dtype();
        BatchView batch;
        batch.n_tokens = c.n_tokens;
        batch.positions = positions.data();
        batch.kv_rows = kv_rows.data();
        if (composed) {
          backend.Backend::prepare_latent(q.view(), kv.view(), args, cache, batch);
        } else {
          backend.prepare_latent(q.view(), kv.view(), args, cache, batch);
        }
        for (const DeviceTensor* t : {&q, &kv, &keys}) CHECK(t->guards_hold());
        return Result{q.get(), keys.get()};
      };
      const Result got = run(device, false), composed = run(device, true), want = run(*host, true);
      CHECK(n_different(got.q, composed.q) == 0);
      CHECK(n_different(got.keys, composed.keys) == 0);
      CHECK(n_different(got.q, want.q) == 0);  // rotation only
      std::vector<float> got_rows, want_rows;
      for (size_t i = 0; i < got.keys.size(); ++i) {
        const bool owned = static_cast<int64_t>(i) / kv_cols % 2 == 1;
        CHECK(std::isnan(got.keys[i]) == !owned);
        if (owned) got_rows.push_back(got.keys[i]), want_rows.push_back(want.keys[i]);
      }
      check_near(got_rows, want_rows, tolerance::device_cached);
    }
  });
}

}  // namespace signalbox::test
