// Routed experts in tiles on a device: against the CPU backend on the same values, for every size of tiles, through
// replayed graphs, and with bits that do not depend on the other tokens.
#include "kernels/cases/experts.h"

#include <cmath>
#include <vector>

#include "doctest/doctest.h"
#include "tests/device/device.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

using Case = cases::Experts;

// A route and experts in the memory of a backend.
struct OnDevice {
  OnDevice(Backend& backend, const Case& c, const StoredExperts& experts, const HandRoute& hand)
      : ids(backend, hand.ids),
        weights(backend, hand.weights),
        banned(backend, hand.banned),
        packed(backend.pack_experts(experts.matrices())),
        matrices(experts.matrices()) {
    matrices.packed = packed.get();
    route.n_slots = c.n_slots;
    route.ids = ids.data();
    route.weights = weights.data();
    route.banned = banned.data();
  }
  Buffer<int32_t> ids;
  Buffer<float> weights;
  Buffer<uint8_t> banned;
  std::shared_ptr<const PackedExperts> packed;
  ExpertMatrices matrices;
  Route route;
};

Activation activation_of(const Case& c) {
  Activation activation;
  activation.kind = c.bias ? Activation::Kind::clamped : Activation::Kind::silu;
  activation.limit = 3;
  return activation;
}

// hidden and out of tokens first .. first + count. `out` is made from given values, the same on both sides.
struct Results {
  std::vector<float> hidden, out;
};
std::vector<float> given_hidden(const Case& c) { return normal_values(c.n_tokens * c.n_slots * c.d_ff, 31, true); }

Results run(Backend& backend, const Case& c, const OnDevice& d, const std::vector<float>& x,
            const std::vector<float>& h, int64_t first, int64_t count, uint64_t* leaks = nullptr) {
  const DType operand = backend.operand_dtype();
  const int64_t gap = backend.shares_host_memory() ? 0 : c.gap, pairs = count * c.n_slots;
  const auto part = [&](const std::vector<float>& all, int64_t rows, int64_t cols) {
    return std::vector<float>(all.begin() + first * rows * cols, all.begin() + (first + count) * rows * cols);
  };
  const DeviceTensor device_x(backend, count, c.d_model, operand, part(x, 1, c.d_model), c.d_model + gap);
  const DeviceTensor device_h(backend, pairs, c.d_ff, operand, part(h, c.n_slots, c.d_ff), c.d_ff + gap);
  const DeviceTensor hidden(backend, pairs, c.d_ff, operand, {}, c.d_ff + gap);
  const DeviceTensor out(backend, pairs, c.d_model, DType::f32, {}, c.d_model + gap);
  Route route = d.route;
  route.ids += first * c.n_slots;
  route.banned += first * c.n_experts;
  backend.experts_hidden(hidden.view(), device_x.view(), route, count, d.matrices, activation_of(c), leaks);
  backend.experts_out(out.view(), device_h.view(), route, count, d.matrices);
  CHECK(hidden.guards_hold());
  CHECK(out.guards_hold());
  return {hidden.get(), out.get()};
}

Results want_of(const Case& c, const StoredExperts& experts, const HandRoute& route, const std::vector<float>& x) {
  const auto host = cpu();
  const OnDevice d(*host, c, experts, route);
  return run(*host, c, d, x, given_hidden(c), 0, c.n_tokens);
}

void check_near(const Results& got, const Results& want) {
  const auto& h = tolerance::device_hidden;
  const auto& o = tolerance::device_matmul;
  const Worst hidden = compare(got.hidden, want.hidden, h.absolute, h.relative);
  const Worst out = compare(got.out, want.out, o.absolute, o.relative);
  INFO("hidden ", hidden.text, ", out ", out.text);
  CHECK(hidden.excess <= 0);
  CHECK(out.excess <= 0);
}

bool same_bits(const std::vector<float>& part, const std::vector<float>& all, int64_t first) {
  return std::memcmp(part.data(), all.data() + first, part.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("device experts: every size of tiles and format") {
  for (const Case& c : cases::experts) {
    // Sums of other lengths and stored types are tested in place (tests/device/gemv_test.cpp) and on the CPU.
    if (c.n_tokens == 0 || c.d_model > 520 || (c.dtype != DType::bf16 && c.dtype != DType::mxfp4)) continue;
    const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
    const HandRoute route = make_route(c);
    const std::vector<float> x = normal_values(c.n_tokens * c.d_model, 5, true);
    const Results want = want_of(c, experts, route, x);
    for_each_device(
        [&](Backend& device, const std::string& what) {
          if (c.n_tokens > 1000 && what.find("descending") != std::string::npos) return;
          const OnDevice d(device, c, experts, route);
          INFO(what, ", case ", &c - cases::experts);
          check_near(run(device, c, d, x, given_hidden(c), 0, c.n_tokens), want);
        },
        true);
  }
}

TEST_CASE("device experts: the default mode takes tiles from nine tokens on") {
  const Case c = cases::experts[2];
  const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
  const HandRoute route = make_route(c);
  const std::vector<float> x = normal_values(c.n_tokens * c.d_model, 5, true);
  const Results want = want_of(c, experts, route, x);
  for_each_device([&](Backend& device, const std::string&) {
    const OnDevice d(device, c, experts, route);
    check_near(run(device, c, d, x, given_hidden(c), 0, c.n_tokens), want);
  });
}

TEST_CASE("device experts: the bits of a token do not depend on the other tokens") {
  for (const Case& c : {cases::experts[4], cases::experts[7]}) {
    const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
    const HandRoute route = make_route(c);
    const std::vector<float> x = normal_values(c.n_tokens * c.d_model, 5, true), h = given_hidden(c);
    for_each_device(
        [&](Backend& device, const std::string& what) {
          if (what.find("descending") != std::string::npos) return;
          const OnDevice d(device, c, experts, route);
          const Results all = run(device, c, d, x, h, 0, c.n_tokens);
          for (const auto& range : {std::pair<int64_t, int64_t>{0, 1}, {77, 1}, {5, 9}, {30, 60}}) {
            const int64_t first = range.first, count = range.second;
            const Results part = run(device, c, d, x, h, first, count);
            INFO(what, ", tokens ", first, " + ", count);
            CHECK(same_bits(part.hidden, all.hidden, first * c.n_slots * c.d_ff));
            CHECK(same_bits(part.out, all.out, first * c.n_slots * c.d_model));
          }
        },
        true);
  }
}

TEST_CASE("device experts: a replayed graph sorts the route that stands there then") {
  for (const Case& c : {cases::experts[1], cases::experts[11]}) {
    const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
    const std::vector<float> x = normal_values(c.n_tokens * c.d_model, 5, true), h = given_hidden(c);
    for_each_device(
        [&](Backend& device, const std::string& what) {
          if (what.find("descending") != std::string::npos) return;
          const OnDevice d(device, c, experts, make_route(c));
          const int64_t pairs = c.n_tokens * c.n_slots;
          const DeviceTensor device_x(device, c.n_tokens, c.d_model, DType::bf16, x);
          const DeviceTensor device_h(device, pairs, c.d_ff, DType::bf16, h);
          const DeviceTensor hidden(device, pairs, c.d_ff, DType::bf16), out(device, pairs, c.d_model, DType::f32);
          const int64_t key[] = {1, c.n_tokens};
          device.forget_graphs();  // of memory that is gone
          for (uint64_t seed = 9; seed < 13; ++seed) {
            Case other = c;
            other.pattern = seed % 2 != 0 ? Case::spread : Case::skewed;
            const HandRoute route = make_route(other, seed);
            device.upload(d.ids.data(), route.ids.data(), route.ids.size() * sizeof(int32_t));
            device.replay(key, [&] {
              device.experts_hidden(hidden.view(), device_x.view(), d.route, c.n_tokens, d.matrices, activation_of(c),
                                    nullptr);
              device.experts_out(out.view(), device_h.view(), d.route, c.n_tokens, d.matrices);
            });
            INFO(what, ", seed ", seed);
            check_near({hidden.get(), out.get()}, want_of(other, experts, route, x));
          }
        },
        true);
  }
}

TEST_CASE("device experts: experts_out after another route's experts_hidden") {
  const Case c = cases::experts[1];
  const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
  const HandRoute first = make_route(c, 1), second = make_route(c, 2);
  REQUIRE(first.ids != second.ids);
  const std::vector<float> x = normal_values(c.n_tokens * c.d_model, 5, true), h = given_hidden(c);
  const Results want = want_of(c, experts, first, x);
  for_each_device(
      [&](Backend& device, const std::string&) {
        const OnDevice a(device, c, experts, first), b(device, c, experts, second);
        const int64_t pairs = c.n_tokens * c.n_slots;
        const DeviceTensor device_x(device, c.n_tokens, c.d_model, DType::bf16, x);
        const DeviceTensor device_h(device, pairs, c.d_ff, DType::bf16, h);
        const DeviceTensor hidden(device, pairs, c.d_ff, DType::bf16), out(device, pairs, c.d_model, DType::f32);
        const Activation activation = activation_of(c);
        device.experts_hidden(hidden.view(), device_x.view(), a.route, c.n_tokens, a.matrices, activation, nullptr);
        const std::vector<float> hidden_a = hidden.get();
        device.experts_hidden(hidden.view(), device_x.view(), b.route, c.n_tokens, b.matrices, activation, nullptr);
        device.experts_out(out.view(), device_h.view(), a.route, c.n_tokens, a.matrices);
        check_near({hidden_a, out.get()}, want);
      },
      true);
}

TEST_CASE("device experts: a banned expert that runs is counted for every token and slot") {
  for (const Case& c : {cases::experts[2], cases::experts[11]}) {
    const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
    HandRoute route = make_route(c);
    uint64_t expected = 5;
    for (int64_t t = 0; t < c.n_tokens; ++t) {
      if (t % 3 == 1) continue;
      route.banned[static_cast<size_t>(t * c.n_experts + 3)] = 1;
      for (int32_t i = 0; i < c.n_slots; ++i) expected += route.ids[static_cast<size_t>(t * c.n_slots + i)] == 3;
    }
    REQUIRE(expected > 5);
    const std::vector<float> x = normal_values(c.n_tokens * c.d_model, 5, true);
    for_each_device(
        [&](Backend& device, const std::string&) {
          OnDevice d(device, c, experts, route);
          const Buffer<uint64_t> leaks(device, {5});
          run(device, c, d, x, given_hidden(c), 0, c.n_tokens, leaks.data());
          CHECK(leaks.get()[0] == expected);
        },
        true);
  }
}

}  // namespace signalbox::test
