#include "tools/bench/op_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"

namespace signalbox {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The fastest of the calls that fit into `budget` seconds, three at least. Other work on the machine only ever adds.
template <class F>
double fastest(double budget, F f) {
  double best = 1e30;
  const double start = now();
  for (int i = 0; i < 3 || now() - start < budget; ++i) {
    const double begin = now();
    f();
    best = std::min(best, now() - begin);
  }
  return best;
}

int thread_count(const CpuOptions& options) {
  return options.n_threads > 0 ? options.n_threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// Values between -1 and 1 without a pattern that matters.
float value(uint64_t i) {
  uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ull;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9ull;
  return static_cast<float>(static_cast<int64_t>(x >> 40) - (1 << 23)) * 0x1p-23f;
}

std::vector<float> values(int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = value(i);
  return v;
}

// bf16 weights [rows, cols].
class Weights {
 public:
  Weights(int64_t rows, int64_t cols) : data_(static_cast<size_t>(rows * cols)), rows_(rows), cols_(cols) {
    for (size_t i = 0; i < data_.size(); ++i) {
      const float x = value(i % 65521);
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      data_[i] = static_cast<uint16_t>(bits >> 16);
    }
  }
  Matrix matrix() const { return rows(0, rows_); }
  Matrix rows(int64_t first, int64_t count) const {
    Matrix m;
    m.data = data_.data() + first * cols_;
    m.dtype = DType::bf16;
    m.rows = count;
    m.cols = cols_;
    m.row_stride = cols_;
    return m;
  }

 private:
  std::vector<uint16_t> data_;
  int64_t rows_, cols_;
};

std::string shape(std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  std::string text;
  for (const auto& [name, size] : sizes) {
    if (!text.empty()) text += ' ';
    text += name;
    text += '=';
    text += std::to_string(size);
  }
  return text;
}

struct Bench {
  const OpBenchOptions& options;
  const std::function<void(const OpSpeed&)>& report;
  std::unique_ptr<Backend> backend;

  template <class F>
  void measure(const char* op, std::string sizes, double flops, double bytes, F f) {
    OpSpeed speed;
    speed.op = op;
    speed.shape = std::move(sizes);
    speed.flops = flops;
    speed.bytes = bytes;
    speed.seconds = fastest(options.seconds_per_op, f);
    report(speed);
  }

  void matmul(int64_t m, int64_t n, int64_t k) {
    const Weights w(n, k);
    std::vector<float> x = values(m * k), out(static_cast<size_t>(m * n));
    const double mnk = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    measure("matmul bf16", shape({{"m", m}, {"n", n}, {"k", k}}), 2 * mnk,
            2. * static_cast<double>(n * k) + 4. * static_cast<double>(m * n),
            [&] { backend->matmul(Tensor(out.data(), m, n), Tensor(x.data(), m, k), w.matrix(), {}); });
  }

  std::shared_ptr<void> cache_rows(int64_t n) {
    const std::vector<float> host = values(n);
    std::shared_ptr<void> memory = backend->allocate(host.size() * sizeof(float));
    backend->upload(memory.get(), host.data(), host.size() * sizeof(float));
    return memory;
  }

  // n_tokens queries at the end of a context of n_keys, one sequence.
  void attention(const char* name, int64_t n_tokens, int64_t n_keys, AttentionParams params, bool latent) {
    const int64_t key_width = params.n_kv_heads * params.d_key, value_width = params.n_kv_heads * params.d_value;
    const int64_t block = 64, n_blocks = (n_keys + block - 1) / block;
    const auto keys = cache_rows(n_blocks * block * key_width);
    const auto own_values = latent ? keys : cache_rows(n_blocks * block * value_width);
    std::vector<float> q = values(n_tokens * params.n_heads * params.d_key);
    std::vector<float> out(static_cast<size_t>(n_tokens * params.n_heads * params.d_value));
    std::vector<int32_t> table(static_cast<size_t>(n_blocks)), positions(static_cast<size_t>(n_tokens)), sequences(positions.size(), 0);
    std::iota(table.begin(), table.end(), 0);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(n_keys - n_tokens));
    KvCache cache{static_cast<float*>(keys.get()), static_cast<float*>(own_values.get()), key_width,
                  latent ? key_width : value_width};
    BatchView batch;
    batch.n_tokens = n_tokens;
    batch.positions = positions.data();
    batch.sequences = sequences.data();
    batch.block_tables = table.data();
    batch.max_blocks = n_blocks;
    batch.block_size = block;
    params.scale = 0.1f;
    double pairs = 0;
    for (const int32_t p : positions) pairs += p + 1;
    measure(name, shape({{"tokens", n_tokens}, {"keys", n_keys}, {"heads", params.n_heads}, {"kv_heads", params.n_kv_heads}, {"d_key", params.d_key}}),
            2 * pairs * static_cast<double>(params.n_heads * (params.d_key + params.d_value)),
            4. * static_cast<double>(n_keys * (key_width + (latent ? 0 : value_width))), [&] {
              backend->attention(Tensor(out.data(), n_tokens, params.n_heads * params.d_value),
                                 Tensor(q.data(), n_tokens, params.n_heads * params.d_key), cache, batch, params);
            });
  }

  // A routed block: 64 experts of 2048 x 1408, six a token, tokens spread evenly.
  void experts(int64_t n_tokens) {
    const int64_t n_experts = 64, d_model = 2048, d_ff = 1408;
    const int32_t k = 6;
    const Weights gate(n_experts * d_ff, d_model), up(n_experts * d_ff, d_model), down(n_experts * d_model, d_ff);
    std::vector<Matrix> gates, ups, downs;
    for (int64_t e = 0; e < n_experts; ++e) {
      gates.push_back(gate.rows(e * d_ff, d_ff));
      ups.push_back(up.rows(e * d_ff, d_ff));
      downs.push_back(down.rows(e * d_model, d_model));
    }
    ExpertMatrices matrices;
    matrices.gate = gates;
    matrices.up = ups;
    matrices.down = downs;
    std::vector<int32_t> ids(static_cast<size_t>(n_tokens * k));
    std::vector<float> weights(ids.size(), 0.1f);
    Route route;
    route.n_slots = k;
    route.ids = ids.data();
    route.weights = weights.data();
    std::vector<float> x = values(n_tokens * d_model), hidden(static_cast<size_t>(n_tokens * k * d_ff));
    std::vector<float> out(static_cast<size_t>(n_tokens * k * d_model)), sum(static_cast<size_t>(n_tokens * d_model));
    const double rows = static_cast<double>(n_tokens * k), used = std::min<double>(rows, static_cast<double>(n_experts));
    int32_t turn = 0;
    measure("experts bf16", shape({{"tokens", n_tokens}, {"experts", n_experts}, {"active", k}, {"d_model", d_model}, {"d_ff", d_ff}}),
            6. * rows * static_cast<double>(d_model * d_ff), 6. * used * static_cast<double>(d_model * d_ff), [&] {
              // other experts every time, so that no call finds its weights in a cache
              for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>((i * 11 + static_cast<size_t>(turn)) % 64);
              turn += 7;
              int64_t leaks = 0;
              backend->experts_hidden(Tensor(hidden.data(), n_tokens * k, d_ff), Tensor(x.data(), n_tokens, d_model), route, n_tokens,
                                      matrices, Activation{}, &leaks);
              backend->experts_out(Tensor(out.data(), n_tokens * k, d_model), Tensor(hidden.data(), n_tokens * k, d_ff), route, n_tokens, matrices);
              backend->combine(Tensor(sum.data(), n_tokens, d_model), Tensor(out.data(), n_tokens * k, d_model), route, Tensor());
            });
  }

  void route(const char* name, int64_t n_tokens, const std::vector<RouterStep>& steps) {
    Router router;
    router.n_experts = 64;
    router.n_active = 6;
    std::vector<float> logits = values(n_tokens * 64), weights(static_cast<size_t>(n_tokens * 6)), margin(static_cast<size_t>(n_tokens));
    std::vector<float> scores(logits.size()), shared_scale(margin.size());
    std::vector<int32_t> ids(weights.size()), original_ids(weights.size()), positions(margin.size()), sequences(margin.size(), 0);
    std::vector<uint8_t> banned(logits.size()), active(margin.size() * 4, 1);
    std::iota(positions.begin(), positions.end(), 0);
    RouteFault fault;
    Route out;
    out.n_slots = 6;
    out.ids = ids.data();
    out.weights = weights.data();
    out.original_ids = original_ids.data();
    out.margin = margin.data();
    out.scores = scores.data();
    out.shared_scale = shared_scale.data();
    out.banned = banned.data();
    out.fault = &fault;
    const RouterProgram program{steps.data(), static_cast<int32_t>(steps.size())};
    const uint64_t hash = 1;
    const uint32_t sample = 0;
    RouteBatch batch;
    batch.n_tokens = n_tokens;
    batch.positions = positions.data();
    batch.sequences = sequences.data();
    batch.programs = steps.empty() ? nullptr : &program;
    batch.active = active.data();
    batch.n_edits = 4;
    batch.record_hash = &hash;
    batch.samples = &sample;
    measure(name, shape({{"tokens", n_tokens}, {"experts", 64}, {"active", 6}}), 0, 8. * static_cast<double>(logits.size()),
            [&] { backend->route(out, Tensor(logits.data(), n_tokens, 64), router, nullptr, batch); });
  }
};

}  // namespace

MachineLimits measure_limits(const OpBenchOptions& options) {
  const cpu::Kernels& kernels = cpu::choose_kernels(options.cpu.isa);
  ThreadPool pool(thread_count(options.cpu));
  const int64_t n = static_cast<int64_t>(options.read_buffer_bytes / sizeof(float)), piece = 1 << 18;
  std::vector<float> buffer(static_cast<size_t>(n), 1.f);
  std::vector<float> sums(static_cast<size_t>(pool.n_threads()), 0.f);   // keeps the reads from being dropped
  const auto threads = static_cast<int64_t>(pool.n_threads());
  MachineLimits limits;
  const double read = fastest(3 * options.seconds_per_op, [&] {
    pool.parallel_for((n + piece - 1) / piece, [&](int64_t i, int thread) {
      sums[static_cast<size_t>(thread)] += kernels.read_sum(buffer.data() + i * piece, std::min(piece, n - i * piece));
    });
  });
  limits.read_gbytes = static_cast<double>(n) * 4e-9 / read;
  const int64_t steps = 2000000, repeats = 4;   // steps of 12 * 16 multiply-adds
  const double fma = fastest(options.seconds_per_op, [&] {
    pool.parallel_for(threads * repeats, [&](int64_t, int thread) { sums[static_cast<size_t>(thread)] += kernels.fma_run(steps / repeats); });
  });
  limits.fma_gflops = static_cast<double>(threads * steps) * 12 * 16 * 2e-9 / fma;
  return limits;
}

void bench_ops(const OpBenchOptions& options, const std::function<void(const OpSpeed&)>& report) {
  Bench bench{options, report, make_cpu_backend(options.cpu)};
  bench.matmul(1, 102400, 2048);
  bench.matmul(4, 102400, 2048);
  if (options.prefill) {
    bench.matmul(8, 102400, 2048);
    bench.matmul(64, 10944, 2048);
    bench.matmul(512, 1408, 2048);
    bench.matmul(512, 2048, 10944);
  }
  bench.experts(1);
  if (options.prefill) bench.experts(512);
  AttentionParams heads, latent;
  heads.n_heads = 32, heads.n_kv_heads = 8, heads.d_key = heads.d_value = 128;
  latent.n_heads = 16, latent.n_kv_heads = 1, latent.d_key = 576, latent.d_value = 512;
  bench.attention("attention gqa", 1, 8192, heads, false);
  bench.attention("attention mla", 1, 8192, latent, true);
  if (options.prefill) {
    bench.attention("attention gqa", 512, 1024, heads, false);
    bench.attention("attention mla", 512, 1024, latent, true);
  }
  const std::vector<int32_t> banned = {1, 17, 40};
  RouterStep ban, random;
  ban.op = EditOp::ban;
  ban.experts = banned.data();
  ban.n_listed = 3;
  random.op = EditOp::random;
  random.edit = 1;
  bench.route("route", 512, {});
  bench.route("route ban", 512, {ban});
  bench.route("route ban random", 512, {ban, random});
}

}  // namespace signalbox
