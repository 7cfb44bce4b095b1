// Attention over paged caches of bf16 on a device: against the CPU backend on the same values, and bits that depend on
// a query's own keys only where the backend is invariant.
#include "kernels/cases/attention.h"

#include <cmath>
#include <vector>

#include "doctest/doctest.h"
#include "tests/device/device.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

using Shape = cases::Attention;

// The rows of a batch: tokens first .. last - 1 of a sequence.
struct Chunk {
  int32_t sequence, first, last;
};

struct Rows {
  explicit Rows(const std::vector<Chunk>& chunks) {
    for (const Chunk& c : chunks) {
      for (int32_t p = c.first; p < c.last; ++p) sequences.push_back(c.sequence), positions.push_back(p);
    }
  }
  int64_t n() const { return static_cast<int64_t>(positions.size()); }
  Rows slice(int64_t first, int64_t last) const {
    Rows rows({});
    rows.sequences.assign(sequences.begin() + first, sequences.begin() + last);
    rows.positions.assign(positions.begin() + first, positions.begin() + last);
    return rows;
  }
  int64_t max_keys() const {
    int64_t most = 0;
    for (const int32_t p : positions) most = std::max<int64_t>(most, p + 1);
    return most;
  }
  std::vector<int32_t> sequences, positions;
};

// Sequences whose tokens 0 .. length - 1 lie in scrambled blocks. Everything else in the caches is NaN. Blocks before
// `first_needed` of a sequence are not owned any more: the table says -1.
struct Case {
  Case(const Shape& s, const std::vector<int32_t>& lengths, const std::vector<int32_t>& first_needed, uint64_t seed)
      : shape(s) {
    Noise noise(seed);
    for (const int32_t n : lengths) max_blocks = std::max<int64_t>(max_blocks, (n + s.block_size - 1) / s.block_size);
    int32_t n_blocks = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
      for (int64_t b = 0; b < max_blocks; ++b) {
        const bool owned = b * s.block_size < lengths[i] && (b + 1) * s.block_size > first_needed[i];
        tables.push_back(owned ? n_blocks++ : -1);
      }
    }
    std::vector<int32_t> place(static_cast<size_t>(n_blocks));
    for (int32_t i = 0; i < n_blocks; ++i) place[static_cast<size_t>(i)] = i;
    for (size_t i = place.size(); i > 1; --i) {
      std::swap(place[i - 1], place[static_cast<size_t>(noise.below(static_cast<int64_t>(i)))]);
    }
    for (int32_t& b : tables) b = b < 0 ? b : place[static_cast<size_t>(b)];
    key_cols = s.n_kv_heads * s.d_key;
    value_cols = s.n_kv_heads * s.d_value;
    rows = n_blocks * s.block_size;
    keys.assign(static_cast<size_t>(rows * key_cols), std::nanf(""));
    values.assign(static_cast<size_t>(rows * value_cols), std::nanf(""));
    for (size_t i = 0; i < lengths.size(); ++i) {
      for (int64_t p = 0; p < lengths[i]; ++p) {
        const int32_t block = tables[i * static_cast<size_t>(max_blocks) + static_cast<size_t>(p / s.block_size)];
        if (block < 0 || p < first_needed[i]) continue;
        const int64_t row = block * s.block_size + p % s.block_size;
        float* key = &keys[static_cast<size_t>(row * key_cols)];
        float* value = &values[static_cast<size_t>(row * value_cols)];
        for (int64_t d = 0; d < key_cols; ++d) key[d] = rounded_bf16(noise.normal());
        for (int64_t d = 0; d < value_cols; ++d) value[d] = s.latent ? key[d] : rounded_bf16(noise.normal());
      }
    }
    for (int64_t h = 0; h < s.n_heads; ++h) sinks.push_back(noise.normal() * 2);
  }

  // The op on any backend, with caches and activations of its dtypes. max_keys 0: that of the rows. n_keys > 0: the
  // pattern over so many keys instead.
  std::vector<float> run(Backend& backend, const Rows& batch_rows, const std::vector<float>& q, int64_t max_keys = 0,
                         int64_t q_gap = 4, int64_t out_gap = 4, int64_t n_keys = 0) const {
    const DType kv = backend.kv_dtype(), operand = backend.operand_dtype();
    const DeviceTensor device_keys(backend, rows, key_cols, kv, keys, key_cols + shape.gap);
    const DeviceTensor device_values(backend, rows, value_cols, kv, values, value_cols + shape.gap);
    const Buffer<int32_t> positions(backend, batch_rows.positions), sequences(backend, batch_rows.sequences);
    const Buffer<int32_t> device_tables(backend, tables);
    const Buffer<float> device_sinks(backend, sinks);
    const int64_t n = batch_rows.n(), q_cols = shape.n_heads * shape.d_key, out_cols = shape.n_heads * shape.d_value;
    const DeviceTensor device_q(backend, n, q_cols, DType::f32, q, q_cols + q_gap);
    const DeviceTensor out(backend, n, out_cols, operand, {}, out_cols + out_gap);
    const int64_t pattern_cols = shape.n_heads * n_keys;
    const DeviceTensor pattern(backend, n, pattern_cols, DType::f32, {}, pattern_cols + out_gap);
    KvCache cache;
    cache.keys = device_keys.view().data;
    cache.values = shape.latent ? cache.keys : device_values.view().data;
    cache.key_stride = key_cols + shape.gap;
    cache.value_stride = shape.latent ? cache.key_stride : value_cols + shape.gap;
    cache.dtype = kv;
    BatchView batch;
    batch.n_tokens = n;
    batch.positions = positions.data();
    batch.sequences = sequences.data();
    batch.block_tables = device_tables.data();
    batch.max_blocks = max_blocks;
    batch.block_size = shape.block_size;
    batch.max_keys = max_keys != 0 ? max_keys : batch_rows.max_keys();
    AttentionParams a;
    a.n_heads = shape.n_heads;
    a.n_kv_heads = shape.n_kv_heads;
    a.d_key = shape.d_key;
    a.d_value = shape.d_value;
    a.scale = 1.5f / std::sqrt(static_cast<float>(shape.d_key));
    a.window = shape.window;
    a.sinks = shape.sinks ? device_sinks.data() : nullptr;
    if (n_keys > 0) {
      backend.attention_pattern(pattern.view(), device_q.view(), cache, batch, a);
      CHECK(pattern.guards_hold());
      return pattern.get();
    }
    backend.attention(out.view(), device_q.view(), cache, batch, a);
    CHECK(out.guards_hold());
    return out.get();
  }

  std::vector<float> queries(const Rows& batch_rows, uint64_t seed) const {
    return normal_values(batch_rows.n() * shape.n_heads * shape.d_key, seed, true);
  }

  Shape shape;
  std::vector<int32_t> tables;
  int64_t max_blocks = 0, key_cols = 0, value_cols = 0, rows = 0;
  std::vector<float> keys, values, sinks;
};

Worst against(const std::vector<float>& want, const std::vector<float>& got) {
  return compare(got, want, tolerance::device_attention.absolute, tolerance::device_attention.relative);
}

// Rows first .. last - 1 of a flat [n, width] vector.
std::vector<float> slice(const std::vector<float>& all, int64_t width, int64_t first, int64_t last) {
  return {all.begin() + first * width, all.begin() + last * width};
}

void check_against_cpu(const Shape& s, const std::vector<int32_t>& lengths, const std::vector<Chunk>& chunks,
                       const std::vector<int64_t>& key_bounds = {0}) {
  std::vector<int32_t> first_needed(lengths.size(), 0);
  if (s.window > 0) {
    for (size_t i = 0; i < lengths.size(); ++i) first_needed[i] = lengths[i];
    for (const Chunk& c : chunks) {
      int32_t& first = first_needed[static_cast<size_t>(c.sequence)];
      first = std::min(first, std::max<int32_t>(0, c.first - static_cast<int32_t>(s.window) + 1));
    }
  }
  const Case c(s, lengths, first_needed, 3);
  const Rows rows(chunks);
  const std::vector<float> q = c.queries(rows, 4);
  const std::vector<float> want = c.run(*cpu(), rows, q);
  for_each_device([&](Backend& device, const std::string& what) {
    for (const int64_t bound : key_bounds) {
      const std::vector<float> got = c.run(device, rows, q, bound);
      const Worst worst = against(want, got);
      INFO(what << ", heads " << s.n_heads << "/" << s.n_kv_heads << ", dims " << s.d_key << "/" << s.d_value
                << ", window " << s.window << ", bound " << bound << ": " << worst.text);
      CHECK(worst.excess == 0);
    }
  });
}

}  // namespace

TEST_CASE("device attention: prompts, chunks and single tokens together") {
  for (const Shape& s : cases::attentions) {
    check_against_cpu(s, {1, 70, 131, 9, 66}, {{1, 0, 70}, {2, 90, 131}, {0, 0, 1}, {3, 8, 9}, {4, 65, 66}, {3, 3, 4}});
    check_against_cpu(s, {1, 70, 131, 9}, {{2, 130, 131}, {0, 0, 1}, {1, 62, 66}, {3, 8, 9}}, {0, 200});
  }
}

TEST_CASE("device attention: heads of every class") {
  for (const Shape& s : cases::head_classes) check_against_cpu(s, {67, 40}, {{0, 33, 66}, {1, 39, 40}});
}

TEST_CASE("device attention: the pattern") {
  const Shape shapes[] = {
      {4, 4, 16, 16, 0, 16, false, false, 8},  {6, 2, 20, 12, 0, 8, false, false, 3},
      {4, 2, 16, 16, 5, 4, true, false, 8},    {8, 1, 40, 24, 0, 32, false, true, 8},
      {2, 1, 576, 512, 0, 32, false, true, 0},
  };
  for (const Shape& s : shapes) {
    const Case c(s, {1, 70, 131}, {0, 0, 0}, 3);
    const Rows rows({{1, 30, 70}, {2, 125, 131}, {0, 0, 1}});
    const std::vector<float> q = c.queries(rows, 4), want = c.run(*cpu(), rows, q, 0, 4, 4, 140);
    for_each_device([&](Backend& device, const std::string& what) {
      const Worst worst = compare(c.run(device, rows, q, 0, 4, 4, 140), want, tolerance::device_pattern.absolute,
                                  tolerance::device_pattern.relative);
      INFO(what << ": " << worst.text);
      CHECK(worst.excess == 0);
      CHECK(c.run(device, rows.slice(3, 5), slice(q, s.n_heads * s.d_key, 3, 5), 0, 4, 4, 140) ==
            slice(c.run(device, rows, q, 0, 4, 4, 140), s.n_heads * 140, 3, 5));
    });
  }
}

TEST_CASE("device attention: a single token of every class") {
  const Shape shapes[] = {
      {4, 2, 64, 64, 0, 32, true, false, 0},     {8, 2, 128, 128, 0, 32, false, false, 0},
      {8, 2, 128, 128, 128, 32, true, false, 0}, {2, 2, 192, 128, 0, 32, false, false, 0},
      {16, 1, 576, 512, 0, 32, false, true, 0},  {33, 1, 300, 290, 0, 32, true, true, 3},
  };
  for (const Shape& s : shapes) {
    for (const int32_t p : {0, 63, 64, 300}) {
      if (p < 64 && s.d_key > 128) continue;
      check_against_cpu(s, {p + 1}, {{0, p, p + 1}}, {0, 512});
    }
  }
}

TEST_CASE("device attention: many sequences decode at once") {
  std::vector<int32_t> lengths;
  std::vector<Chunk> chunks;
  for (int32_t i = 0; i < 41; ++i) lengths.push_back(1 + i * 37 % 149);
  for (int32_t i = 40; i >= 0; --i) {
    const int32_t n = lengths[static_cast<size_t>(i)];
    chunks.push_back({i, n - 1, n});
  }
  check_against_cpu({4, 4, 16, 16, 0, 32, false, false, 0}, lengths, chunks);
  check_against_cpu({16, 2, 16, 16, 0, 32, true, false, 0}, lengths, chunks);
  check_against_cpu({8, 2, 32, 32, 50, 32, true, false, 0}, lengths, chunks);
}

TEST_CASE("device attention: keys split over blocks") {
  const std::vector<int32_t> lengths = {700, 530};
  for (const int64_t window : {int64_t{0}, int64_t{200}, int64_t{1}}) {
    const Shape s = {4, 1, 32, 24, window, 32, window != 1, false, 0};
    check_against_cpu(s, lengths, {{0, 696, 700}, {1, 529, 530}}, {0, 1000, 4096});
    check_against_cpu(s, lengths, {{0, 380, 390}, {1, 0, 1}, {1, 511, 514}});
    check_against_cpu(s, lengths, {{0, 500, 580}});
  }
}

TEST_CASE("device attention: large scores, a sink that takes everything") {
  Case c({2, 1, 16, 16, 0, 32, true, false, 0}, {90}, {0}, 3);
  c.sinks = {300.f, -300.f};
  const Rows rows({{0, 40, 90}});
  std::vector<float> q = c.queries(rows, 4);
  for (float& x : q) x *= 64;
  const std::vector<float> want = c.run(*cpu(), rows, q);
  for_each_device([&](Backend& device, const std::string& what) {
    const Worst worst = against(want, c.run(device, rows, q));
    INFO(what << ": " << worst.text);
    CHECK(worst.excess == 0);
  });
}

TEST_CASE("device attention: an invariant backend gives the same bits in any company" *
          doctest::test_suite("repeats: the same kernels on the same values, to compare bits")) {
  const Shape shapes[] = {
      {16, 2, 32, 32, 0, 32, true, false, 0},  // all rows take tiles of 64, few take tiles of 16
      {2, 2, 16, 16, 90, 16, false, false, 0},
      {8, 1, 320, 256, 0, 32, false, true, 0},
  };
  for (const Shape& s : shapes) {
    const bool big = s.d_key > 256;
    const int32_t length = big ? 524 : 570;  // a few keys of the second split
    const Case c(s, {length, 131}, {0, 0}, 3);
    const Rows rows({{0, length - (big ? 28 : 36), length}, {1, 128, 131}, {0, 509, 514}, {1, 0, 1}});
    const int64_t n = rows.n(), q_width = s.n_heads * s.d_key, out_width = s.n_heads * s.d_value;
    const std::vector<float> q = c.queries(rows, 4);
    const std::vector<float> exact = c.run(*cpu(), rows, q);
    for_each_device(
        [&](Backend& device, const std::string& what) {
          const std::vector<float> whole = c.run(device, rows, q);
          CHECK(against(exact, whole).excess == 0);
          CHECK(c.run(device, rows, q, 4096) == whole);
          for (const int64_t step : {int64_t{1}, int64_t{7}}) {
            INFO(what << ", dims " << s.d_key << ", rows by " << step);
            bool same = true;
            for (int64_t t = step == 1 || big ? n - 9 : 0; t < n; t += step) {
              const int64_t end = std::min(t + step, n);
              const std::vector<float> part = c.run(device, rows.slice(t, end), slice(q, q_width, t, end));
              same = same && part == slice(whole, out_width, t, end);
            }
            CHECK(same);
          }
        },
        true);
  }
}

TEST_CASE("device attention: misaligned queries and outputs, and no tokens") {
  const Case c({3, 1, 20, 21, 0, 32, false, false, 0}, {80}, {0}, 3);
  const Rows rows({{0, 60, 80}}), none({});
  const std::vector<float> q = c.queries(rows, 4), want = c.run(*cpu(), rows, q);
  for_each_device([&](Backend& device, const std::string& what) {
    const Worst worst = against(want, c.run(device, rows, q, 0, 3, 1));
    INFO(what << ": " << worst.text);
    CHECK(worst.excess == 0);
    CHECK(c.run(device, none, {}).empty());
  });
}

}  // namespace signalbox::test
