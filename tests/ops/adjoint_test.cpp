// Adjoints of ops at sizes that the tiny models of the goldens do not reach: many rows and columns, every stored dtype,
// several blocks of queries and keys. Against naive sums in double; and the same bits whatever the threads and
// instruction set. tests/forward/gradient_test.cpp holds all of them against PyTorch.
#include <numeric>

#include "kernels/cases/attention.h"
#include "tests/ops/op_data.h"

namespace signalbox::test {

namespace {

struct Sizes {
  int64_t m, n, k;
};

// One sequence of n tokens whose keys and values lie in a cache of a row a position.
struct Sequence {
  const cases::Attention& kind;
  int64_t n;
  Guarded q, keys, values, d_out;
  std::vector<int32_t> positions, rows, sequences, blocks;
  std::vector<float> sinks;

  Sequence(const cases::Attention& kind, int64_t n, uint64_t seed)
      : kind(kind),
        n(n),
        q(n, kind.n_heads * kind.d_key, seed),
        keys(n, kind.n_kv_heads * kind.d_key, seed + 1),
        values(n, kind.n_kv_heads * kind.d_value, seed + 2),
        d_out(n, kind.n_heads * kind.d_value, seed + 3),
        positions(static_cast<size_t>(n)),
        rows(static_cast<size_t>(n)),
        sequences(static_cast<size_t>(n), 0),
        blocks(static_cast<size_t>(n)) {
    std::iota(positions.begin(), positions.end(), 0);
    std::iota(rows.begin(), rows.end(), 0);
    std::iota(blocks.begin(), blocks.end(), 0);
    for (int64_t h = 0; h < kind.n_heads; ++h) sinks.push_back(0.3f * static_cast<float>(h) - 0.5f);
  }
  AttentionParams params() const {
    return {kind.n_heads,
            kind.n_kv_heads,
            kind.d_key,
            kind.d_value,
            0.2f,
            kind.window,
            kind.sinks ? sinks.data() : nullptr};
  }
  KvCache cache() {
    return {keys.view().data, values.view().data, keys.view().stride, values.view().stride, DType::f32};
  }
  BatchView view() const {
    BatchView view;
    view.n_tokens = n;
    view.positions = positions.data();
    view.sequences = sequences.data();
    view.kv_rows = rows.data();
    view.block_tables = blocks.data();
    view.max_blocks = n;
    view.block_size = 1;
    view.max_keys = n;
    return view;
  }
};

struct Slopes {
  Guarded q, k, v;
  Slopes(Sequence& s, Backend& backend) : q(s.n, s.q.cols()), k(s.n, s.keys.cols()), v(s.n, s.values.cols()) {
    backend.attention_adjoint(q.view(), k.view(), v.view(), s.d_out.view(), s.q.view(), s.cache(), s.view(),
                              s.params());
  }
};

// The same in double, with the sum of the sizes of all terms beside each value.
struct Naive {
  std::vector<double> q, k, v, q_size, k_size, v_size;
  explicit Naive(Sequence& s)
      : q(static_cast<size_t>(s.n * s.q.cols())),
        k(static_cast<size_t>(s.n * s.keys.cols())),
        v(static_cast<size_t>(s.n * s.values.cols())),
        q_size(q.size()),
        k_size(k.size()),
        v_size(v.size()) {
    const cases::Attention& a = s.kind;
    const AttentionParams params = s.params();
    const double scale = static_cast<double>(params.scale);
    for (int64_t h = 0; h < a.n_heads; ++h) {
      const int64_t g = h / (a.n_heads / a.n_kv_heads);
      for (int64_t i = 0; i < s.n; ++i) {
        const int64_t first = a.window > 0 ? std::max<int64_t>(0, i - a.window + 1) : 0;
        std::vector<double> p, dot;
        double mass = a.sinks ? std::exp(static_cast<double>(s.sinks[static_cast<size_t>(h)])) : 0, along = 0;
        for (int64_t j = first; j <= i; ++j) {
          double score = 0, slope = 0;
          for (int64_t c = 0; c < a.d_key; ++c)
            score +=
                static_cast<double>(s.q.at(i, h * a.d_key + c)) * static_cast<double>(s.keys.at(j, g * a.d_key + c));
          for (int64_t c = 0; c < a.d_value; ++c)
            slope += static_cast<double>(s.d_out.at(i, h * a.d_value + c)) *
                     static_cast<double>(s.values.at(j, g * a.d_value + c));
          p.push_back(std::exp(scale * score));
          dot.push_back(slope);
          mass += p.back();
        }
        for (size_t j = 0; j < p.size(); ++j) along += (p[j] /= mass) * dot[j];
        for (size_t j = 0; j < p.size(); ++j) {
          const int64_t key = first + static_cast<int64_t>(j);
          const double slope = scale * p[j] * (dot[j] - along),
                       size = scale * p[j] * (std::abs(dot[j]) + std::abs(along));
          for (int64_t c = 0; c < a.d_key; ++c) {
            const auto at_q = static_cast<size_t>(i * s.q.cols() + h * a.d_key + c);
            const auto at_k = static_cast<size_t>(key * s.keys.cols() + g * a.d_key + c);
            const double of_key = static_cast<double>(s.keys.at(key, g * a.d_key + c)),
                         of_query = static_cast<double>(s.q.at(i, h * a.d_key + c));
            q[at_q] += slope * of_key;
            q_size[at_q] += size * std::abs(of_key);
            k[at_k] += slope * of_query;
            k_size[at_k] += size * std::abs(of_query);
          }
          for (int64_t c = 0; c < a.d_value; ++c) {
            const auto at = static_cast<size_t>(key * s.values.cols() + g * a.d_value + c);
            const double d = static_cast<double>(s.d_out.at(i, h * a.d_value + c));
            v[at] += p[j] * d;
            v_size[at] += p[j] * std::abs(d);
          }
        }
      }
    }
  }
};

int64_t n_wrong(Guarded& got, const std::vector<double>& want, const std::vector<double>& size) {
  int64_t wrong = 0;
  for (int64_t r = 0; r < got.rows(); ++r) {
    for (int64_t c = 0; c < got.cols(); ++c) {
      const auto at = static_cast<size_t>(r * got.cols() + c);
      wrong += !near(got.at(r, c), want[at], size[at], tolerance::adjoint);
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("adjoint of matmul: every dtype and shape against double, guards untouched") {
  for (const std::string& isa : machine_isas()) {
    const auto backend = cpu(isa);
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::mxfp4, DType::int8, DType::int4}) {
      for (const Sizes& s : {Sizes{1, 5, 32}, Sizes{33, 40, 96}, Sizes{70, 130, 320}}) {
        if (isa == "scalar" && s.m == 70) continue;
        for (const bool add : {false, true}) {
          Guarded d_out(s.m, s.n, 1), d_x(s.m, s.k, 9);
          Guarded before = d_x;
          const StoredMatrix w(dtype, s.n, s.k, 2, in_blocks(dtype) ? 32 : 3);
          backend->matmul_adjoint(d_x.view(), d_out.view(), w.matrix(), add);
          int64_t wrong = 0;
          for (int64_t r = 0; r < s.m; ++r) {
            for (int64_t k = 0; k < s.k; ++k) {
              double sum = add ? static_cast<double>(before.at(r, k)) : 0, size = std::abs(sum);
              for (int64_t n = 0; n < s.n; ++n) {
                const double term = static_cast<double>(d_out.at(r, n)) * w.value(n, k);
                sum += term;
                size += std::abs(term);
              }
              wrong += !near(d_x.at(r, k), sum, size, tolerance::adjoint);
            }
          }
          INFO(isa, " ", dtype_name(dtype), " ", s.m, " x ", s.n, " x ", s.k, add ? " added" : "");
          CHECK(wrong == 0);
          CHECK(d_x.guards_hold());
        }
      }
    }
  }
}

TEST_CASE("adjoint of rmsnorm: along x only epsilon is left, x . d_x = (x . g) / r * eps / r^2") {
  for (const std::string& isa : machine_isas()) {
    const auto backend = cpu(isa);
    for (const int64_t n : {5, 64, 200})
      for (const float eps : {1e-6f, 1e-2f, 0.7f}) {
        Guarded x(7, n, 1), d_out(7, n, 2), d_x(7, n), weight(1, n, 3);
        backend->rmsnorm_adjoint(d_x.view(), d_out.view(), x.view(), {weight.view().data, n}, eps, false);
        for (int64_t r = 0; r < 7; ++r) {
          double squares = 0, with_g = 0, with_slope = 0, size = 0;
          for (int64_t c = 0; c < n; ++c) {
            const double own = static_cast<double>(x.at(r, c)), slope = static_cast<double>(d_x.at(r, c));
            squares += own * own / static_cast<double>(n);
            with_g += own * static_cast<double>(weight.at(0, c)) * static_cast<double>(d_out.at(r, c));
            with_slope += own * slope;
            size += std::abs(own * slope);
          }
          const double r2 = squares + static_cast<double>(eps);
          INFO(isa, " ", n, " ", eps);
          CHECK(near(static_cast<float>(with_slope), with_g / std::sqrt(r2) * static_cast<double>(eps) / r2, size,
                     tolerance::adjoint));
        }
        CHECK(d_x.guards_hold());
      }
  }
}

TEST_CASE("adjoint of attention: every kind against double, and the same bits for all threads and instruction sets") {
  for (const cases::Attention& kind : cases::attentions) {
    if (kind.latent) continue;  // its values lie within its keys: the goldens' models have it
    Sequence s(kind, kind.d_key > 40 ? 40 : 75, 3);
    INFO(kind.n_heads, " heads of ", kind.d_key, ", window ", kind.window);
    const Naive want(s);
    const auto one = cpu("auto", 1);
    Slopes got(s, *one);
    CHECK(n_wrong(got.q, want.q, want.q_size) == 0);
    CHECK(n_wrong(got.k, want.k, want.k_size) == 0);
    CHECK(n_wrong(got.v, want.v, want.v_size) == 0);
    CHECK((got.q.guards_hold() && got.k.guards_hold() && got.v.guards_hold()));
    for (const std::string& isa : machine_isas()) {
      const auto other = cpu(isa, 3);
      Slopes again(s, *other);
      CHECK((same_bits(got.q.view(), again.q.view()) && same_bits(got.k.view(), again.k.view()) &&
             same_bits(got.v.view(), again.v.view())));
    }
  }
}

TEST_CASE("adjoint of attention: a sequence that is not whole is refused") {
  Sequence s(cases::attentions[0], 6, 1);
  for (int32_t& position : s.positions) ++position;
  const auto backend = cpu();
  CHECK_THROWS_WITH(
      Slopes(s, *backend),
      "gradient: expected every sequence of the batch from its first position on, found position 1 without "
      "the ones before it");
}

}  // namespace signalbox::test
