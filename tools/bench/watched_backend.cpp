#include "tools/bench/watched_backend.h"

#include <algorithm>

#include "tools/bench/timer.h"

namespace signalbox::tools {

namespace {

double times(int64_t a, int64_t b, int64_t c = 1) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

double bytes_of(const Tensor& x) { return times(x.rows, x.cols, static_cast<int64_t>(dtype_size(x.dtype))); }

const char* watched_name(Role role) {
  switch (role) {
    case Role::embed:  // of tied embeddings
    case Role::lm_head: return "lm_head";
    case Role::q: return "q";
    case Role::k: return "k";
    case Role::v: return "v";
    case Role::o: return "o";
    case Role::q_a: return "q_a";
    case Role::q_b: return "q_b";
    case Role::kv_a: return "kv_a";
    case Role::kv_b: return "kv_b";
    case Role::dense_gate:
    case Role::dense_up: return "dense gate, up";
    case Role::dense_down: return "dense down";
    case Role::router: return "router";
    case Role::shared_gate:
    case Role::shared_up: return "shared gate, up";
    case Role::shared_down: return "shared down";
    case Role::shared_scale: return "shared gate of tokens";
    default: return "other products";
  }
}

// Bytes of one expert's matrices; all of a layer have the same shapes.
double matrices_bytes(std::initializer_list<std::span<const Matrix>> lists) {
  double bytes = 0;
  for (const auto& list : lists)
    if (!list.empty()) bytes += static_cast<double>(stored_bytes(list.front()));
  return bytes;
}

}  // namespace

WatchedBackend::WatchedBackend(Backend& inner, const Model& model, const Weights& weights) : inner_(inner) {
  Weights views = weights;
  for_each_tensor(model, views, [&](const TensorPlace& place) {
    if (place.matrix && place.id.expert < 0 && place.matrix->data) roles_.emplace(place.matrix->data, place.id.role);
  });
}

void WatchedBackend::watch(Watch what) {
  ops_.clear();
  experts_.clear();
  watch_ = what;
}

void WatchedBackend::replay(std::span<const int64_t> key, const std::function<void()>& work) {
  // What is captured neither waits nor downloads.
  if (watch_ == Watch::ops || (watch_ == Watch::experts && !inner_.shares_host_memory()))
    work();
  else
    inner_.replay(key, work);
}

template <class Name, class Of, class Run>
void WatchedBackend::timed(const Name& name, const Of& work, const Run& run) {
  if (watch_ != Watch::ops) return run();
  inner_.synchronize();
  const double start = now();
  run();
  inner_.synchronize();
  const double seconds = now() - start;
  const Work of = work();
  OpTotal& total = ops_[name()];
  ++total.calls;
  total.seconds += seconds;
  total.flops += of.flops;
  total.bytes += of.bytes;
}

template <class Run>
void WatchedBackend::timed(const char* name, const Run& run) {
  timed([name] { return name; }, [] { return Work{}; }, run);
}

std::string WatchedBackend::role_of(const Matrix& w) const {
  const auto found = roles_.find(w.data);
  return found == roles_.end() ? "other products" : watched_name(found->second);
}

WatchedBackend::Work WatchedBackend::product(const Tensor& out, const Tensor& x, const Matrix& w) const {
  return {2 * times(x.rows, w.rows, w.cols), static_cast<double>(stored_bytes(w)) + bytes_of(x) + bytes_of(out)};
}

template <class T>
std::vector<T> WatchedBackend::on_host(const T* device, int64_t n) {
  std::vector<T> host(static_cast<size_t>(n));
  inner_.download(host.data(), device, host.size() * sizeof(T));
  return host;
}

WatchedBackend::Chosen WatchedBackend::chosen(const Route& route, int64_t n_tokens, int64_t n_experts) {
  std::vector<uint8_t> seen(static_cast<size_t>(n_experts));
  Chosen found;
  for (const int32_t id : on_host(route.ids, n_tokens * route.n_slots)) {
    if (id < 0) continue;
    ++found.slots;
    found.distinct += seen[static_cast<size_t>(id)] == 0;
    seen[static_cast<size_t>(id)] = 1;
  }
  return found;
}

// A sequence's keys and values are read once for all of its tokens in the batch.
WatchedBackend::Work WatchedBackend::attention_work(const Tensor& out, const Tensor& q, const KvCache& cache,
                                                    const BatchView& batch, const AttentionParams& params) {
  const std::vector<int32_t> positions = on_host(batch.positions, batch.n_tokens),
                             sequences = on_host(batch.sequences, batch.n_tokens);
  struct Seen {
    int64_t first = 0, last = 0;
  };
  std::map<int32_t, Seen> of;
  Work work{0, bytes_of(q) + bytes_of(out)};
  for (size_t t = 0; t < positions.size(); ++t) {
    const int64_t last = positions[t] + 1, first = params.window > 0 ? std::max<int64_t>(0, last - params.window) : 0;
    work.flops += 2 * times(params.n_heads, params.d_key + params.d_value, last - first);
    const auto [at, added] = of.emplace(sequences[t], Seen{first, last});
    if (!added) at->second = {std::min(at->second.first, first), std::max(at->second.last, last)};
  }
  const int64_t width = params.n_kv_heads * (cache.values == cache.keys ? params.d_key : params.d_key + params.d_value);
  for (const auto& [sequence, seen] : of)
    work.bytes += times(seen.last - seen.first, width, static_cast<int64_t>(dtype_size(cache.dtype)));
  return work;
}

// ---- ops

void WatchedBackend::embed(Tensor out, const Matrix& table, const int32_t* ids) {
  timed("embedding", [&] { inner_.embed(out, table, ids); });
}
void WatchedBackend::rmsnorm(Tensor out, Tensor x, Vector weight, float eps) {
  timed("norms", [&] { inner_.rmsnorm(out, x, weight, eps); });
}
void WatchedBackend::add_rmsnorm(Tensor x, Tensor delta, Tensor h, Vector weight, float eps) {
  timed("norms", [&] { inner_.add_rmsnorm(x, delta, h, weight, eps); });
}
void WatchedBackend::matmul(Tensor out, Tensor x, const Matrix& w, Vector bias) {
  timed([&] { return role_of(w); }, [&] { return product(out, x, w); }, [&] { inner_.matmul(out, x, w, bias); });
}
void WatchedBackend::matmul_many(Tensor x, std::span<const Product> products) {
  const auto name = [&] {
    std::string names;
    for (const Product& p : products) names += (names.empty() ? "" : ", ") + role_of(*p.w);
    return names;
  };
  const auto work = [&] {
    Work sum;
    for (const Product& p : products) {
      const Work one = product(p.out, x, *p.w);
      sum.flops += one.flops;
      sum.bytes += one.bytes;
    }
    return sum;
  };
  timed(name, work, [&] { inner_.matmul_many(x, products); });
}
void WatchedBackend::rope(Tensor x, int64_t n_heads, int64_t first, const RopeTable& table, const int32_t* positions) {
  timed("rope", [&] { inner_.rope(x, n_heads, first, table, positions); });
}
void WatchedBackend::clamp(Tensor x, float limit) {
  timed("elementwise", [&] { inner_.clamp(x, limit); });
}
void WatchedBackend::add(Tensor out, Tensor a, Tensor b) {
  timed("elementwise", [&] { inner_.add(out, a, b); });
}
void WatchedBackend::scale_rows(Tensor x, const float* factor) {
  timed("elementwise", [&] { inner_.scale_rows(x, factor); });
}
void WatchedBackend::sigmoid_scale(Tensor x, Tensor gate) {
  timed("elementwise", [&] { inner_.sigmoid_scale(x, gate); });
}
void WatchedBackend::store_rows(void* cache, int64_t stride, Tensor x, const int32_t* kv_rows) {
  timed("rows moved", [&] { inner_.store_rows(cache, stride, x, kv_rows); });
}
void WatchedBackend::gather_rows(Tensor out, Tensor x, const int32_t* rows) {
  timed("rows moved", [&] { inner_.gather_rows(out, x, rows); });
}
void WatchedBackend::attention(Tensor out, Tensor q, const KvCache& cache, const BatchView& batch,
                               const AttentionParams& params) {
  timed([] { return "attention"; }, [&] { return attention_work(out, q, cache, batch, params); },
        [&] { inner_.attention(out, q, cache, batch, params); });
}
void WatchedBackend::attention_pattern(Tensor pattern, Tensor q, const KvCache& cache, const BatchView& batch,
                                       const AttentionParams& params) {
  timed("attention pattern", [&] { inner_.attention_pattern(pattern, q, cache, batch, params); });
}
void WatchedBackend::mla_absorb(Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                                int64_t d_rope, int64_t d_value) {
  const auto work = [&] {
    const double read =
        static_cast<double>(stored_bytes(kv_b)) * static_cast<double>(d_nope) / static_cast<double>(d_nope + d_value);
    return Work{2 * times(q.rows, n_heads * d_nope, kv_b.cols), read + bytes_of(q) + bytes_of(out)};
  };
  timed([] { return "kv_b into queries"; }, work,
        [&] { inner_.mla_absorb(out, q, kv_b, n_heads, d_nope, d_rope, d_value); });
}
void WatchedBackend::mla_expand(Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                                int64_t d_value) {
  const auto work = [&] {
    const double read =
        static_cast<double>(stored_bytes(kv_b)) * static_cast<double>(d_value) / static_cast<double>(d_nope + d_value);
    return Work{2 * times(latent.rows, n_heads * d_value, kv_b.cols), read + bytes_of(latent) + bytes_of(out)};
  };
  timed([] { return "kv_b of values"; }, work, [&] { inner_.mla_expand(out, latent, kv_b, n_heads, d_nope, d_value); });
}
void WatchedBackend::gated_hidden(Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                                  const Activation& activation) {
  const auto work = [&] {
    const Work of_gate = product(hidden, x, gate), of_up = product(hidden, x, up);
    return Work{of_gate.flops + of_up.flops, of_gate.bytes + static_cast<double>(stored_bytes(up))};
  };
  timed([&] { return role_of(gate); }, work, [&] { inner_.gated_hidden(hidden, x, gate, up, activation); });
}
void WatchedBackend::route(const Route& out, Tensor logits, Tensor x, const Matrix& w, const float* bias,
                           const Router& router, const float* selection_bias, const RouteBatch& batch) {
  timed([] { return "router"; }, [&] { return x ? product(logits, x, w) : Work{}; },
        [&] { inner_.route(out, logits, x, w, bias, router, selection_bias, batch); });
}
void WatchedBackend::experts_hidden(Tensor hidden, Tensor x, const Route& route, int64_t n_tokens,
                                    const ExpertMatrices& experts, const Activation& activation, uint64_t* leaks) {
  Chosen of;
  if (watch_ != Watch::nothing) {
    of = chosen(route, n_tokens, experts.n_experts());
    ExpertTotal& total = experts_[n_tokens];
    ++total.calls;
    total.distinct += of.distinct;
    double bytes = matrices_bytes({experts.gate, experts.up, experts.down});
    for (const auto& biases : {experts.gate_bias, experts.up_bias, experts.down_bias})
      if (!biases.empty()) bytes += times(biases.front().n, static_cast<int64_t>(sizeof(float)));
    total.bytes += static_cast<double>(of.distinct) * bytes;
  }
  const auto work = [&] {
    return Work{
        4 * times(of.slots, hidden.cols, x.cols),
        static_cast<double>(of.distinct) * matrices_bytes({experts.gate, experts.up}) + bytes_of(x) + bytes_of(hidden)};
  };
  timed([] { return "experts gate, up"; }, work,
        [&] { inner_.experts_hidden(hidden, x, route, n_tokens, experts, activation, leaks); });
}
void WatchedBackend::experts_out(Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                                 const ExpertMatrices& experts) {
  const auto work = [&] {
    const Chosen of = chosen(route, n_tokens, experts.n_experts());
    return Work{2 * times(of.slots, hidden.cols, out.cols),
                static_cast<double>(of.distinct) * matrices_bytes({experts.down}) + bytes_of(hidden) + bytes_of(out)};
  };
  timed([] { return "experts down"; }, work, [&] { inner_.experts_out(out, hidden, route, n_tokens, experts); });
}
void WatchedBackend::combine(Tensor out, Tensor expert_out, const Route& route, Tensor shared) {
  timed([] { return "combine"; },
        [&] {
          return Work{0, bytes_of(out) + bytes_of(expert_out) + (shared ? bytes_of(shared) : 0)};
        },
        [&] { inner_.combine(out, expert_out, route, shared); });
}
void WatchedBackend::edit_rows(Tensor x, std::span<const int32_t> rows, Tensor values,
                               std::span<const int32_t> value_rows, std::span<const int32_t> columns, bool add,
                               float scale) {
  timed("edits", [&] { inner_.edit_rows(x, rows, values, value_rows, columns, add, scale); });
}
void WatchedBackend::sample(int32_t* ids, Tensor logits, const SampleParams* params) {
  timed("sampling", [&] { inner_.sample(ids, logits, params); });
}
void WatchedBackend::log_probs(double* out, Tensor logits, const int32_t* targets) {
  timed("log-probabilities", [&] { inner_.log_probs(out, logits, targets); });
}
void WatchedBackend::compare_logits(double* divergence, int32_t* same_top, Tensor logits, Tensor reference) {
  timed("comparison of logits", [&] { inner_.compare_logits(divergence, same_top, logits, reference); });
}
void WatchedBackend::prepare_heads(Tensor q, Tensor k, Tensor v, const HeadsArgs& args, const KvCache& cache,
                                   const BatchView& batch) {
  timed("rope, keys and values", [&] { inner_.prepare_heads(q, k, v, args, cache, batch); });
}
void WatchedBackend::prepare_latent(Tensor q, Tensor kv, const LatentArgs& args, const KvCache& cache,
                                    const BatchView& batch) {
  timed("rope, keys and values", [&] { inner_.prepare_latent(q, kv, args, cache, batch); });
}

}  // namespace signalbox::tools
