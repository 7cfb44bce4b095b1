#include "tools/bench/op_bench.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <set>
#include <variant>

#include "engine/kv_pool.h"

namespace signalbox::tools {

namespace {

constexpr int64_t max_sets = 256;
// Larger than the second-level cache of any GPU, twice: 126 MB is the most that one has had so far.
constexpr size_t device_flush_bytes = size_t{256} << 20;

std::vector<int32_t> counted(int64_t n, int64_t first = 0) {
  std::vector<int32_t> list(static_cast<size_t>(n));
  std::iota(list.begin(), list.end(), static_cast<int32_t>(first));
  return list;
}

class OpBench {
 public:
  OpBench(Backend& backend, const OpBenchOptions& options, const OpReport& report)
      : backend_(backend),
        options_(options),
        report_(report),
        timer_(backend, options.timer),
        activations_(true, options.piece_bytes),
        weights_(!backend.shares_host_memory(), options.piece_bytes),
        operand_(static_cast<double>(dtype_size(backend.operand_dtype()))) {}

  void run() {
    for (const BenchShape& shape : options_.shapes) {
      model_ = shape.name;
      dense(shape);
      router(shape);
      routed(shape);
      attention(shape);
      norms(shape);
      samplers(shape);
    }
  }

 private:
  void measure(const std::string& op, std::string sizes, int64_t tokens, double flops, double bytes, int64_t n_sets,
               const std::function<void(int64_t)>& work) {
    const Timing timing = timer_.measure(n_sets, work);
    report_({op, model_, std::move(sizes), tokens, timing.seconds, timing.spread, flops, bytes});
  }

  // So many sets of `bytes` each that they do not all lie in a cache.
  int64_t sets_of(double bytes) const {
    return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(static_cast<double>(options_.flush_bytes) / bytes)), 1,
                               max_sets);
  }

  // Matrices of one shape on the device, different ones.
  struct Matrices {
    std::vector<Matrix> of;
    std::vector<std::shared_ptr<const void>> owners;
    double bytes = 0;  // of one
  };
  Matrices matrices(int64_t rows, int64_t cols, bool router, int64_t least = 1) {
    Matrices made;
    const double element = router && !backend_.shares_host_memory() ? 4 : 2;
    made.bytes = element * static_cast<double>(rows) * static_cast<double>(cols);
    const int64_t n = std::max(least, sets_of(made.bytes));
    for (int64_t i = 0; i < n; ++i) {
      Matrix m;
      const auto host = weights_.view(RandomMemory::Kind::weights, static_cast<size_t>(rows * cols) * 2);
      m.data = host.get();
      m.dtype = DType::bf16;
      m.rows = rows;
      m.cols = m.row_stride = cols;
      if (backend_.shares_host_memory()) {
        made.of.push_back(m);
        made.owners.push_back(host);
      } else {
        const Backend::Uploaded uploaded = backend_.upload_matrix(m, router);
        made.of.push_back(uploaded.matrix);
        made.owners.push_back(uploaded.owner);
      }
    }
    return made;
  }

  static double product(int64_t a, int64_t b, int64_t c = 1) {
    return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
  }

  void matmul(const char* name, int64_t n, int64_t k, bool prefill) {
    const Matrices w = matrices(n, k, false);
    std::vector<int64_t> rows = options_.decode_rows;
    if (prefill) rows.insert(rows.end(), options_.prefill_rows.begin(), options_.prefill_rows.end());
    for (const int64_t m : rows) {
      DeviceData data(backend_, activations_);
      const Tensor x = data.operand(m, k), out = data.floats(m, n, false);
      measure(std::string("matmul ") + name, sizes_text({{"tokens", m}, {"n", n}, {"k", k}}), m, 2 * product(m, n, k),
              w.bytes + operand_ * product(m, k) + 4 * product(m, n), static_cast<int64_t>(w.of.size()),
              [&](int64_t i) { backend_.matmul(out, x, w.of[static_cast<size_t>(i)], {}); });
    }
  }

  void gated(const char* name, int64_t d_ff, int64_t d_model, const Activation& activation) {
    const Matrices w = matrices(d_ff, d_model, false, 2);
    const int64_t n_pairs = static_cast<int64_t>(w.of.size()) / 2;
    std::vector<int64_t> rows = options_.decode_rows;
    rows.insert(rows.end(), options_.prefill_rows.begin(), options_.prefill_rows.end());
    for (const int64_t m : rows) {
      DeviceData data(backend_, activations_);
      const Tensor x = data.operand(m, d_model), hidden = data.operand(m, d_ff, false);
      measure(std::string("gated_hidden ") + name, sizes_text({{"tokens", m}, {"d_ff", d_ff}, {"d_model", d_model}}), m,
              4 * product(m, d_ff, d_model), 2 * w.bytes + operand_ * (product(m, d_model) + product(m, d_ff)), n_pairs,
              [&](int64_t i) {
                const auto at = static_cast<size_t>(2 * i);
                backend_.gated_hidden(hidden, x, w.of[at], w.of[at + 1], activation);
              });
    }
  }

  void dense(const BenchShape& shape) {
    const Model& model = shape.model;
    const Layer& layer = model.layers.back();
    if (const Gqa* a = std::get_if<Gqa>(&layer.attention)) {
      matmul("q", a->n_heads * a->d_head, model.d_model, true);
      matmul("o", model.d_model, a->n_heads * a->d_head, true);
    } else {
      const Mla& m = std::get<Mla>(layer.attention);
      matmul("q", m.n_heads * (m.d_nope + m.d_rope), m.q_rank > 0 ? m.q_rank : model.d_model, true);
      matmul("kv_a", m.d_latent + m.d_rope, model.d_model, true);
      matmul("o", model.d_model, m.n_heads * m.d_value, true);
      latent_products(m);
    }
    matmul("lm_head", model.n_vocab, model.d_model, false);
    if (const Dense* first = std::get_if<Dense>(&model.layers.front().ffn))
      gated("dense", first->d_ff, model.d_model, model.activation);
    if (const Moe* moe = layer.moe(); moe && moe->d_ff_shared > 0)
      gated("shared", moe->d_ff_shared, model.d_model, model.activation);
  }

  void latent_products(const Mla& a) {
    const Matrices w = matrices(a.n_heads * (a.d_nope + a.d_value), a.d_latent, false);
    std::vector<int64_t> rows = options_.decode_rows;
    rows.insert(rows.end(), options_.prefill_rows.begin(), options_.prefill_rows.end());
    const int64_t n_sets = static_cast<int64_t>(w.of.size()), heads = a.n_heads;
    for (const int64_t m : rows) {
      DeviceData data(backend_, activations_);
      const std::string sizes = sizes_text({{"tokens", m}, {"heads", heads}, {"d_latent", a.d_latent}});
      const Tensor q = data.floats(m, heads * (a.d_nope + a.d_rope));
      const Tensor absorbed = data.floats(m, heads * (a.d_latent + a.d_rope), false);
      const Tensor latent = data.operand(m, heads * a.d_latent), out = data.operand(m, heads * a.d_value, false);
      measure("mla_absorb", sizes, m, 2 * product(m, heads * a.d_nope, a.d_latent),
              2 * product(heads * a.d_nope, a.d_latent) + 4 * (product(m, q.cols) + product(m, absorbed.cols)), n_sets,
              [&](int64_t i) {
                backend_.mla_absorb(absorbed, q, w.of[static_cast<size_t>(i)], heads, a.d_nope, a.d_rope, a.d_value);
              });
      measure("mla_expand", sizes, m, 2 * product(m, heads * a.d_value, a.d_latent),
              2 * product(heads * a.d_value, a.d_latent) + operand_ * (product(m, latent.cols) + product(m, out.cols)),
              n_sets, [&](int64_t i) {
                backend_.mla_expand(out, latent, w.of[static_cast<size_t>(i)], heads, a.d_nope, a.d_value);
              });
    }
  }

  void router(const BenchShape& shape) {
    const Moe* moe = shape.model.layers.back().moe();
    if (!moe) return;
    const Router& r = moe->router;
    const int64_t experts = r.n_experts, k = r.n_active, d_model = shape.model.d_model;
    const Matrices w = matrices(experts, d_model, true);
    for (const int64_t n : options_.route_tokens) {
      DeviceData data(backend_, activations_);
      const Tensor x = data.operand(n, d_model), logits = data.floats(n, experts, false);
      const float* bias = r.bias ? data.floats(1, experts).data : nullptr;
      const float* selection_bias = r.selection_bias ? data.floats(1, experts).data : nullptr;
      const auto numbers = [&](int64_t count) {
        return data.list(std::vector<int32_t>(static_cast<size_t>(count), 0));
      };
      const auto floats = [&](int64_t count) { return data.floats(1, count, false).data; };
      Route plain;
      plain.n_slots = static_cast<int32_t>(k);
      plain.ids = numbers(n * k);
      plain.weights = floats(n * k);
      plain.margin = floats(n);
      plain.faults = data.list(std::vector<uint64_t>(1, no_fault));
      RouteBatch batch;
      batch.n_tokens = n;
      batch.positions = data.list(counted(n));
      batch.sequences = numbers(n);

      Route recorded = plain;
      recorded.scores = floats(n * experts);
      recorded.record.step = data.list(std::vector<uint32_t>(1, 0));
      recorded.record.step_stride = n;
      recorded.record.ids = numbers(n * k);
      recorded.record.weights = floats(n * k);

      Route edited = plain;
      edited.original_ids = numbers(n * k);
      edited.shared_scale = floats(n);
      edited.banned = static_cast<uint8_t*>(data.room(static_cast<size_t>(n * experts)));
      // Bans of every other of the experts that may go, at most three; and random experts for the others.
      std::vector<int32_t> banned;
      for (int64_t e = 0; e < experts && static_cast<int64_t>(banned.size()) < std::min<int64_t>(3, experts - k - 1);
           e += 2)
        banned.push_back(static_cast<int32_t>(e));
      RouterStep ban, random;
      ban.op = EditOp::ban;
      ban.experts = data.list(banned);
      ban.n_listed = static_cast<int32_t>(banned.size());
      random.op = EditOp::random;
      random.edit = 1;
      const auto program = [&](const std::vector<RouterStep>& steps) {
        RouteBatch with = batch;
        with.programs = data.list(std::vector<RouterProgram>{{data.list(steps), static_cast<int32_t>(steps.size())}});
        with.n_edits = 8;
        with.active = data.list(std::vector<uint8_t>(static_cast<size_t>(n * 8), 1));
        with.record_hash = data.list(std::vector<uint64_t>(1, 1));
        with.samples = data.list(std::vector<uint32_t>(1, 0));
        return with;
      };
      const auto measure_route = [&](const char* name, const Route& out, const RouteBatch& with) {
        measure(name, sizes_text({{"tokens", n}, {"experts", experts}, {"active", k}, {"d_model", d_model}}), n,
                2 * product(n, experts, d_model), w.bytes + operand_ * product(n, d_model) + 4 * product(n, experts),
                static_cast<int64_t>(w.of.size()), [&](int64_t i) {
                  backend_.route(out, logits, x, w.of[static_cast<size_t>(i)], bias, r, selection_bias, with);
                });
      };
      measure_route("route", plain, batch);
      measure_route("route recorded", recorded, batch);
      measure_route("route ban", edited, program({ban}));
      measure_route("route ban random", edited, program({ban, random}));
    }
  }

  // The experts of one layer, with the layout that loading gives them.
  void routed(const BenchShape& shape) {
    const Moe* moe = shape.model.layers.back().moe();
    if (!moe) return;
    BenchShape one = shape;
    one.model.layers = {shape.model.layers.back()};
    Weights weights;
    std::vector<std::shared_ptr<const void>> owners;
    RoutedBlock block;
    for_each_tensor(one.model, weights, [&](const TensorPlace& slot) {
      if (slot.id.expert < 0) return;
      random_tensor(one, slot, weights_, owners);
      if (slot.id.expert == 0 && slot.matrix) block.expert_bytes += static_cast<double>(stored_bytes(*slot.matrix));
    });
    MoeWeights& of = std::get<MoeWeights>(weights.layers.front().ffn);
    if (!backend_.shares_host_memory()) of.packed = backend_.pack_experts(of.experts());
    block.moe = moe;
    block.activation = shape.model.activation;
    block.d_model = shape.model.d_model;
    block.layers = {of.experts()};
    for (const int64_t n : options_.moe_tokens)
      bench_routed(backend_, timer_, activations_, block, n, options_.moe_parts, options_.flush_bytes, model_, report_);
  }

  // One cache and n_contexts contexts of n_keys positions in it, of which only the last `seen` are looked at and have
  // blocks of their own.
  struct Contexts {
    KvCache cache;
    int64_t blocks = 0;               // of one context
    const int32_t* tables = nullptr;  // [n_contexts, blocks]
  };
  Contexts contexts(DeviceData& data, int64_t n_contexts, int64_t n_keys, int64_t seen, int64_t key_width,
                    int64_t value_width) {
    Contexts made;
    const DType dtype = backend_.kv_dtype();
    made.blocks = KvPool::blocks_for(n_keys);
    const int64_t unseen = (n_keys - seen) / KvPool::block_size, own = made.blocks - unseen;
    const int64_t n_blocks = n_contexts * own, rows = n_blocks * KvPool::block_size;
    const size_t element = dtype_size(dtype);
    made.cache.dtype = dtype;
    made.cache.key_stride = key_width;
    made.cache.value_stride = value_width > 0 ? value_width : key_width;
    made.cache.keys = data.random(static_cast<size_t>(rows * key_width) * element, dtype);
    made.cache.values =
        value_width > 0 ? data.random(static_cast<size_t>(rows * value_width) * element, dtype) : made.cache.keys;
    // Blocks of a context lie apart, as after a while of use: the stride shares no factor with the number of blocks.
    int64_t stride = n_blocks / 3 * 2 + 1;
    while (std::gcd(stride, n_blocks) != 1) ++stride;
    std::vector<int32_t> table;
    for (int64_t c = 0; c < n_contexts; ++c) {
      table.insert(table.end(), static_cast<size_t>(unseen), 0);
      for (int64_t b = 0; b < own; ++b) table.push_back(static_cast<int32_t>((c * own + b) * stride % n_blocks));
    }
    made.tables = data.list(table);
    return made;
  }

  void attend(const char* name, AttentionParams params, bool latent, int64_t n_sequences, int64_t n_tokens,
              int64_t n_keys) {
    const int64_t key_width = params.n_kv_heads * params.d_key;
    const int64_t value_width = latent ? 0 : params.n_kv_heads * params.d_value;
    const int64_t seen = params.window > 0 ? std::min(n_keys, params.window + n_tokens - 1) : n_keys;
    const double kv_element = static_cast<double>(dtype_size(backend_.kv_dtype()));
    const double kv_bytes = kv_element * product(n_sequences, seen, key_width + value_width);
    const int64_t n_sets = sets_of(kv_bytes), total = n_sequences * n_tokens;

    DeviceData data(backend_, activations_);
    const Contexts made = contexts(data, n_sets * n_sequences, n_keys, seen, key_width, value_width);
    const Tensor q = data.floats(total, params.n_heads * params.d_key);
    const Tensor out = data.operand(total, params.n_heads * params.d_value, false);
    std::vector<int32_t> positions, sequences;
    double pairs = 0;
    for (int64_t s = 0; s < n_sequences; ++s) {
      for (int64_t t = 0; t < n_tokens; ++t) {
        const int64_t position = n_keys - n_tokens + t;
        positions.push_back(static_cast<int32_t>(position));
        sequences.push_back(static_cast<int32_t>(s));
        pairs += static_cast<double>(params.window > 0 ? std::min(position + 1, params.window) : position + 1);
      }
    }
    BatchView batch;
    batch.n_tokens = total;
    batch.positions = data.list(positions);
    batch.sequences = data.list(sequences);
    batch.max_blocks = made.blocks;
    batch.block_size = KvPool::block_size;
    batch.max_keys = std::max<int64_t>(256, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n_keys))));
    if (params.sinks) params.sinks = data.floats(1, params.n_heads).data;
    std::string sizes = sizes_text({{"sequences", n_sequences},
                                    {"tokens", n_tokens},
                                    {"keys", n_keys},
                                    {"heads", params.n_heads},
                                    {"kv_heads", params.n_kv_heads},
                                    {"d_key", params.d_key}});
    if (params.window > 0) sizes += " window=" + std::to_string(params.window);
    measure(name, sizes, total, 2 * pairs * static_cast<double>(params.n_heads * (params.d_key + params.d_value)),
            kv_bytes + 4 * product(total, q.cols) + operand_ * product(total, out.cols), n_sets, [&](int64_t i) {
              BatchView view = batch;
              view.block_tables = made.tables + i * n_sequences * made.blocks;
              backend_.attention(out, q, made.cache, view, params);
            });
  }

  // The softmax of attention written out, as recording attn.pattern asks for it.
  void pattern(AttentionParams params, int64_t n_tokens, int64_t n_keys) {
    DeviceData data(backend_, activations_);
    const int64_t key_width = params.n_kv_heads * params.d_key, width = params.n_heads * n_keys;
    const Contexts made = contexts(data, 1, n_keys, n_keys, key_width, 0);
    const Tensor q = data.floats(n_tokens, params.n_heads * params.d_key), out = data.floats(n_tokens, width, false);
    BatchView batch;
    batch.n_tokens = n_tokens;
    batch.positions = data.list(counted(n_tokens, n_keys - n_tokens));
    batch.sequences = data.list(std::vector<int32_t>(static_cast<size_t>(n_tokens), 0));
    batch.block_tables = made.tables;
    batch.max_blocks = made.blocks;
    batch.block_size = KvPool::block_size;
    batch.max_keys = n_keys;
    if (params.sinks) params.sinks = data.floats(1, params.n_heads).data;
    double pairs = 0;
    for (int64_t t = 0; t < n_tokens; ++t) {
      const int64_t seen = n_keys - n_tokens + t + 1;
      pairs += static_cast<double>(params.window > 0 ? std::min(seen, params.window) : seen);
    }
    const std::string sizes = sizes_text({{"tokens", n_tokens},
                                          {"keys", n_keys},
                                          {"heads", params.n_heads},
                                          {"kv_heads", params.n_kv_heads},
                                          {"d_key", params.d_key}});
    const double kv_element = static_cast<double>(dtype_size(backend_.kv_dtype()));
    measure("attention_pattern", sizes, n_tokens, 2 * pairs * static_cast<double>(params.n_heads * params.d_key),
            kv_element * product(n_keys, key_width) + 4 * product(n_tokens, q.cols) + 4 * product(n_tokens, width), 1,
            [&](int64_t) { backend_.attention_pattern(out, q, made.cache, batch, params); });
  }

  void attention(const BenchShape& shape) {
    // Every kind of attention that the model's layers have, once.
    std::set<std::pair<int64_t, bool>> done;
    for (const Layer& layer : shape.model.layers) {
      AttentionParams params;
      const Gqa* gqa = std::get_if<Gqa>(&layer.attention);
      const float any_sink = 0;
      if (gqa) {
        params.n_heads = gqa->n_heads, params.n_kv_heads = gqa->n_kv_heads;
        params.d_key = params.d_value = gqa->d_head;
        params.scale = gqa->scale, params.window = gqa->window;
        params.sinks = gqa->sinks ? &any_sink : nullptr;  // made on the device by attend()
      } else {
        const Mla& mla = std::get<Mla>(layer.attention);
        params.n_heads = mla.n_heads, params.n_kv_heads = 1;
        params.d_key = mla.d_latent + mla.d_rope, params.d_value = mla.d_latent;
        params.scale = mla.scale;
      }
      if (!done.insert({params.window, gqa != nullptr}).second) continue;
      const char* name = gqa ? "attention gqa" : "attention mla";
      for (const int64_t keys : options_.contexts)
        for (const int64_t sequences : options_.sequences) attend(name, params, !gqa, sequences, 1, keys);
      for (const auto& [tokens, keys] : options_.prompts) attend(name, params, !gqa, 1, tokens, keys);
      // One token, and a prompt whose pattern is no larger than a quarter of a gigabyte.
      pattern(params, 1, options_.contexts.front());
      const int64_t prompt = std::min<int64_t>(512, options_.prompts.empty() ? 1 : options_.prompts.front().first);
      if (prompt > 1) pattern(params, prompt, prompt);
    }
  }

  RopeTable rope_table(DeviceData& data, const Model& model, int64_t n_positions) {
    const int64_t half = model.rope.n_dims() / 2;
    return {data.floats(n_positions, half).data, data.floats(n_positions, half).data, n_positions, model.rope.n_dims(),
            model.rope.adjacent};
  }

  // Norms, and heads made ready for attention.
  void norms(const BenchShape& shape) {
    const Model& model = shape.model;
    const int64_t d_model = model.d_model;
    for (const int64_t n : options_.norm_rows) {
      DeviceData data(backend_, activations_);
      const int64_t n_sets = std::min<int64_t>(sets_of(10 * product(n, d_model)), 64);
      const Vector weight{data.floats(1, d_model).data, d_model};
      std::vector<Tensor> xs, deltas, hs;
      for (int64_t i = 0; i < n_sets; ++i) {
        xs.push_back(data.floats(n, d_model));
        deltas.push_back(data.floats(n, d_model));
        hs.push_back(data.operand(n, d_model, false));
      }
      const std::string sizes = sizes_text({{"tokens", n}, {"d_model", d_model}});
      measure("rmsnorm", sizes, n, 4 * product(n, d_model), (4 + operand_) * product(n, d_model), n_sets,
              [&](int64_t i) {
                const auto at = static_cast<size_t>(i);
                backend_.rmsnorm(hs[at], xs[at], weight, 1e-6f);
              });
      // The sum grows, but stays finite in as many calls as there are.
      measure("add_rmsnorm", sizes, n, 5 * product(n, d_model), (12 + operand_) * product(n, d_model), n_sets,
              [&](int64_t i) {
                const auto at = static_cast<size_t>(i);
                backend_.add_rmsnorm(xs[at], deltas[at], hs[at], weight, 1e-6f);
              });

      const DType kv = backend_.kv_dtype();
      BatchView batch;
      batch.n_tokens = n;
      batch.positions = data.list(counted(n));
      batch.sequences = data.list(std::vector<int32_t>(static_cast<size_t>(n), 0));
      batch.kv_rows = data.list(counted(n));
      batch.block_size = KvPool::block_size;
      const RopeTable rope = rope_table(data, model, n);
      KvCache cache;
      cache.dtype = kv;
      if (const Gqa* a = std::get_if<Gqa>(&model.layers.back().attention)) {
        const int64_t width = a->n_kv_heads * a->d_head;
        cache.key_stride = cache.value_stride = width;
        cache.keys = data.room(static_cast<size_t>(n * width) * dtype_size(kv));
        cache.values = data.room(static_cast<size_t>(n * width) * dtype_size(kv));
        const Tensor q = data.floats(n, a->n_heads * a->d_head), k = data.floats(n, width), v = data.floats(n, width);
        Backend::HeadsArgs args{a->n_heads, a->n_kv_heads, a->d_head, {}, {}, 1e-6f, a->clip, rope};
        if (a->qk_norm != Gqa::QkNorm::none) {
          const bool per_head = a->qk_norm == Gqa::QkNorm::per_head;
          args.q_norm = {data.floats(1, q.cols).data, per_head ? a->d_head : q.cols};
          args.k_norm = {data.floats(1, width).data, per_head ? a->d_head : width};
        }
        measure("prepare_heads",
                sizes_text({{"tokens", n}, {"heads", a->n_heads}, {"kv_heads", a->n_kv_heads}, {"d_head", a->d_head}}),
                n, 0,
                8 * product(n, q.cols) + 8 * product(n, width) +
                    2 * static_cast<double>(dtype_size(kv)) * product(n, width),
                1, [&](int64_t) { backend_.prepare_heads(q, k, v, args, cache, batch); });
      } else {
        const Mla& m = std::get<Mla>(model.layers.back().attention);
        const int64_t width = m.d_latent + m.d_rope;
        cache.key_stride = cache.value_stride = width;
        cache.keys = cache.values = data.room(static_cast<size_t>(n * width) * dtype_size(kv));
        const Tensor q = data.floats(n, m.n_heads * (m.d_nope + m.d_rope)), latent = data.floats(n, width);
        const Backend::LatentArgs args{
            m.n_heads, m.d_nope, m.d_latent, {data.floats(1, m.d_latent).data, m.d_latent}, m.latent_eps, rope};
        measure("prepare_latent", sizes_text({{"tokens", n}, {"heads", m.n_heads}, {"d_latent", m.d_latent}}), n, 0,
                8 * product(n, m.n_heads * m.d_rope) + (4 + static_cast<double>(dtype_size(kv))) * product(n, width), 1,
                [&](int64_t) { backend_.prepare_latent(q, latent, args, cache, batch); });
      }
    }
  }

  void samplers(const BenchShape& shape) {
    const int64_t n_vocab = shape.model.n_vocab;
    for (const int64_t n : options_.sample_rows) {
      DeviceData data(backend_, activations_);
      const int64_t n_sets = std::min<int64_t>(sets_of(4 * product(n, n_vocab)), 64);
      std::vector<Tensor> logits;
      for (int64_t i = 0; i < n_sets; ++i) logits.push_back(data.floats(n, n_vocab));
      int32_t* ids = data.list(std::vector<int32_t>(static_cast<size_t>(n), 0));
      double* log_probs = static_cast<double*>(data.room(static_cast<size_t>(n) * 8));
      const std::string sizes = sizes_text({{"tokens", n}, {"n_vocab", n_vocab}});
      const auto bytes = 4 * product(n, n_vocab);
      const auto sample = [&](const char* name, float temperature, float top_p, int32_t top_k) {
        SampleParams params;
        params.sampling = {temperature, top_p, top_k, 0};
        const SampleParams* list = data.list(std::vector<SampleParams>(static_cast<size_t>(n), params));
        measure(name, sizes, n, 0, bytes, n_sets,
                [&](int64_t i) { backend_.sample(ids, logits[static_cast<size_t>(i)], list); });
      };
      sample("sample greedy", 0, 1, 0);
      sample("sample", 1, 1, 0);
      sample("sample top_k top_p", 0.8f, 0.95f, 50);
      measure("log_probs", sizes, n, 0, bytes, n_sets,
              [&](int64_t i) { backend_.log_probs(log_probs, logits[static_cast<size_t>(i)], ids); });
      measure("compare_logits", sizes, n, 0, 2 * bytes, n_sets, [&](int64_t i) {
        backend_.compare_logits(log_probs, ids, logits[static_cast<size_t>(i)],
                                logits[static_cast<size_t>((i + 1) % n_sets)]);
      });
    }
  }

  Backend& backend_;
  const OpBenchOptions& options_;
  const OpReport& report_;
  Timer timer_;
  RandomMemory activations_, weights_;
  const double operand_;  // bytes of one
  std::string model_;
};

}  // namespace

std::string sizes_text(std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  std::string text;
  for (const auto& [name, size] : sizes) {
    if (!text.empty()) text += ' ';
    text += name;
    text += '=';
    text += std::to_string(size);
  }
  return text;
}

void* DeviceData::room(size_t bytes) {
  owners_.push_back(backend_.allocate(bytes));
  return owners_.back().get();
}

void* DeviceData::random(size_t bytes, DType dtype) {
  void* to = room(bytes);
  const auto kind = dtype == DType::f32 ? RandomMemory::Kind::unit : RandomMemory::Kind::embeddings;
  backend_.upload(to, memory_.view(kind, bytes).get(), bytes);
  return to;
}

Tensor DeviceData::floats(int64_t rows, int64_t cols, bool filled) {
  const size_t bytes = static_cast<size_t>(rows * cols) * 4;
  return Tensor(static_cast<float*>(filled ? random(bytes, DType::f32) : room(bytes)), rows, cols);
}

Tensor DeviceData::operand(int64_t rows, int64_t cols, bool filled) {
  if (backend_.operand_dtype() == DType::f32) return floats(rows, cols, filled);
  const int64_t stride = (cols + 7) / 8 * 8;  // as in engine/buffers.cpp
  const size_t bytes = static_cast<size_t>(rows * stride) * 2;
  return Tensor(static_cast<float*>(filled ? random(bytes, DType::bf16) : room(bytes)), rows, cols, stride,
                DType::bf16);
}

OpBenchOptions op_bench_options(const Backend& backend) {
  OpBenchOptions options;
  options.shapes = bench_shapes(50'000'000'000);
  if (!backend.shares_host_memory()) {
    static_cast<cases::Measured&>(options) = cases::measured_on_device();
    options.flush_bytes = device_flush_bytes;
    return options;
  }
  // The first of the table and the two that take the least memory: latent and grouped attention, bf16 and MXFP4.
  const BenchShape first = options.shapes.front();
  std::sort(options.shapes.begin() + 1, options.shapes.end(),
            [](const BenchShape& a, const BenchShape& b) { return random_weight_bytes(a) < random_weight_bytes(b); });
  options.shapes.resize(std::min<size_t>(options.shapes.size(), 3));
  static_cast<cases::Measured&>(options) = cases::measured_on_cpu();
  options.moe_parts = false;
  options.flush_bytes = size_t{128} << 20;
  options.timer.seconds = 0.15;
  return options;
}

void bench_ops(Backend& backend, const OpBenchOptions& options, const OpReport& report) {
  OpBench(backend, options, report).run();
}

}  // namespace signalbox::tools
