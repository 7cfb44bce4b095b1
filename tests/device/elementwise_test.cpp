// The ops that touch each element once, on a device: the bits of the CPU backend, whatever strides and alignment.
#include <cmath>
#include <iterator>
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
  for (size_t i = 0; i < got.size(); ++i) {
    const bool same_nan = std::isnan(got[i]) && std::isnan(want[i]);
    n += !same_nan && std::memcmp(&got[i], &want[i], 4) != 0;
  }
  return n;
}

std::vector<float> rounded(std::vector<float> values) {
  for (float& x : values) x = rounded_bf16(x);
  return values;
}

std::vector<float> random_cells(int64_t n, uint64_t seed) {
  std::vector<float> values = normal_values(n, seed);
  for (size_t i = 0; i < std::size(cases::special_values) && 7 * i + 3 < values.size(); ++i)
    values[7 * i + 3] = cases::special_values[i];
  return values;
}

}  // namespace

TEST_CASE("device: add, clamp, scale_rows, sigmoid_scale give the bits of the CPU, in place and not") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const cases::Rows& s : cases::rows) {
      CAPTURE(s.rows);
      CAPTURE(s.cols);
      const std::vector<float> a = random_cells(s.rows * s.cols, 1), b = random_cells(s.rows * s.cols, 2);
      const std::vector<float> factor = normal_values(s.rows, 3), gate = normal_values(s.rows, 4);
      // All results of one backend: add, add in place of a and of b, clamp, scale_rows, sigmoid_scale.
      auto run = [&](Backend& backend) {
        std::vector<std::vector<float>> results;
        const int64_t stride = s.cols + s.gap;
        const DeviceTensor left(backend, s.rows, s.cols, DType::f32, a, stride);
        const DeviceTensor right(backend, s.rows, s.cols, DType::f32, b, s.cols + 2 * s.gap);
        const DeviceTensor sum(backend, s.rows, s.cols, DType::f32, {}, stride);
        backend.add(sum.view(), left.view(), right.view());
        results.push_back(sum.get());
        backend.add(left.view(), left.view(), right.view());
        results.push_back(left.get());
        const DeviceTensor left_again(backend, s.rows, s.cols, DType::f32, a, stride);
        backend.add(right.view(), left_again.view(), right.view());
        results.push_back(right.get());
        backend.clamp(left_again.view(), 0.75f);
        results.push_back(left_again.get());
        const Buffer<float> factors(backend, factor);
        backend.scale_rows(sum.view(), factors.data());
        results.push_back(sum.get());
        const DeviceTensor gates(backend, s.rows, 1, DType::f32, gate, 1 + s.gap);
        const DeviceTensor gated(backend, s.rows, s.cols, DType::f32, normal_values(s.rows * s.cols, 5), stride);
        backend.sigmoid_scale(gated.view(), gates.view());
        results.push_back(gated.get());
        for (const DeviceTensor* t : {&left, &right, &sum, &left_again, &gates, &gated}) CHECK(t->guards_hold());
        return results;
      };
      const auto want = run(*host), got = run(device);
      for (size_t i = 0; i + 1 < want.size(); ++i) {
        CAPTURE(i);
        CHECK(n_different(got[i], want[i]) == 0);
      }
      const Worst worst =
          compare(got.back(), want.back(), tolerance::device_sigmoid.absolute, tolerance::device_sigmoid.relative);
      CHECK_MESSAGE(worst.excess == 0, worst.text);
    }
  });
}

TEST_CASE("device: embed and gather_rows copy values, store_rows rounds once into rows of a cache") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const cases::Rows& s : cases::rows) {
      CAPTURE(s.rows);
      CAPTURE(s.cols);
      const int64_t n_from = 6;
      const std::vector<float> values = rounded(normal_values(n_from * s.cols, 8));
      std::vector<int32_t> ids;
      for (int64_t r = 0; r < s.rows; ++r) ids.push_back(static_cast<int32_t>((r * 5 + 2) % n_from));
      std::vector<float> want;
      for (const int32_t id : ids)
        want.insert(want.end(), values.begin() + id * s.cols, values.begin() + (id + 1) * s.cols);

      const Buffer<int32_t> device_ids(device, ids);
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const DeviceTensor from(device, n_from, s.cols, dtype, values, s.cols + 2 * s.gap);
        const DeviceTensor out(device, s.rows, s.cols, dtype, {}, s.cols + s.gap);
        device.gather_rows(out.view(), from.view(), device_ids.data());
        CHECK(n_different(out.get(), want) == 0);
        CHECK(out.guards_hold());
        if (dtype == DType::f32) continue;
        Matrix table;
        table.data = from.view().data;
        table.dtype = DType::bf16;
        table.rows = n_from;
        table.cols = s.cols;
        table.row_stride = from.view().stride;
        const DeviceTensor embedded(device, s.rows, s.cols, DType::f32, {}, s.cols + s.gap);
        device.embed(embedded.view(), table, device_ids.data());
        CHECK(n_different(embedded.get(), want) == 0);
        CHECK(embedded.guards_hold());
      }

      // Every second row of the cache is written, from the last on; the others stay as they were.
      const std::vector<float> x = random_cells(s.rows * s.cols, 9);
      const int64_t cache_rows = 2 * s.rows + 1;
      std::vector<int32_t> kv_rows;
      for (int64_t r = 0; r < s.rows; ++r) kv_rows.push_back(static_cast<int32_t>(2 * (s.rows - r) - 1));
      const DeviceTensor rows(device, s.rows, s.cols, DType::f32, x, s.cols + s.gap);
      const DeviceTensor cache(device, cache_rows, s.cols, DType::bf16, {}, s.cols + s.gap);
      const Buffer<int32_t> device_rows(device, kv_rows);
      device.store_rows(cache.view().data, cache.view().stride, rows.view(), device_rows.data());
      std::vector<float> cached(static_cast<size_t>(cache_rows * s.cols), NAN);
      for (int64_t r = 0; r < s.rows; ++r) {
        const int64_t row = kv_rows[static_cast<size_t>(r)];
        for (int64_t c = 0; c < s.cols; ++c)
          cached[static_cast<size_t>(row * s.cols + c)] = rounded_bf16(x[static_cast<size_t>(r * s.cols + c)]);
      }
      CHECK(n_different(cache.get(), cached) == 0);
      CHECK(cache.guards_hold());
    }
  });
}

TEST_CASE("device: rope gives the bits of the CPU for both pairings, and leaves other dims alone") {
  struct Case {
    int64_t n_tokens, n_heads, d_head, first, n_dims, gap;
  };
  const Case cases[] = {{1, 1, 2, 0, 2, 0},  {3, 2, 8, 0, 8, 0},    {4, 3, 12, 4, 6, 5},   {2, 5, 64, 0, 64, 4},
                        {7, 1, 10, 3, 4, 1}, {2, 4, 96, 32, 64, 0}, {1, 17, 80, 0, 20, 0}, {2, 2, 4, 0, 0, 0}};
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const Case& c : cases) {
      for (const bool adjacent : {false, true}) {
        CAPTURE(c.d_head);
        CAPTURE(adjacent);
        const int64_t n_positions = 20;
        const std::vector<float> cos = normal_values(n_positions * c.n_dims / 2, 1);
        const std::vector<float> sin = normal_values(n_positions * c.n_dims / 2, 2);
        std::vector<int32_t> positions;
        for (int64_t t = 0; t < c.n_tokens; ++t) positions.push_back(static_cast<int32_t>((t * 7 + 19) % n_positions));
        const std::vector<float> values = normal_values(c.n_tokens * c.n_heads * c.d_head, 3);
        auto run = [&](Backend& backend) {
          const DeviceTensor x(backend, c.n_tokens, c.n_heads * c.d_head, DType::f32, values,
                               c.n_heads * c.d_head + c.gap);
          const Buffer<float> cosines(backend, cos), sines(backend, sin);
          const Buffer<int32_t> at(backend, positions);
          RopeTable table;
          table.cos = cosines.data();
          table.sin = sines.data();
          table.n_positions = n_positions;
          table.n_dims = c.n_dims;
          table.adjacent = adjacent;
          backend.rope(x.view(), c.n_heads, c.first, table, at.data());
          CHECK(x.guards_hold());
          return x.get();
        };
        CHECK(n_different(run(device), run(*host)) == 0);
      }
    }
  });
}

TEST_CASE("device: edit_rows takes entries in listed order, rows and columns listed twice too") {
  struct Case {
    int64_t n_rows, cols, gap;
    std::vector<int32_t> rows, value_rows, columns;
  };
  std::vector<Case> cases = {
      {1, 1, 0, {0}, {0}, {}},
      {4, 9, 2, {3, 0, 3, 3, 1}, {1, 0, 2, 0, 2}, {}},
      {4, 9, 2, {3, 0, 3, 3, 1}, {1, 0, 2, 0, 2}, {8, 0, 3}},
      {3, 300, 0, {2, 2, 0}, {4, 1, 4}, {299, 5, 5, 7, 5, 0}},
      {5, 130, 0, {}, {}, {}},
  };
  Case many = {70, 20, 1, {}, {}, {}};
  for (int32_t i = 0; i < 200; ++i) {
    many.rows.push_back(i * 11 % 70);
    many.value_rows.push_back(i * 3 % 5);
  }
  cases.push_back(many);
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const Case& c : cases) {
      for (const bool add : {false, true}) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
          CAPTURE(c.rows.size());
          CAPTURE(c.columns.size());
          CAPTURE(add);
          const std::vector<float> x = rounded(normal_values(c.n_rows * c.cols, 1));
          std::vector<float> values = normal_values(5 * (c.cols + 3), 2);
          const Tensor edits(values.data(), 5, c.cols, c.cols + 3);
          const DeviceTensor want(*host, c.n_rows, c.cols, DType::f32, x, c.cols + c.gap);
          const DeviceTensor got(device, c.n_rows, c.cols, dtype, x, c.cols + c.gap);
          host->edit_rows(want.view(), c.rows, edits, c.value_rows, c.columns, add, 0.37f);
          device.edit_rows(got.view(), c.rows, edits, c.value_rows, c.columns, add, 0.37f);
          CHECK(n_different(got.get(), dtype == DType::f32 ? want.get() : rounded(want.get())) == 0);
          CHECK(got.guards_hold());
        }
      }
    }
  });
}

}  // namespace signalbox::test
