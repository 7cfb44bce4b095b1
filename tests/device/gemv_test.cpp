// Products of one to eight rows, and combine, against the CPU backend on weights that bf16 holds.
#include "kernels/cases/experts.h"
#include "kernels/cases/products.h"
#include "kernels/shim/simt_order.h"
#include "tests/device/device.h"
#include "tests/device/rounded.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

// An operand on both sides: [rows, cols] of normal values that bf16 holds, on the device `first` elements behind the
// beginning of a row of `stride`.
struct Operand {
  Operand(Backend& device, int64_t rows, int64_t cols, uint64_t seed, int64_t first, int64_t stride)
      : values(normal_values(rows * cols, seed, true)) {
    std::vector<float> wide(static_cast<size_t>(rows * stride), NAN);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(values.begin() + r * cols, cols, wide.begin() + r * stride + first);
    memory = std::make_unique<DeviceTensor>(device, rows, stride, DType::bf16, wide);
    view = memory->view().columns(first, cols);
    host = Tensor(values.data(), rows, cols);
  }
  std::vector<float> values;
  std::unique_ptr<DeviceTensor> memory;
  Tensor view, host;
};

Operand operand(Backend& device, int64_t rows, int64_t cols, uint64_t seed, bool aligned) {
  return Operand(device, rows, cols, seed, aligned ? 8 : 3, aligned ? (cols + 31) / 8 * 8 : cols + 10);
}

void check_close(const DeviceTensor& got, const std::vector<float>& want, const Tolerance& tolerance,
                 double scale = 1) {
  const Worst worst = compare(got.get(), want, tolerance.absolute * scale, tolerance.relative);
  CHECK_MESSAGE(worst.excess <= 0, worst.text);
  CHECK(got.guards_hold());
}

// What `want` of the CPU op is, as a vector.
template <class F>
std::vector<float> on_cpu(int64_t rows, int64_t cols, F run) {
  std::vector<float> out(static_cast<size_t>(rows * cols));
  const auto backend = cpu("auto", 1);
  run(*backend, Tensor(out.data(), rows, cols));
  return out;
}

std::vector<float> row_of(const std::vector<float>& all, int64_t row, int64_t cols) {
  return {all.begin() + row * cols, all.begin() + (row + 1) * cols};
}

int64_t count_launches(const std::string& name) {
  int64_t n = 0;
  for (const auto& [launched, count] : simt::launches()) n += launched.starts_with(name) ? count : 0;
  return n;
}

// More tokens take tiles.
constexpr int64_t most_tokens = 8;

struct DenseCase {
  int64_t n_tokens, k;
  std::vector<int64_t> n;
  bool aligned;
};
// Turns of 128 elements: one, several a warp, tails of every kind; two to sixteen warps.
const DenseCase dense_cases[] = {
    {1, 1, {1}, true},
    {2, 7, {3, 1}, true},
    {3, 8, {16}, false},
    {4, 33, {17, 5, 40}, true},
    {5, 128, {33}, true},
    {6, 130, {8, 24}, true},
    {7, 264, {31, 2, 2}, true},
    {8, 392, {70}, false},
    {8, 520, {16, 9}, true},
    {1, 1030, {35}, true},
    {2, 2048, {5}, true},
    {8, 4104, {18}, true},
    {4, 640, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, true},
    {0, 16, {4}, true},
};

}  // namespace

TEST_CASE("gemv: several products of one x in one launch") {
  for_each_device([](Backend& device, const std::string& what) {
    for (const DenseCase& c : dense_cases) {
      CAPTURE(c.n_tokens);
      CAPTURE(c.k);
      const Operand x = operand(device, c.n_tokens, c.k, 3, c.aligned);
      std::vector<RoundedMatrix> weights;
      std::vector<Backend::Uploaded> uploaded;
      std::vector<std::unique_ptr<DeviceTensor>> outs;
      std::vector<std::unique_ptr<Buffer<float>>> bias;
      std::vector<std::vector<float>> bias_values;
      std::vector<Product> products;
      for (size_t i = 0; i < c.n.size(); ++i) weights.emplace_back(StoredMatrix(DType::bf16, c.n[i], c.k, 20 + i));
      for (size_t i = 0; i < c.n.size(); ++i) uploaded.push_back(device.upload_matrix(weights[i].matrix(), false));
      for (size_t i = 0; i < c.n.size(); ++i) {
        bias_values.push_back(normal_values(c.n[i], 50 + i));
        bias.push_back(std::make_unique<Buffer<float>>(device, bias_values.back()));
        outs.push_back(
            std::make_unique<DeviceTensor>(device, c.n_tokens, c.n[i], DType::f32, std::vector<float>{}, c.n[i] + 3));
        products.push_back(
            {outs[i]->view(), &uploaded[i].matrix, i % 2 == 0 ? Vector{bias[i]->data(), c.n[i]} : Vector{}});
      }
      const int64_t before = count_launches("gemv");
      device.matmul_many(x.view, products);
      for (size_t i = 0; i < c.n.size(); ++i) {
        const auto want = on_cpu(c.n_tokens, c.n[i], [&](Backend& host, Tensor out) {
          host.matmul(out, x.host, weights[i].matrix(), i % 2 == 0 ? Vector{bias_values[i].data(), c.n[i]} : Vector{});
        });
        check_close(*outs[i], want, tolerance::device_gemv, std::sqrt(static_cast<double>(c.k)));
      }
      const int64_t n_launches = c.n_tokens == 0 ? 0 : (static_cast<int64_t>(c.n.size()) + 7) / 8;
      if (what.starts_with("shim")) CHECK(count_launches("gemv") - before == n_launches);
    }
  });
}

TEST_CASE("gemv: a row's bits depend neither on other rows nor on their number") {
  for_each_device([](Backend& device, const std::string&) {
    const int64_t k = 296, n = 20;
    const auto w = device.upload_matrix(RoundedMatrix(StoredMatrix(DType::bf16, n, k, 4)).matrix(), false);
    const Operand all = operand(device, 8, k, 6, true);
    DeviceTensor out(device, 8, n, DType::f32);
    device.matmul(out.view(), all.view, w.matrix, {});
    const std::vector<float> want = out.get();
    for (const int64_t count : {1, 3}) {
      for (int64_t t = 0; t + count <= 8; ++t) {
        DeviceTensor part(device, count, n, DType::f32);
        device.matmul(part.view(), all.view.rows_from(t, count), w.matrix, {});
        CHECK(row_of(part.get(), count - 1, n) == row_of(want, t + count - 1, n));
      }
    }
  });
}

TEST_CASE("gemv: gated hidden states") {
  for_each_device([](Backend& device, const std::string&) {
    for (const cases::Gated& c : cases::gated) {
      if (c.m > most_tokens) continue;
      CAPTURE(c.k);
      const Operand x = operand(device, c.m, c.k, 8, c.x_gap % 8 == 0);
      const RoundedMatrix gate(StoredMatrix(DType::bf16, c.n, c.k, 30), 0.1f);
      const RoundedMatrix up(StoredMatrix(DType::bf16, c.n, c.k, 31), 0.1f);
      const auto device_gate = device.upload_matrix(gate.matrix(), false);
      const auto device_up = device.upload_matrix(up.matrix(), false);
      Activation activation;
      if (c.m % 2 != 0) activation = {Activation::Kind::clamped, 1.5f, 1.25f};
      DeviceTensor hidden(device, c.m, c.n, DType::bf16, {}, c.n + c.out_gap);
      device.gated_hidden(hidden.view(), x.view, device_gate.matrix, device_up.matrix, activation);
      const auto want = on_cpu(c.m, c.n, [&](Backend& host, Tensor out) {
        host.gated_hidden(out, x.host, gate.matrix(), up.matrix(), activation);
      });
      check_close(hidden, want, tolerance::device_gemv_hidden);
    }
  });
}

TEST_CASE("gemv: latent attention's queries absorbed and values expanded") {
  for_each_device([](Backend& device, const std::string&) {
    for (const cases::Latent& c : cases::latents) {
      if (c.tokens > most_tokens) continue;
      CAPTURE(c.latent);
      const RoundedMatrix kv_b(StoredMatrix(DType::bf16, c.heads * (c.nope + c.value), c.latent, 40));
      const auto uploaded = device.upload_matrix(kv_b.matrix(), false);
      const int64_t d_in = c.heads * (c.nope + c.rope), d_out = c.heads * (c.latent + c.rope);
      std::vector<float> q = normal_values(c.tokens * d_in, 41);
      const DeviceTensor device_q(device, c.tokens, d_in, DType::f32, q, d_in + 3);
      DeviceTensor absorbed(device, c.tokens, d_out, DType::f32, {}, d_out + 1);
      device.mla_absorb(absorbed.view(), device_q.view(), uploaded.matrix, c.heads, c.nope, c.rope, c.value);
      check_close(absorbed,
                  on_cpu(c.tokens, d_out,
                         [&](Backend& host, Tensor out) {
                           host.mla_absorb(out, Tensor(q.data(), c.tokens, d_in), kv_b.matrix(), c.heads, c.nope,
                                           c.rope, c.value);
                         }),
                  tolerance::device_gemv, std::sqrt(static_cast<double>(c.nope)));

      // Only the bits of the token's own row count.
      DeviceTensor alone(device, 1, d_out, DType::f32);
      device.mla_absorb(alone.view(), device_q.view().rows_from(c.tokens - 1, 1), uploaded.matrix, c.heads, c.nope,
                        c.rope, c.value);
      CHECK(alone.get() == row_of(absorbed.get(), c.tokens - 1, d_out));

      const Operand latent = operand(device, c.tokens, c.heads * c.latent, 42, c.gap % 8 == 0);
      DeviceTensor values(device, c.tokens, c.heads * c.value, DType::bf16, {}, c.heads * c.value + 3);
      device.mla_expand(values.view(), latent.view, uploaded.matrix, c.heads, c.nope, c.value);
      check_close(values,
                  on_cpu(c.tokens, c.heads * c.value,
                         [&](Backend& host, Tensor out) {
                           host.mla_expand(out, latent.host, kv_b.matrix(), c.heads, c.nope, c.value);
                         }),
                  tolerance::device_gemv_rounded, std::sqrt(static_cast<double>(c.latent)));
    }
  });
}

TEST_CASE("gemv: routed experts read from the route, in place") {
  for_each_device([](Backend& device, const std::string& what) {
    for (const cases::Experts& c : cases::experts) {
      if (c.n_tokens == 0 || c.n_tokens > most_tokens) continue;
      CAPTURE(c.n_tokens);
      CAPTURE(c.n_experts);
      CAPTURE(c.d_model);
      const StoredExperts stored(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
      const RoundedExperts rounded(stored);
      ExpertMatrices host = rounded.matrices(), packed = host;
      const auto block = device.pack_experts(stored.matrices());
      packed.packed = block.get();
      Activation activation;
      if (c.bias) activation = {Activation::Kind::clamped, 1.25f, 3.f};
      HandRoute route = make_route(c);
      Noise noise(10);
      for (uint8_t& banned : route.banned) banned = noise.below(2) == 0;
      const int64_t n_pairs = c.n_tokens * c.n_slots;
      const Buffer<int32_t> ids(device, route.ids);
      const Buffer<float> weights(device, route.weights);
      const Buffer<uint8_t> banned(device, route.banned);
      const Buffer<uint64_t> leaks(device, {5});
      Route device_route;
      device_route.n_slots = c.n_slots;
      device_route.ids = ids.data();
      device_route.weights = weights.data();
      device_route.banned = banned.data();
      uint64_t want_leaks = 5;

      const int64_t before = count_launches("gemv_experts");
      const Operand x = operand(device, c.n_tokens, c.d_model, 5, c.gap % 8 == 0);
      DeviceTensor hidden(device, n_pairs, c.d_ff, DType::bf16, {}, c.d_ff + 3);
      device.experts_hidden(hidden.view(), x.view, device_route, c.n_tokens, packed, activation, leaks.data());
      const auto want = on_cpu(n_pairs, c.d_ff, [&](Backend& cpu, Tensor out) {
        cpu.experts_hidden(out, x.host, route.view(), c.n_tokens, host, activation, &want_leaks);
      });
      // Values of the hidden states may reach a few thousand: the errors of gate and up are relative to their product.
      check_close(hidden, want, tolerance::device_gemv_hidden, 0.2 * static_cast<double>(c.d_model));
      CHECK(leaks.get() == std::vector<uint64_t>{want_leaks});

      // Hidden rows of slots without an expert are never read.
      Operand h = operand(device, n_pairs, c.d_ff, 6, c.gap % 8 == 0);
      DeviceTensor out(device, n_pairs, c.d_model, DType::f32, {}, c.d_model + 5);
      device.experts_out(out.view(), h.view, device_route, c.n_tokens, packed);
      const auto want_out = on_cpu(n_pairs, c.d_model, [&](Backend& cpu, Tensor to) {
        cpu.experts_out(to, h.host, route.view(), c.n_tokens, host);
      });
      check_close(out, want_out, tolerance::device_gemv, std::sqrt(static_cast<double>(c.d_ff)));
      if (what.starts_with("shim")) CHECK(count_launches("gemv_experts") == before + 2);

      // The last token alone.
      Route last = device_route;
      last.ids += (c.n_tokens - 1) * c.n_slots;
      last.banned = nullptr;
      DeviceTensor alone(device, c.n_slots, c.d_ff, DType::bf16), alone_out(device, c.n_slots, c.d_model, DType::f32);
      device.experts_hidden(alone.view(), x.view.rows_from(c.n_tokens - 1, 1), last, 1, packed, activation,
                            leaks.data());
      device.experts_out(alone_out.view(), h.view.rows_from(n_pairs - c.n_slots, c.n_slots), last, 1, packed);
      const std::vector<float> all = hidden.get(), all_out = out.get();
      CHECK(alone.get() == std::vector<float>(all.end() - c.n_slots * c.d_ff, all.end()));
      CHECK(alone_out.get() == std::vector<float>(all_out.end() - c.n_slots * c.d_model, all_out.end()));
      CHECK(leaks.get() == std::vector<uint64_t>{want_leaks});
    }
  });
}

TEST_CASE("combine: the CPU's bits, and rows that do not count are not read") {
  struct Case {
    int64_t n_tokens, cols;
    int32_t n_slots;
    bool shared;
    int64_t gap;
  };
  for_each_device([](Backend& device, const std::string&) {
    for (const Case& c : {Case{1, 5, 1, false, 0}, Case{3, 132, 8, true, 3}, Case{40, 260, 9, true, 4},
                          Case{2, 64, 20, false, 0}, Case{70, 128, 3, false, 8}, Case{0, 8, 2, false, 0}}) {
      CAPTURE(c.cols);
      HandRoute route(c.n_tokens, c.n_slots, 4);
      Noise noise(12);
      const int64_t n_pairs = c.n_tokens * c.n_slots;
      std::vector<float> rows = normal_values(n_pairs * c.cols, 13), shared = normal_values(c.n_tokens * c.cols, 14);
      for (size_t i = 0; i < route.ids.size(); ++i) {
        const int64_t kind = noise.below(5);
        route.ids[i] = kind == 0 ? -1 : static_cast<int32_t>(noise.below(4));
        route.weights[i] = kind == 1 ? 0.f : noise.normal();
        if (kind <= 1) std::fill_n(rows.begin() + static_cast<int64_t>(i) * c.cols, c.cols, NAN);
      }
      const Buffer<int32_t> ids(device, route.ids);
      const Buffer<float> weights(device, route.weights);
      Route device_route;
      device_route.n_slots = c.n_slots;
      device_route.ids = ids.data();
      device_route.weights = weights.data();
      const DeviceTensor in(device, n_pairs, c.cols, DType::f32, rows, c.cols + c.gap);
      const DeviceTensor more(device, c.n_tokens, c.cols, DType::f32, shared, c.cols + c.gap);
      DeviceTensor out(device, c.n_tokens, c.cols, DType::f32, {}, c.cols + c.gap);
      device.combine(out.view(), in.view(), device_route, c.shared ? more.view() : Tensor{});
      const auto want = on_cpu(c.n_tokens, c.cols, [&](Backend& cpu, Tensor to) {
        cpu.combine(to, Tensor(rows.data(), n_pairs, c.cols), route.view(),
                    c.shared ? Tensor(shared.data(), c.n_tokens, c.cols) : Tensor{});
      });
      CHECK(out.get() == want);
      CHECK(out.guards_hold());
    }
  });
}

}  // namespace signalbox::test
