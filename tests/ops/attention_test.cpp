// Attention against a naive softmax in double, over paged caches; and bits that depend on a query's own keys only.
#include "kernels/cases/attention.h"

#include "tests/ops/op_data.h"

namespace signalbox::test {

namespace {

using Shape = cases::Attention;

enum class Op { attention, pattern };

// Several sequences, each with all its tokens 0 .. length - 1 in the cache, in scrambled blocks; cache rows that no
// position owns hold NaN.
struct Case {
  Case(const Shape& s, std::vector<int32_t> lengths_, uint64_t seed) : shape(s), lengths(std::move(lengths_)) {
    Noise noise(seed);
    int32_t blocks = 0;
    for (const int32_t n : lengths) max_blocks = std::max<int64_t>(max_blocks, (n + s.block_size - 1) / s.block_size);
    for (const int32_t n : lengths) {
      for (int64_t b = 0; b < max_blocks; ++b) tables.push_back(b * s.block_size < n ? blocks++ : -1);
    }
    const int32_t n_blocks = blocks;
    for (int32_t& b : tables) b = b < 0 ? b : (b * 7 + 3) % n_blocks;  // a permutation unless 7 divides
    if (n_blocks % 7 == 0) {
      int32_t next = n_blocks;
      for (int32_t& b : tables) b = b < 0 ? b : --next;
    }
    key_stride = s.n_kv_heads * s.d_key + 2;
    value_stride = s.latent ? key_stride : s.n_kv_heads * s.d_value + 1;
    const int64_t rows = n_blocks * s.block_size;
    keys.assign(static_cast<size_t>(rows * key_stride), std::nanf(""));
    values.assign(static_cast<size_t>(rows * value_stride), std::nanf(""));
    for (size_t i = 0; i < lengths.size(); ++i) {
      for (int32_t p = 0; p < lengths[i]; ++p) {
        for (int64_t d = 0; d < s.n_kv_heads * s.d_key; ++d)
          keys[static_cast<size_t>(row(i, p) * key_stride + d)] = noise.normal();
        for (int64_t d = 0; d < s.n_kv_heads * s.d_value; ++d)
          values[static_cast<size_t>(row(i, p) * value_stride + d)] = noise.normal();
      }
    }
    for (int64_t h = 0; h < s.n_heads; ++h) sinks.push_back(noise.normal() * 2);
  }
  int64_t row(size_t sequence, int64_t p) const {
    return tables[sequence * static_cast<size_t>(max_blocks) + static_cast<size_t>(p / shape.block_size)] *
               shape.block_size +
           p % shape.block_size;
  }
  const float* key(size_t i, int64_t p, int64_t g) const {
    return &keys[static_cast<size_t>(row(i, p) * key_stride + g * shape.d_key)];
  }
  const float* value(size_t i, int64_t p, int64_t g) const {
    return shape.latent ? key(i, p, g) : &values[static_cast<size_t>(row(i, p) * value_stride + g * shape.d_value)];
  }
  AttentionParams params() const {
    AttentionParams a;
    a.n_heads = shape.n_heads;
    a.n_kv_heads = shape.n_kv_heads;
    a.d_key = shape.d_key;
    a.d_value = shape.d_value;
    a.scale = 0.3f;
    a.window = shape.window;
    a.sinks = shape.sinks ? sinks.data() : nullptr;
    return a;
  }
  void run(Backend& backend, Tensor out, Tensor q, const std::vector<int32_t>& sequences,
           const std::vector<int32_t>& positions, int64_t first = 0, Op op = Op::attention) {
    KvCache cache;
    cache.keys = keys.data();
    cache.values = shape.latent ? keys.data() : values.data();
    cache.key_stride = key_stride;
    cache.value_stride = value_stride;
    BatchView batch;
    batch.n_tokens = q.rows;
    batch.positions = positions.data() + first;
    batch.sequences = sequences.data() + first;
    batch.block_tables = tables.data();
    batch.max_blocks = max_blocks;
    batch.block_size = shape.block_size;
    op == Op::attention ? backend.attention(out, q, cache, batch, params())
                        : backend.attention_pattern(out, q, cache, batch, params());
  }

  Shape shape;
  std::vector<int32_t> lengths, tables;
  int64_t max_blocks = 0, key_stride = 0, value_stride = 0;
  std::vector<float> keys, values, sinks;
};

// The keys that a token sees from `first` on, as a head's softmax in double weighs them.
struct Shares {
  int64_t first = 0;
  std::vector<double> of_key;
};
Shares naive_shares(const Case& c, Guarded& q, int64_t t, int64_t h, size_t sequence, int64_t position) {
  const Shape& s = c.shape;
  Shares shares;
  shares.first = s.window > 0 ? std::max<int64_t>(0, position - s.window + 1) : 0;
  double mass = s.sinks ? std::exp(static_cast<double>(c.sinks[static_cast<size_t>(h)])) : 0;
  for (int64_t p = shares.first; p <= position; ++p) {
    double score = 0;
    for (int64_t d = 0; d < s.d_key; ++d)
      score += static_cast<double>(q.at(t, h * s.d_key + d)) *
               static_cast<double>(c.key(sequence, p, h / (s.n_heads / s.n_kv_heads))[d]);
    shares.of_key.push_back(std::exp(score * static_cast<double>(0.3f)));
    mass += shares.of_key.back();
  }
  for (double& share : shares.of_key) share /= mass;
  return shares;
}

int64_t count_wrong(const Case& c, Guarded& out, Guarded& q, const std::vector<int32_t>& sequences,
                    const std::vector<int32_t>& positions) {
  const Shape& s = c.shape;
  int64_t wrong = 0;
  for (int64_t t = 0; t < q.rows(); ++t) {
    const size_t i = static_cast<size_t>(sequences[static_cast<size_t>(t)]);
    for (int64_t h = 0; h < s.n_heads; ++h) {
      const Shares shares = naive_shares(c, q, t, h, i, positions[static_cast<size_t>(t)]);
      for (int64_t d = 0; d < s.d_value; ++d) {
        double want = 0, magnitude = 0;
        for (size_t j = 0; j < shares.of_key.size(); ++j) {
          const float* value = c.value(i, shares.first + static_cast<int64_t>(j), h / (s.n_heads / s.n_kv_heads));
          const double term = shares.of_key[j] * static_cast<double>(value[d]);
          want += term, magnitude += std::abs(term);
        }
        wrong += !near(out.at(t, h * s.d_value + d), want, magnitude, tolerance::attention);
      }
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("attention: prompts and single tokens of several sequences against double") {
  for (const Shape& s : cases::attentions) {
    Case c(s, {1, 70, 131, 9}, 3);
    std::vector<int32_t> sequences, positions;
    for (int32_t p = 0; p < 70; ++p) sequences.push_back(1), positions.push_back(p);    // a whole prompt
    for (int32_t p = 90; p < 131; ++p) sequences.push_back(2), positions.push_back(p);  // a later chunk
    sequences.push_back(0), positions.push_back(0);                                     // single tokens
    sequences.push_back(3), positions.push_back(8);
    sequences.push_back(3), positions.push_back(3);
    const int64_t n = static_cast<int64_t>(positions.size());
    Guarded q(n, s.n_heads * s.d_key, 4);
    Guarded want(n, s.n_heads * s.d_value);
    for (const std::string& isa : machine_isas()) {
      const auto backend = cpu(isa, 2);
      Guarded out(n, s.n_heads * s.d_value);
      c.run(*backend, out.view(), q.view(), sequences, positions);
      CHECK(out.guards_hold());
      if (isa == "scalar") {
        CHECK(count_wrong(c, out, q, sequences, positions) == 0);
        c.run(*backend, want.view(), q.view(), sequences, positions);
      }
      CHECK(same_bits(out.view(), want.view()));
      // Row by row, and in chunks of 13, with other thread counts.
      for (const int64_t chunk : {int64_t{1}, int64_t{13}}) {
        const auto other = cpu(isa, chunk == 1 ? 1 : 3);
        Guarded parts(n, s.n_heads * s.d_value);
        for (int64_t t = 0; t < n; t += chunk) {
          const int64_t rows = std::min(chunk, n - t);
          c.run(*other, Tensor(parts.view().row(t), rows, parts.cols(), parts.cols() + 3),
                Tensor(q.view().row(t), rows, q.cols(), q.cols() + 3), sequences, positions, t);
        }
        CHECK(same_bits(parts.view(), want.view()));
      }
    }
  }
}

TEST_CASE("attention: long contexts, with work split over keys or not" *
          doctest::test_suite("repeats: the same kernels, over longer contexts")) {
  for (const Shape& s : {Shape{4, 1, 48, 32, 0, 64, false, true, 0}, Shape{2, 1, 32, 32, 700, 64, true, false, 0},
                         Shape{2, 2, 32, 32, 0, 64, false, false, 0}}) {
    Case c(s, {2300, 1024}, 5);
    std::vector<int32_t> sequences, positions;
    for (int32_t p = 2240; p < 2300; ++p) sequences.push_back(0), positions.push_back(p);
    for (const int32_t p : {511, 512, 513, 1023}) sequences.push_back(1), positions.push_back(p);
    const int64_t n = static_cast<int64_t>(positions.size());
    Guarded q(n, s.n_heads * s.d_key, 4), want(n, s.n_heads * s.d_value);
    c.run(*cpu("auto", 1), want.view(), q.view(), sequences, positions);
    CHECK(count_wrong(c, want, q, sequences, positions) == 0);
    for (const std::string& isa : machine_isas()) {
      for (const int n_threads : {2, 3}) {
        const auto backend = cpu(isa, n_threads);
        Guarded all(n, want.cols()), one(n, want.cols());
        c.run(*backend, all.view(), q.view(), sequences, positions);
        for (int64_t t = 0; t < n; ++t) c.run(*backend, one.row(t), q.row(t), sequences, positions, t);
        CHECK(same_bits(all.view(), want.view()));
        CHECK(same_bits(one.view(), want.view()));
      }
    }
  }
}

TEST_CASE("attention: the pattern against double, and its bits in any company") {
  for (const Shape& s : cases::attentions) {
    Case c(s, {1, 70, 131, 9}, 3);
    std::vector<int32_t> sequences, positions;
    for (int32_t p = 0; p < 70; ++p) sequences.push_back(1), positions.push_back(p);
    for (int32_t p = 120; p < 131; ++p) sequences.push_back(2), positions.push_back(p);
    sequences.push_back(0), positions.push_back(0);
    const int64_t n = static_cast<int64_t>(positions.size()), n_keys = 133;
    Guarded q(n, s.n_heads * s.d_key, 4), want(n, s.n_heads * n_keys);
    c.run(*cpu("scalar", 1), want.view(), q.view(), sequences, positions, 0, Op::pattern);
    int64_t wrong = 0;
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t h = 0; h < s.n_heads; ++h) {
        const Shares shares = naive_shares(c, q, t, h, static_cast<size_t>(sequences[static_cast<size_t>(t)]),
                                           positions[static_cast<size_t>(t)]);
        for (int64_t p = 0; p < n_keys; ++p) {
          const float found = want.at(t, h * n_keys + p);
          const int64_t j = p - shares.first;
          if (j < 0 || j >= static_cast<int64_t>(shares.of_key.size())) {
            wrong += found != 0;
          } else {
            const double share = shares.of_key[static_cast<size_t>(j)];
            wrong += !near(found, share, share, tolerance::attention_pattern);
          }
        }
      }
    }
    CHECK(wrong == 0);
    for (const std::string& isa : machine_isas()) {
      Guarded all(n, want.cols()), one(n, want.cols());
      c.run(*cpu(isa, 3), all.view(), q.view(), sequences, positions, 0, Op::pattern);
      for (int64_t t = 0; t < n; ++t) c.run(*cpu(isa, 1), one.row(t), q.row(t), sequences, positions, t, Op::pattern);
      CHECK(all.guards_hold());
      CHECK(same_bits(all.view(), want.view()));
      CHECK(same_bits(one.view(), want.view()));
    }
  }
}

TEST_CASE("attention: no tokens") {
  Case c(cases::attentions[0], {4}, 3);
  Guarded q(0, 64), out(0, 64);
  c.run(*cpu(), out.view(), q.view(), {}, {});
  CHECK(out.guards_hold());
}

}  // namespace signalbox::test
