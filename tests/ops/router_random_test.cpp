// Random programs against the reference router; no-ops and self-replay bit for bit; bans; the statistics of draws.
#include <cmath>
#include <map>
#include <set>

#include "kernels/random.h"
#include "tests/ops/router_reference.h"
#include "tests/ops/router_run.h"

namespace signalbox::test {

namespace {

using Ids = std::vector<int32_t>;

// A random router, logits on a grid of 1/16 (so that ties are frequent and exact), and a program. Lists live here.
struct RandomCase {
  explicit RandomCase(uint64_t seed, bool with_bans_only = false) : noise(seed) {
    static const int32_t sizes[] = {4, 6, 8, 16, 60, 64, 128, 512};
    Router& r = in.router;
    r.n_experts = sizes[noise.below(noise.below(8) ? 6 : 8)];
    r.n_active =
        static_cast<int32_t>(1 + noise.below(std::min<int64_t>(noise.below(4) ? r.n_experts / 2 : r.n_experts, 10)));
    r.score = noise.below(4) ? Router::Score::softmax : Router::Score::sigmoid;
    r.softmax_over_selected = noise.below(4) == 0;
    r.renormalize = noise.below(2) && !r.softmax_over_selected;
    r.renormalize_epsilon = noise.below(2) ? 1e-20f : 0;
    r.scale = noise.below(2) ? 1.f : 2.5f;
    if (noise.below(3) == 0 && !r.softmax_over_selected) {
      r.n_groups = r.n_experts % 4 == 0 && noise.below(2) ? 4 : 2;
      r.n_groups_kept = static_cast<int32_t>(1 + noise.below(r.n_groups));
      r.group_score = noise.below(2) ? Router::GroupScore::max : Router::GroupScore::sum_top2;
    }
    r.selection_bias = noise.below(4) == 0;
    for (int32_t e = 0; e < r.n_experts; ++e) {
      in.logits.push_back(std::round(noise.normal() * 32) / 16);
      in.selection_bias.push_back(noise.normal() * 0.1f);
    }
    in.position = static_cast<int32_t>(noise.below(6));
    in.layer = static_cast<int32_t>(noise.below(30));
    in.sample = static_cast<uint32_t>(noise.below(3));
    in.record_hash = noise.bits();
    const int64_t n_steps = noise.below(5);
    lists.resize(static_cast<size_t>(n_steps));
    rates.resize(lists.size());
    replayed.resize(lists.size());
    replayed_weights.resize(lists.size());
    for (int64_t i = 0; i < n_steps; ++i) add_step(static_cast<size_t>(i), with_bans_only);
    for (int64_t i = 0; i < n_steps; ++i) in.active.push_back(noise.below(5) != 0);
    in.active.resize(16, 0);
  }

  Ids distinct(int64_t n) {
    Ids all(static_cast<size_t>(in.router.n_experts));
    for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
    for (size_t e = 0; e + 1 < all.size(); ++e)
      std::swap(all[e], all[e + static_cast<size_t>(noise.below(static_cast<int64_t>(all.size() - e)))]);
    all.resize(static_cast<size_t>(std::min<int64_t>(n, in.router.n_experts)));
    return all;
  }

  void add_step(size_t i, bool drawn_only) {
    const Router& r = in.router;
    RouterStep s;
    static const EditOp drawn[] = {EditOp::ban,       EditOp::random, EditOp::gumbel,      EditOp::frequency_matched,
                                   EditOp::next_best, EditOp::worst,  EditOp::steermoe_up, EditOp::bias,
                                   EditOp::top_k};
    s.op = drawn_only ? drawn[noise.below(9)]
                      : static_cast<EditOp>(noise.below(static_cast<int64_t>(EditOp::scale_shared) + 1));
    s.edit = static_cast<int32_t>(i);
    s.seed = noise.bits();
    s.weights = static_cast<WeightPolicy>(noise.below(6));
    if (noise.below(4) == 0) s.margin_below = static_cast<float>(noise.unit()) * 0.5f;
    if (noise.below(6) == 0) s.near_tie_below = static_cast<float>(noise.unit()) * 0.1f;
    s.within_kept = noise.below(2);
    Ids& list = lists[i];
    switch (s.op) {
      case EditOp::bias: s.value = static_cast<float>(noise.below(5) - 2); break;
      case EditOp::temperature: s.value = noise.below(3) ? 1.7f : 1.f; break;
      case EditOp::gumbel: s.value = static_cast<float>(noise.below(3)); break;
      case EditOp::scale_expert:
      case EditOp::scale_shared: s.value = static_cast<float>(noise.below(3)) * 0.75f; break;
      case EditOp::top_k: s.k = static_cast<int32_t>(1 + noise.below(std::min(r.n_experts, r.n_active + 3))); break;
      case EditOp::shift: s.shift = static_cast<int32_t>(noise.below(r.n_experts)); break;
      case EditOp::random: s.exclude_original = noise.below(2); break;
      default: break;
    }
    if (s.op == EditOp::permute) {
      list = distinct(r.n_experts);
    } else if (s.op == EditOp::fixed) {
      list = distinct(r.n_active);
    } else {
      list = distinct(1 + noise.below(std::max(1, r.n_experts / 4)));
      std::sort(list.begin(), list.end());
    }
    s.experts = list.data();
    s.n_listed = static_cast<int32_t>(list.size());
    for (int32_t e = 0; e < r.n_experts; ++e)
      rates[i].push_back(noise.below(3) ? static_cast<float>(noise.unit()) : 0.f);
    s.rates = rates[i].data();
    if (s.op == EditOp::replay) {
      s.replay_k = r.n_active;
      s.replay_positions = 5;
      for (int p = 0; p < 3; ++p) {
        const Ids row = distinct(s.replay_k);
        replayed[i].insert(replayed[i].end(), row.begin(), row.end());
        for (int32_t j = 0; j < s.replay_k; ++j) replayed_weights[i].push_back(noise.normal());
      }
      s.replay_ids = replayed[i].data();
      static const int32_t index[5] = {1, 0, 2, -1, 0};
      s.replay_index = index;
      s.leave_past = noise.below(2);
      if (noise.below(3) == 0) s.weights = WeightPolicy::recorded, s.replay_weights = replayed_weights[i].data();
    }
    in.steps.push_back(s);
  }

  // Runs the kernel on this token, alone.
  RouterRun run(Backend& backend) {
    RouterRun run(1, in.router, in.router.n_active + 4);
    const RouterProgram program{in.steps.data(), static_cast<int32_t>(in.steps.size())};
    const int32_t sequence = 0;
    RouteBatch batch;
    batch.n_tokens = 1;
    batch.positions = &in.position;
    batch.sequences = &sequence;
    batch.programs = &program;
    batch.active = in.active.data();
    batch.n_edits = 16;
    batch.record_hash = &in.record_hash;
    batch.samples = &in.sample;
    batch.layer = in.layer;
    backend.route(run.view(), Tensor(in.logits.data(), 1, in.router.n_experts), {}, {}, nullptr, in.router,
                  in.selection_bias.data(), batch);
    run.finish();
    return run;
  }

  Noise noise;
  ReferenceInput in;
  std::vector<Ids> lists, replayed;
  std::vector<std::vector<float>> rates, replayed_weights;
};

// What the run adds to its counts, from the routes with and without edits.
TokenEdits counted(const RouterRun& got, const RouterRun& plain, bool acted) {
  TokenEdits want{5, 70, 3};
  if (!acted) return want;
  uint32_t applied = 0, original = 0, same = 0;
  for (size_t i = 0; i < got.ids.size(); ++i) applied += got.ids[i] >= 0;
  for (size_t o = 0; o < plain.ids.size(); ++o) {
    ++original;
    for (size_t i = 0; i < got.ids.size(); ++i)
      same += got.ids[i] == plain.ids[o] && got.weights[i] == plain.weights[o];
  }
  want.layers += 1;
  want.changed += std::max(applied, original) - same;
  want.added += applied > original ? applied - original : 0;
  return want;
}

double chi_square(const std::vector<int64_t>& counts, const std::vector<double>& expected) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i)
    sum += std::pow(static_cast<double>(counts[i]) - expected[i], 2) / expected[i];
  return sum;
}

}  // namespace

TEST_CASE("router: random programs equal the reference") {
  const auto backend = cpu("auto", 1);
  std::map<EditOp, int> acted;
  int faults = 0, grouped = 0, untouched = 0, widened = 0;
  for (uint64_t seed = 1; seed <= 30000; ++seed) {
    RandomCase c(seed);
    const ReferenceRoute want = reference_route(c.in);
    const RouterRun got = c.run(*backend);
    const size_t slots = static_cast<size_t>(got.n_slots);
    Ids ids = want.ids, original_ids = want.original_ids;
    ids.resize(slots, -1);
    original_ids.resize(slots, -1);
    bool same = got.ids == ids && got.original_ids == original_ids &&
                static_cast<double>(got.shared_scale[0]) == want.shared_scale;
    same = same && static_cast<double>(got.margin[0]) == want.margin;
    same = same && (std::isinf(want.group_margin)
                        ? std::isinf(got.group_margin[0])
                        : near(got.group_margin[0], want.group_margin, 1, tolerance::router_group_margin));
    grouped += !std::isinf(want.group_margin);
    same = same && (got.fault.kind != RouteFault::Kind::none) == want.fault.has_value();
    if (want.fault && same)
      same = got.fault.kind == want.fault->kind && got.fault.edit == want.fault->edit &&
             got.fault.expert == want.fault->expert;
    for (size_t i = 0; same && i < want.weights.size(); ++i) {
      same = near(got.weights[i], want.weights[i], std::abs(want.weights[i]), tolerance::router_weight);
    }
    for (size_t i = want.weights.size(); same && i < slots; ++i) same = got.weights[i] == 0;
    for (size_t e = 0; same && e < got.banned.size() && !want.fault; ++e) same = got.banned[e] == want.banned[e];
    const RouterRun plain = route_one(c.in.logits, c.in.router, {}, 0, 0, c.in.selection_bias.data());
    const TokenEdits counts = counted(got, plain, want.acted), &found = got.edits[0];
    same = same && found.layers == counts.layers && found.changed == counts.changed && found.added == counts.added;
    untouched += want.acted && counts.changed == 70;
    widened += counts.added > 3;
    faults += want.fault.has_value();
    for (const RouterStep& s : c.in.steps) acted[s.op] += !want.fault && c.in.active[static_cast<size_t>(s.edit)];
    INFO("seed ", seed);
    REQUIRE(same);
  }
  CHECK(faults > 500);
  CHECK(grouped > 500);
  CHECK(untouched > 500);
  CHECK(widened > 500);
  for (int op = 0; op <= static_cast<int>(EditOp::scale_shared); ++op) CHECK(acted[static_cast<EditOp>(op)] > 500);
}

TEST_CASE("router: edits that change nothing leave every bit") {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    RandomCase c(seed);
    Router& r = c.in.router;
    const RouterRun plain = route_one(c.in.logits, r, {}, 0, 0, c.in.selection_bias.data());
    const Ids all = c.distinct(r.n_experts);
    const std::vector<float> weights = plain.route_weights();
    const int32_t index = 0;
    const Ids ids = plain.route_ids();
    std::vector<RouterStep> steps = {make_step(EditOp::bias, all, 0, WeightPolicy::hole),
                                     make_step(EditOp::temperature, {}, 1, WeightPolicy::renormalize),
                                     make_step(EditOp::top_k, {}, 0, WeightPolicy::renormalize),
                                     make_step(EditOp::shift, {}, 0, WeightPolicy::renormalize),
                                     make_step(EditOp::scale_expert, all, 1),
                                     make_step(EditOp::scale_shared, {}, 1),
                                     make_step(EditOp::ban)};
    steps[2].k = r.n_active;
    RouterStep never = make_step(EditOp::next_best);
    never.margin_below = 0;  // no margin is below 0
    steps.push_back(never);
    RouterStep replay = make_step(EditOp::replay);
    replay.replay_ids = ids.data();
    replay.replay_weights = weights.data();
    replay.replay_index = &index;
    replay.replay_positions = 1;
    replay.replay_k = r.n_active;
    for (const WeightPolicy policy : {WeightPolicy::model, WeightPolicy::keep_scores, WeightPolicy::preserve_mass,
                                      WeightPolicy::keep_slot, WeightPolicy::hole, WeightPolicy::recorded}) {
      replay.weights = policy;
      for (const std::vector<RouterStep>& program : {steps, std::vector<RouterStep>{replay}}) {
        const RouterRun run = route_one(c.in.logits, r, program, 0, 0, c.in.selection_bias.data());
        REQUIRE(run.ids == plain.ids);
        REQUIRE(std::memcmp(run.weights.data(), plain.weights.data(), plain.weights.size() * 4) == 0);
        REQUIRE(run.fault.kind == RouteFault::Kind::none);
      }
    }
  }
}

TEST_CASE("router: a banned expert is never selected") {
  const auto backend = cpu("auto", 1);
  int64_t bans = 0, selected = 0, routed = 0;
  for (uint64_t seed = 1; seed <= 100000; ++seed) {
    RandomCase c(seed + 1000000, true);
    const RouterRun run = c.run(*backend);
    if (run.fault.kind != RouteFault::Kind::none) continue;
    ++routed;
    for (const uint8_t banned : run.banned) bans += banned;
    for (const int32_t e : run.ids) selected += e >= 0 && run.banned[static_cast<size_t>(e)];
    // what is listed as banned is marked as banned
    for (const RouterStep& s : c.in.steps) {
      if (s.op != EditOp::ban || !c.in.active[static_cast<size_t>(s.edit)] ||
          !(run.margin[0] < s.margin_below || std::isinf(s.margin_below)) || !std::isinf(s.near_tie_below))
        continue;
      for (int32_t i = 0; i < s.n_listed; ++i) REQUIRE(run.banned[static_cast<size_t>(s.experts[i])] == 1);
    }
  }
  CHECK(selected == 0);
  CHECK(routed > 50000);
  CHECK(bans > 20000);
}

TEST_CASE("router: a batch of sequences with different programs equals its tokens alone, whatever the threads") {
  const Router router = softmax_router(16, 4);
  const int64_t n = 257;
  Noise noise(4);
  std::vector<float> logits;
  for (int64_t i = 0; i < n * 16; ++i) logits.push_back(noise.normal());
  const Ids banned = {0, 5, 9};
  std::vector<RouterStep> first = {make_step(EditOp::ban, banned), make_step(EditOp::random)},
                          second = {make_step(EditOp::gumbel, {}, 1)};
  first[0].edit = 0, first[1].edit = 1, second[0].edit = 2;
  first[1].seed = second[0].seed = 77;
  const RouterProgram programs[3] = {{first.data(), 2}, {nullptr, 0}, {second.data(), 1}};
  const uint64_t hashes[3] = {11, 22, 33};
  const uint32_t samples[3] = {0, 1, 2};
  std::vector<int32_t> positions, sequences;
  std::vector<uint8_t> active;
  for (int32_t t = 0; t < n; ++t) {
    positions.push_back(t * 3 % 101), sequences.push_back(t % 3);
    for (int e = 0; e < 3; ++e) active.push_back((t + e) % 4 != 0);
  }
  const auto run_rows = [&](Backend& backend, RouterRun& run, int64_t from, int64_t rows) {
    RouteBatch batch;
    batch.n_tokens = rows;
    batch.positions = positions.data() + from;
    batch.sequences = sequences.data() + from;
    batch.programs = programs;
    batch.active = active.data() + from * 3;
    batch.n_edits = 3;
    batch.record_hash = hashes;
    batch.samples = samples;
    batch.layer = 4;
    backend.route(run.view(), Tensor(logits.data() + from * 16, rows, 16), {}, {}, nullptr, router, nullptr, batch);
    run.finish();
  };
  RouterRun want(n, router, 4);
  run_rows(*cpu("scalar", 1), want, 0, n);
  CHECK(want.fault.kind == RouteFault::Kind::none);
  for (const int n_threads : {2, 3}) {
    const auto backend = cpu("auto", n_threads);
    RouterRun all(n, router, 4);
    run_rows(*backend, all, 0, n);
    CHECK(
        (all.ids == want.ids && all.weights == want.weights && all.banned == want.banned && all.scores == want.scores));
    for (int64_t t = 0; t < n; ++t) {
      RouterRun one(1, router, 4);
      run_rows(*backend, one, t, 1);
      REQUIRE((one.route_ids() == want.route_ids(t) && one.route_weights() == want.route_weights(t)));
    }
  }
  CHECK(want.route_ids(4) == Ids(want.original_ids.begin() + 16, want.original_ids.begin() + 20));  // no program
}

TEST_CASE("draws: Philox known answer, uniforms inside (0, 1), every part of the key matters") {
  const auto zero = r123::Philox4x32()({{0, 0, 0, 0}}, {{0, 0}});
  CHECK((zero.v[0] == 0x6627e8d5 && zero.v[1] == 0xe169c58d && zero.v[2] == 0xbc57ac4c && zero.v[3] == 0x9b00dbd8));
  DrawKey base;
  base.seed = 1, base.record_hash = 2, base.sample = 3, base.position = 4, base.layer = 5;
  std::vector<DrawKey> keys(8, base);
  keys[1].seed = 2, keys[2].record_hash = 3, keys[3].sample = 4, keys[4].position = 5, keys[5].layer = 6;
  keys[6].purpose = DrawPurpose::fraction, keys[7].seed = uint64_t{1} << 32 | 1;
  std::set<uint32_t> seen;
  for (const DrawKey& key : keys) {
    for (uint32_t i = 0; i < 64; ++i) seen.insert(Draws(key).bits(i));
  }
  CHECK(seen.size() == keys.size() * 64);
  double sum = 0, squares = 0, gumbels = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    base.position = i;
    const double u = Draws(base).uniform(0);
    REQUIRE((u > 0 && u < 1));
    sum += u, squares += u * u, gumbels += static_cast<double>(Draws(base).gumbel(1));
  }
  CHECK(std::abs(sum / n - 0.5) < 5 * std::sqrt(1. / 12 / n));
  CHECK(std::abs(squares / n - 1. / 3) < 5 * std::sqrt(4. / 45 / n));
  CHECK(std::abs(gumbels / n - 0.5772157) < 5 * std::sqrt(1.6449341 / n));
}

TEST_CASE("draws: random is uniform over sets and slots, seeds are independent" *
          doctest::test_suite("repeats: statistics at length")) {
  const Router router = softmax_router(6, 2);
  const std::vector<float> z = {0, 1, 2, 3, 4, 5};
  const Ids banned = {1};
  RouterStep random = make_step(EditOp::random);
  random.exclude_original = true;  // 4 and 5 are the originals; candidates 0, 2, 3
  std::map<Ids, int64_t> seen;
  const int n = 60000;
  for (int position = 0; position < n; ++position) {
    ++seen[route_one(z, router, {make_step(EditOp::ban, banned), random}, 0, position).route_ids()];
  }
  std::vector<int64_t> counts;
  for (const auto& [ids, count] : seen) counts.push_back(count);
  REQUIRE(counts.size() == 6);                                       // ordered pairs
  CHECK(chi_square(counts, std::vector<double>(6, n / 6.)) < 25.7);  // p = 1e-4, 5 degrees
  random.exclude_original = false;
  RouterStep other = random;
  other.seed = 1;
  std::vector<int64_t> joint(36, 0);
  for (int position = 0; position < n; ++position) {
    ++joint[static_cast<size_t>(route_one(z, router, {random}, 0, position).ids[0] * 6 +
                                route_one(z, router, {other}, 0, position).ids[0])];
  }
  CHECK(chi_square(joint, std::vector<double>(36, n / 36.)) < 77);  // p = 1e-4, 35 degrees
}

TEST_CASE("draws: gumbel draws from the softmax, frequency_matched from the rates") {
  const Router router = softmax_router(5, 1);
  const std::vector<float> z = {0, std::log(2.f), std::log(3.f), std::log(4.f), -20};
  const std::vector<float> rates = {0.1f, 0, 0.2f, 0.3f, 0};
  RouterStep gumbel = make_step(EditOp::gumbel, {}, 1), matched = make_step(EditOp::frequency_matched);
  matched.rates = rates.data();
  std::vector<int64_t> gumbels(4, 0), matches(3, 0);
  const int n = 60000;
  for (int position = 0; position < n; ++position) {
    const int32_t e = route_one(z, router, {gumbel}, 0, position).ids[0];
    REQUIRE(e < 4);
    ++gumbels[static_cast<size_t>(e)];
    const int32_t m = route_one(z, router, {matched}, 0, position).ids[0];
    REQUIRE((m == 0 || m == 2 || m == 3));
    ++matches[static_cast<size_t>(m == 0 ? 0 : m - 1)];
  }
  CHECK(chi_square(gumbels, {n * .1, n * .2, n * .3, n * .4}) < 21.1);  // p = 1e-4, 3 degrees
  CHECK(chi_square(matches, {n / 6., n / 3., n / 2.}) < 18.5);          // p = 1e-4, 2 degrees
  gumbel.value = 0;                                                     // no noise: the order of the logits
  CHECK(route_one(z, softmax_router(5, 2), {gumbel}).route_ids() == Ids{3, 2});
  const RouterRun run = route_one(z, softmax_router(5, 4), {matched});
  CHECK(run.fault.kind == RouteFault::Kind::too_few_candidates);
}

}  // namespace signalbox::test
