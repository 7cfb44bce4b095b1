// Routed experts: the grouped path against single-token matrix products, bit for bit, and combine in slot order.
#include "kernels/cases/experts.h"

#include "tests/ops/op_data.h"

namespace signalbox::test {

TEST_CASE("experts: equal, bit for bit, to each token alone through matmul") {
  for (const cases::Experts& c : cases::experts) {
    const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
    const ExpertMatrices matrices = experts.matrices();
    Activation activation;
    activation.kind = c.bias ? Activation::Kind::clamped : Activation::Kind::silu;
    HandRoute route = make_route(c);
    Guarded x(c.n_tokens, c.d_model, 5), hidden(c.n_tokens * c.n_slots, c.d_ff), out(c.n_tokens * c.n_slots, c.d_model);
    Guarded want_hidden(c.n_tokens * c.n_slots, c.d_ff), want_out(c.n_tokens * c.n_slots, c.d_model);
    const auto plain = cpu("auto", 1);
    for (int64_t i = 0; i < c.n_tokens * c.n_slots; ++i) {
      const int32_t e = route.ids[static_cast<size_t>(i)];
      if (e < 0) {
        std::fill_n(want_hidden.view().row(i), c.d_ff, 0.f);
        std::fill_n(want_out.view().row(i), c.d_model, 0.f);
        continue;
      }
      const size_t at = static_cast<size_t>(e);
      Guarded gate(1, c.d_ff), up(1, c.d_ff);
      const auto bias = [&](std::span<const Vector> list) { return c.bias ? list[at] : Vector{}; };
      plain->matmul(gate.view(), x.row(i / c.n_slots), matrices.gate[at], bias(matrices.gate_bias));
      plain->matmul(up.view(), x.row(i / c.n_slots), matrices.up[at], bias(matrices.up_bias));
      for (int64_t f = 0; f < c.d_ff; ++f) {
        const double g = static_cast<double>(gate.at(0, f)), u = static_cast<double>(up.at(0, f));
        const double cg = std::min(g, 7.0), cu = std::max(-7.0, std::min(7.0, u));
        const double want =
            c.bias ? cg / (1 + std::exp(-static_cast<double>(1.702f) * cg)) * (cu + 1) : g / (1 + std::exp(-g)) * u;
        want_hidden.at(i, f) = static_cast<float>(want);
      }
    }
    uint64_t leaks = 0;
    int64_t wrong = 0;
    const auto backend = cpu();
    backend->experts_hidden(hidden.view(), x.view(), route.view(), c.n_tokens, matrices, activation, &leaks);
    for (int64_t i = 0; i < hidden.rows(); ++i) {
      for (int64_t f = 0; f < c.d_ff; ++f) {
        wrong += !near(hidden.at(i, f), want_hidden.at(i, f), std::abs(static_cast<double>(want_hidden.at(i, f))) + 1,
                       tolerance::activation);
      }
      const int32_t e = route.ids[static_cast<size_t>(i)];
      if (e < 0) continue;
      plain->matmul(want_out.row(i), hidden.row(i), matrices.down[static_cast<size_t>(e)],
                    c.bias ? matrices.down_bias[static_cast<size_t>(e)] : Vector{});
    }
    CHECK(wrong == 0);
    CHECK(leaks == 0);
    backend->experts_out(out.view(), hidden.view(), route.view(), c.n_tokens, matrices);
    CHECK(same_bits(out.view(), want_out.view()));
    CHECK((hidden.guards_hold() && out.guards_hold()));
    // One token at a time, other threads and instruction sets.
    for (const std::string& isa : machine_isas()) {
      const auto other = cpu(isa, 3);
      Guarded h(hidden.rows(), c.d_ff), o(out.rows(), c.d_model);
      for (int64_t t = 0; t < c.n_tokens; ++t) {
        Route one = route.view();
        one.ids += t * c.n_slots;
        one.weights += t * c.n_slots;
        one.banned += t * c.n_experts;
        const Tensor ht(h.view().row(t * c.n_slots), c.n_slots, c.d_ff, c.d_ff + 3);
        other->experts_hidden(ht, x.row(t), one, 1, matrices, activation, &leaks);
        other->experts_out(Tensor(o.view().row(t * c.n_slots), c.n_slots, c.d_model, c.d_model + 3), ht, one, 1,
                           matrices);
      }
      CHECK(same_bits(h.view(), hidden.view()));
      CHECK(same_bits(o.view(), out.view()));
    }
  }
}

TEST_CASE("experts: a banned expert that runs is counted for every token and slot") {
  const cases::Experts c = {40, 8, 2, 33, 24, DType::bf16, false, cases::Experts::spread, 0};
  const StoredExperts experts(c.dtype, c.n_experts, c.d_model, c.d_ff, c.bias, 3);
  HandRoute route = make_route(c);
  uint64_t expected = 0, leaks = 5;
  for (int64_t t = 0; t < c.n_tokens; t += 3) {
    route.banned[static_cast<size_t>(t * c.n_experts + 3)] = 1;
    for (int32_t i = 0; i < c.n_slots; ++i) expected += route.ids[static_cast<size_t>(t * c.n_slots + i)] == 3;
  }
  REQUIRE(expected > 0);
  Guarded x(c.n_tokens, c.d_model, 5), hidden(c.n_tokens * c.n_slots, c.d_ff);
  cpu()->experts_hidden(hidden.view(), x.view(), route.view(), c.n_tokens, experts.matrices(), Activation{}, &leaks);
  CHECK(leaks == 5 + expected);
}

TEST_CASE("combine: slots in order, unused and zero-weight slots skipped, shared last") {
  const cases::Experts c = {17, 5, 3, 32, 32, DType::mxfp4, true, cases::Experts::unused_slots, 0};
  HandRoute route = make_route(c);
  const float nan = std::nanf("");
  Guarded expert_out(c.n_tokens * c.n_slots, 37, 1), shared(c.n_tokens, 37, 2), out(c.n_tokens, 37);
  route.weights[4 * 3] = 0;  // token 4, slot 0: a hole, whatever stands there
  for (int64_t i = 0; i < expert_out.rows(); ++i) {
    if (route.ids[static_cast<size_t>(i)] < 0 || i == 12) std::fill_n(expert_out.view().row(i), 37, nan);
  }
  for (const std::string& isa : machine_isas()) {
    for (const bool with_shared : {false, true}) {
      cpu(isa)->combine(out.view(), expert_out.view(), route.view(), with_shared ? shared.view() : Tensor());
      int64_t wrong = 0;
      for (int64_t t = 0; t < c.n_tokens; ++t) {
        for (int64_t d = 0; d < 37; ++d) {
          float want = 0;
          for (int64_t i = t * c.n_slots; i < (t + 1) * c.n_slots; ++i) {
            const size_t at = static_cast<size_t>(i);
            if (route.ids[at] >= 0 && route.weights[at] != 0)
              want = std::fma(route.weights[at], expert_out.at(i, d), want);
          }
          if (with_shared) want += shared.at(t, d);
          wrong += out.at(t, d) != want;
        }
      }
      CHECK(wrong == 0);
      CHECK(out.guards_hold());
    }
  }
}

}  // namespace signalbox::test
