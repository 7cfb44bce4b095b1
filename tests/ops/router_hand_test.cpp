// Router edits worked out by hand: four to six experts, logits whose softmax is plain to see.
#include <cmath>
#include <fstream>

#include "base/json.h"
#include "tests/ops/router_run.h"
#include "tests/support.h"

namespace signalbox::test {

namespace {

using Ids = std::vector<int32_t>;
const float ln2 = std::log(2.0f);

// Probabilities 8, 4, 2, 1, 1 sixteenths at experts 2, 0, 4, 1, 3 (a tie, lowest index first).
const std::vector<float> five = {2 * ln2, 0, 3 * ln2, 0, ln2};

void check_weights(const RouterRun& run, const std::vector<double>& want) {
  const std::vector<float> got = run.route_weights();
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) CHECK(static_cast<double>(got[i]) == doctest::Approx(want[i]).epsilon(1e-6));
}

RouterStep with(RouterStep step, WeightPolicy weights) {
  step.weights = weights;
  return step;
}

}  // namespace

TEST_CASE("router: families without edits") {
  Router router = softmax_router(5, 2);
  RouterRun run = route_one(five, router, {});
  CHECK(run.route_ids() == Ids{2, 0});
  check_weights(run, {0.5, 0.25});
  CHECK(run.original_ids == Ids{2, 0});
  CHECK(run.margin[0] == doctest::Approx(static_cast<double>(ln2)));
  CHECK(run.scores[4] == doctest::Approx(0.125));
  CHECK(run.shared_scale[0] == 1);
  CHECK(run.banned == std::vector<uint8_t>(5, 0));
  CHECK(run.fault.kind == RouteFault::Kind::none);
  router.renormalize = true;
  router.scale = 3;
  check_weights(route_one(five, router, {}), {2, 1});
  router = softmax_router(5, 4);  // ties to the lowest index, unused slots empty
  run = route_one(five, router, {}, 6);
  CHECK(run.route_ids() == Ids{2, 0, 4, 1, -1, -1});
  check_weights(run, {0.5, 0.25, 0.125, 0.0625, 0, 0});
  CHECK(run.margin[0] == 0);
  router.softmax_over_selected = true;
  run = route_one(five, router, {});
  check_weights(run, {8. / 15, 4. / 15, 2. / 15, 1. / 15});
  CHECK(run.scores == five);
  router = softmax_router(5, 5);
  CHECK(std::isinf(route_one(five, router, {}).margin[0]));
}

TEST_CASE("router: policies among all experts and within the groups kept, as a router in numpy has them") {
  std::ifstream in(source_dir() / "tests/ops/kept_groups.jsonl");
  int lines = 0, silent = 0, faults = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    const json::Value value = json::parse(line, "kept_groups.jsonl");
    const json::Ref c(value, "kept_groups.jsonl:" + std::to_string(lines + 1));
    CAPTURE(c.where());
    Router router = softmax_router(static_cast<int32_t>(c.at("n_experts").integer()),
                                   static_cast<int32_t>(c.at("n_active").integer()));
    router.n_groups = static_cast<int32_t>(c.at("n_groups").integer());
    router.n_groups_kept = static_cast<int32_t>(c.at("n_groups_kept").integer());
    router.group_score = c.at("sum_top2").boolean() ? Router::GroupScore::sum_top2 : Router::GroupScore::max;
    router.score = c.at("sigmoid").boolean() ? Router::Score::sigmoid : Router::Score::softmax;
    std::vector<float> logits;
    for (const json::Ref& z : c.at("logits").items()) logits.push_back(static_cast<float>(z.number()));
    const auto ids_of = [](const json::Ref& list) {
      std::vector<int32_t> ids;
      for (const json::Ref& e : list.items()) ids.push_back(static_cast<int32_t>(e.integer()));
      return ids;
    };
    const std::vector<int32_t> own = ids_of(c.at("ids"));
    CHECK(route_one(logits, router, {}).route_ids() == own);
    for (const bool within : {false, true})
      for (const auto& [name, op] : {std::pair("next_best", EditOp::next_best),
                                     std::pair("swap_last", EditOp::swap_last), std::pair("worst", EditOp::worst)}) {
        RouterStep step = make_step(op);
        step.within_kept = within;
        const char* among = within ? "kept_groups" : "all";
        const auto want = c.at("routes").at(among).find(name);
        const RouterRun run = route_one(logits, router, {step});
        if (!want) {
          CHECK(run.fault.kind == RouteFault::Kind::too_few_candidates);
          ++faults;
          continue;
        }
        CHECK(run.route_ids() == ids_of(*want));
        const json::Ref weights = c.at("weights").at(among).at(name);
        float sum = 0;
        for (size_t i = 0; i < weights.length(); ++i) {
          CHECK(static_cast<double>(run.route_weights()[i]) == doctest::Approx(weights[i].number()).epsilon(1e-5));
          sum += run.route_weights()[i];
        }
        // Among all experts the worst ones are of groups that are not kept, and weigh nothing.
        if (op == EditOp::worst) {
          CHECK((sum > 0) == within);
          silent += !within;
        }
      }
    // A condition on near ties: just above the distance it holds, just below it does not.
    const double near = c.at("near_tie").number();
    RouterStep step = make_step(EditOp::shift);
    step.shift = 1;
    for (const double factor : {1.01, 0.99}) {
      step.near_tie_below = static_cast<float>(near * factor);
      CHECK((route_one(logits, router, {step}).route_ids() == own) == (near == 0 || factor < 1));
    }
  }
  CHECK(lines == 30);
  CHECK(silent == 30);
  CHECK(faults > 0);
}

TEST_CASE("router: groups and selection bias") {
  Router router = softmax_router(6, 3);
  const std::vector<float> z = {2, 0, 1.5f, 1.4f, -1, 1.9f};
  router.n_groups = 3, router.n_groups_kept = 1;
  RouterRun run = route_one(z, router, {});  // group 0 has the largest expert; the others rank by index with weight 0
  CHECK(run.route_ids() == Ids{0, 1, 2});
  CHECK(run.weights[2] == 0);
  CHECK(run.scores[5] == 0);
  router.group_score = Router::GroupScore::sum_top2;
  router.n_active = 2;
  router.score = Router::Score::sigmoid;
  CHECK(route_one(z, router, {}).route_ids() == Ids{2, 3});
  router.n_groups = 1;
  router.selection_bias = true;
  const float bias[6] = {0, 0, 0, 0, 3, 0};
  run = route_one(z, router, {}, 0, 0, bias);
  CHECK(run.route_ids() == Ids{4, 0});
  check_weights(run, {1 / (1 + std::exp(1.)), 1 / (1 + std::exp(-2.))});
}

TEST_CASE("router: logit edits") {
  const Router router = softmax_router(5, 2);
  const Ids two = {2}, low = {1, 3}, both = {0, 2};
  RouterRun run = route_one(five, router, {make_step(EditOp::ban, two)});
  CHECK(run.route_ids() == Ids{0, 4});
  check_weights(run, {0.5, 0.25});  // the softmax is over what is left
  CHECK(run.original_ids == Ids{2, 0});
  CHECK(run.banned == std::vector<uint8_t>{0, 0, 1, 0, 0});
  CHECK(run.scores[2] == doctest::Approx(0.5));  // scores are before edits
  run = route_one(five, router, {make_step(EditOp::bias, low, 10 * ln2)});
  CHECK(run.route_ids() == Ids{1, 3});
  check_weights(run, {1024. / 2062, 1024. / 2062});
  run = route_one(five, router, {make_step(EditOp::temperature, {}, 0.5f)});
  check_weights(run, {64. / 86, 16. / 86});
  // order matters: bias, then temperature
  run = route_one(five, router, {make_step(EditOp::bias, two, ln2), make_step(EditOp::temperature, {}, 2)});
  const double sum = 4 + 2 + std::sqrt(2.) + 2;
  check_weights(run, {4 / sum, 2 / sum});
}

TEST_CASE("router: steermoe is the four-line formula, shared by all such edits") {
  const Router router = softmax_router(5, 2);
  const Ids two = {2}, three = {3}, one = {1};
  RouterRun run =
      route_one(five, router, {make_step(EditOp::steermoe_down, two), make_step(EditOp::steermoe_up, three)});
  // log-softmax: 1/4, 1/16, 1/2, 1/16, 1/8; expert 2 below the minimum, expert 3 above the maximum
  const double z[5] = {std::log(0.25), std::log(0.0625), std::log(0.0625) - 0.01, std::log(0.5) + 0.01,
                       std::log(0.125)};
  double sum = 0;
  for (const double x : z) sum += std::exp(x);
  CHECK(run.route_ids() == Ids{3, 0});
  check_weights(run, {std::exp(z[3]) / sum, std::exp(z[0]) / sum});
  // a ban before it: the minimum is over finite values, and the banned expert stays banned
  run = route_one(
      five, router,
      {make_step(EditOp::ban, three), make_step(EditOp::steermoe_down, two), make_step(EditOp::steermoe_up, three)});
  CHECK(run.route_ids() == Ids{0, 4});
  run = route_one(five, router, {make_step(EditOp::ban, three), make_step(EditOp::steermoe_up, one)});
  CHECK(run.route_ids() == Ids{1, 2});
  check_weights(run, {0.5 * std::exp(0.01) / (14. / 15 + 8. / 15 * (std::exp(0.01))) * 16 / 15,
                      0.5 * 16 / 15 / (14. / 15 + 8. / 15 * std::exp(0.01))});
}

TEST_CASE("router: selection edits") {
  const Router router = softmax_router(5, 2);
  const Ids three = {3}, all = {1, 3, 4}, two = {2};
  RouterRun run = route_one(five, router, {make_step(EditOp::force, three)});
  CHECK(run.route_ids() == Ids{3, 2});
  check_weights(run, {0.0625, 0.5});
  RouterStep k3 = make_step(EditOp::top_k);
  k3.k = 3;
  run = route_one(five, router, {k3}, 3);
  CHECK(run.route_ids() == Ids{2, 0, 4});
  CHECK(run.original_ids == Ids{2, 0, -1});
  check_weights(run, {0.5, 0.25, 0.125});
  run = route_one(five, router, {k3, make_step(EditOp::force, all)}, 3);
  CHECK(run.route_ids() == Ids{1, 3, 4});
  k3.k = 1;
  run = route_one(five, router, {k3});
  CHECK(run.route_ids() == Ids{2, -1});
  check_weights(run, {0.5, 0});
  run = route_one(five, router, {make_step(EditOp::force, all)});
  CHECK(run.fault.kind == RouteFault::Kind::too_many_forced);
  CHECK(run.route_ids() == Ids{2, 0});
  run = route_one(five, router, {make_step(EditOp::ban, two), make_step(EditOp::force, two)});
  CHECK(run.fault.kind == RouteFault::Kind::banned_expert);
  CHECK(run.fault.expert == 2);
  const Ids most = {0, 1, 2, 3}, every = {0, 1, 2, 3, 4};
  CHECK(route_one(five, router, {make_step(EditOp::ban, most)}).fault.kind == RouteFault::Kind::too_few_candidates);
  CHECK(route_one(five, router, {make_step(EditOp::ban, every)}).fault.kind == RouteFault::Kind::too_few_candidates);
}

TEST_CASE("router: misroutes by rank and by map") {
  const Router router = softmax_router(5, 2);  // ranking 2, 0, 4, 1, 3
  CHECK(route_one(five, router, {make_step(EditOp::next_best)}).route_ids() == Ids{4, 1});
  CHECK(route_one(five, router, {make_step(EditOp::swap_last)}).route_ids() == Ids{2, 4});
  CHECK(route_one(five, router, {make_step(EditOp::worst)}).route_ids() == Ids{3, 1});
  RouterStep shift = make_step(EditOp::shift);
  shift.shift = 4;
  CHECK(route_one(five, router, {shift}).route_ids() == Ids{1, 4});
  const Ids table = {3, 0, 4, 1, 2}, pair = {4, 0}, two = {2}, four = {4}, three = {3};
  RouterStep permute = make_step(EditOp::permute);
  permute.experts = table.data();
  CHECK(route_one(five, router, {permute}).route_ids() == Ids{4, 3});
  // each on the route that the last one left: shift after permute
  CHECK(route_one(five, router, {permute, shift}).route_ids() == Ids{3, 2});
  CHECK(route_one(five, router, {make_step(EditOp::fixed, pair)}).route_ids() == Ids{4, 0});
  // banned experts leave the ranking, forced ones do not
  CHECK(route_one(five, router, {make_step(EditOp::ban, four), make_step(EditOp::next_best)}).route_ids() == Ids{1, 3});
  CHECK(route_one(five, router, {make_step(EditOp::force, three), make_step(EditOp::swap_last)}).route_ids() ==
        Ids{3, 4});
  const RouterStep bans[] = {make_step(EditOp::ban, four), make_step(EditOp::ban, two)};
  CHECK(route_one(five, router, {bans[0], make_step(EditOp::fixed, pair)}).fault.kind ==
        RouteFault::Kind::banned_expert);
  CHECK(route_one(five, router, {bans[0], permute}).fault.kind == RouteFault::Kind::banned_expert);  // no 2 -> 4
  CHECK(route_one(five, router, {bans[0], bans[1], make_step(EditOp::next_best)}).fault.kind ==
        RouteFault::Kind::too_few_candidates);
}

TEST_CASE("router: every weights policy") {
  Router router = softmax_router(5, 2);
  const RouterStep swap = make_step(EditOp::swap_last);  // 2, 0 -> 2, 4
  check_weights(route_one(five, router, {with(swap, WeightPolicy::model)}), {0.5, 0.125});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::keep_scores)}), {0.5, 0.125});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::renormalize)}), {0.8, 0.2});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::preserve_mass)}), {0.6, 0.15});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::keep_slot)}), {0.5, 0.25});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::hole)}), {0.5, 0});
  // keep_scores goes back to the unedited logits, model does not
  const Ids four = {4}, two = {2};
  const RouterStep up = make_step(EditOp::bias, four, 3 * ln2);
  check_weights(route_one(five, router, {with(up, WeightPolicy::model)}), {16. / 30, 8. / 30});
  CHECK(route_one(five, router, {up}).route_ids() == Ids{4, 2});
  check_weights(route_one(five, router, {with(up, WeightPolicy::keep_scores)}), {0.125, 0.5});
  // the last edit that acts decides, whatever is listed last; scales have no say
  const Ids zero = {0};
  check_weights(route_one(five, router,
                          {with(swap, WeightPolicy::keep_slot), with(up, WeightPolicy::hole),
                           make_step(EditOp::scale_expert, zero, 4, WeightPolicy::hole)}),
                {0.5, 1});
  // with renormalisation and scale of the family
  router.renormalize = true;
  router.scale = 3;
  check_weights(route_one(five, router, {with(swap, WeightPolicy::model)}), {2.4, 0.6});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::renormalize)}), {0.8, 0.2});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::preserve_mass)}), {2.4, 0.6});
  check_weights(route_one(five, router, {with(swap, WeightPolicy::keep_slot)}), {2, 1});
  router.renormalize = false;
  router.scale = 1;
  router.softmax_over_selected = true;
  check_weights(route_one(five, router, {with(swap, WeightPolicy::model)}), {0.8, 0.2});
  RouterStep k3 = make_step(EditOp::top_k, {}, 0, WeightPolicy::keep_slot);
  k3.k = 3;
  check_weights(route_one(five, router, {k3}, 3), {2. / 3, 1. / 3, 0});
}

TEST_CASE("router: scales") {
  const Router router = softmax_router(5, 2);
  const Ids zero = {0, 3}, two = {2};
  const RouterRun run = route_one(five, router,
                                  {make_step(EditOp::scale_expert, zero, 0), make_step(EditOp::scale_expert, two, -2),
                                   make_step(EditOp::scale_shared, {}, 0.5f), make_step(EditOp::scale_shared, {}, 3)});
  CHECK(run.route_ids() == Ids{2, 0});
  check_weights(run, {-1, 0});
  CHECK(run.shared_scale[0] == 1.5f);
}

TEST_CASE("router: replay by position, recorded weights, past the recording") {
  const Router router = softmax_router(5, 2);
  const Ids recorded = {1, 4, 3, -1, 0, 2}, index = {2, -1, 0, 1};
  const std::vector<float> weights = {0.1f, 0.2f, 0.3f, 0, 0.4f, 0.5f};
  RouterStep replay = make_step(EditOp::replay);
  replay.replay_ids = recorded.data();
  replay.replay_weights = weights.data();
  replay.replay_index = index.data();
  replay.replay_positions = 4;
  replay.replay_k = 2;
  CHECK(route_one(five, router, {replay}, 0, 0).route_ids() == Ids{0, 2});
  RouterRun run = route_one(five, router, {with(replay, WeightPolicy::recorded)}, 0, 2);
  CHECK(run.route_ids() == Ids{1, 4});
  check_weights(run, {static_cast<double>(0.1f), static_cast<double>(0.2f)});
  run = route_one(five, router, {replay}, 0, 3);  // a recording with fewer experts
  CHECK(run.route_ids() == Ids{3, -1});
  check_weights(run, {0.0625, 0});
  for (const int32_t position : {1, 4, 100}) {
    CHECK(route_one(five, router, {replay}, 0, position).fault.kind == RouteFault::Kind::not_recorded);
    RouterStep leave = with(replay, WeightPolicy::recorded);
    leave.leave_past = true;
    run = route_one(five, router, {leave}, 0, position);
    CHECK(run.fault.kind == RouteFault::Kind::none);
    CHECK(run.route_ids() == Ids{2, 0});
    check_weights(run, {0.5, 0.25});
  }
}

TEST_CASE("router: NaN, infinities") {
  const Router router = softmax_router(5, 2);
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), inf}) {
    std::vector<float> z = five;
    z[3] = bad;
    const RouterRun run = route_one(z, router, {});
    CHECK(run.fault.kind == RouteFault::Kind::not_finite);
    CHECK(run.route_ids() == Ids{-1, -1});
    CHECK(run.route_weights() == std::vector<float>{0, 0});
  }
  std::vector<float> z = five;
  z[2] = -inf;
  CHECK(route_one(z, router, {}).route_ids() == Ids{0, 4});
  CHECK(route_one(std::vector<float>(5, -inf), router, {}).fault.kind == RouteFault::Kind::not_finite);
}

TEST_CASE("router: the first fault of each sequence is kept, other tokens are routed") {
  const Router router = softmax_router(5, 2);
  const int64_t n = 300;
  std::vector<float> logits;
  for (int64_t t = 0; t < n; ++t) logits.insert(logits.end(), five.begin(), five.end());
  logits[5 * 250] = logits[5 * 40 + 3] = std::nanf("");
  RouterRun run(n, router, 2);
  const auto backend = cpu("auto", 3);
  backend->route(run.view(), Tensor(logits.data(), n, 5), {}, {}, nullptr, router, nullptr, RouteBatch{});
  run.finish();
  CHECK(run.fault.kind == RouteFault::Kind::not_finite);
  CHECK(run.fault.token == 40);
  CHECK(run.route_ids(41) == Ids{2, 0});
  run.packed_faults[0] = pack_fault({RouteFault::Kind::banned_expert, 0, 7, 0, 1});
  backend->route(run.view(), Tensor(logits.data(), n, 5), {}, {}, nullptr, router, nullptr, RouteBatch{});
  run.finish();
  CHECK(run.fault.token == 7);

  // Three sequences of 100 tokens each: the second has no fault.
  RouterRun split(n, router, 2);
  std::vector<int32_t> sequences;
  for (int64_t t = 0; t < n; ++t) sequences.push_back(static_cast<int32_t>(t / 100));
  RouteBatch batch;
  batch.sequences = sequences.data();
  logits[5 * 260] = std::nanf("");
  backend->route(split.view(), Tensor(logits.data(), n, 5), {}, {}, nullptr, router, nullptr, batch);
  CHECK(unpack_fault(split.packed_faults[0]).token == 40);
  CHECK(split.packed_faults[1] == no_fault);
  CHECK(unpack_fault(split.packed_faults[2]).token == 250);
}

}  // namespace signalbox::test
