// Patching against whole runs under edits that users write, and against sums made by hand.
#include "eval/causal/patch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/receivers.h"
#include "eval/causal/exchanged_point.h"
#include "tests/causal/patch_input.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::probes;
using test::equal_pair;
using test::numbers;
using test::PatchInput;
using test::positions;
using test::rows_of;

}  // namespace

TEST_CASE("causal patch: all positions of any layer's stream give the other run, bit for bit") {
  for (const std::string name : {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2_full", "gpt_oss"}) {
    CAPTURE(name);
    const PatchInput input(name);
    for (const bool denoising : {true, false}) {
      // The divergence from the clean run is 0 only where all logits are its own.
      PatchRequest request = input.request("*.resid_in,*.resid_out,embed", PatchBy::whole, denoising);
      request.metric = Metric::kl;
      const PatchedPair patched = input.patch(request);
      REQUIRE(patched.rows.size() == request.points.size());
      const SelectedPairs both = select_pairs(input.session, input.made, input.pairs(Metric::kl), true, "records");
      REQUIRE(both.values[0].corrupt > 0);
      for (const PatchRow& row : patched.rows)
        CHECK(row.effect == (denoising ? -both.values[0].corrupt : both.values[0].corrupt));
    }
  }
}

TEST_CASE("causal patch: a run with its own values, and a pair of equal records, change nothing") {
  for (const std::string name : {"olmoe", "deepseek_v2_full", "gpt_oss"}) {
    CAPTURE(name);
    std::vector<std::string> lines = equal_pair;
    lines[1] = R"({"id":"b","pair":"p","condition":"corrupt","tokens":[5,9,33,17,40,12,61],"answer":7,"foil":9})";
    const PatchInput input(name, lines);
    for (const PatchBy by : {PatchBy::natural, PatchBy::position, PatchBy::both}) {
      const PatchedPair patched = input.patch(input.request("*", by));
      CHECK(patched.rows.size() > 50);
      CHECK(patched.unchanged == patched.cells);
      for (const PatchRow& row : patched.rows) CHECK((row.effect == 0 && row.flipped == 0));
    }
    // The writes themselves, which patch_pair does not run for want of a change.
    const RecordedRun run = input.run(0, "own", "*");
    const std::vector<int32_t> own = {0, 1, 2, 3, 4, 5, 6};
    engine::Receivers receivers(*input.session.backend, input.session.model, input.session.weights);
    int64_t n_plans = 0;
    for (const PointAt& at : patch_points("*", input.session.shape).points) {
      if (patch_place(at, input.session.shape).stream) continue;
      ExchangedPoint point(input.session, receivers, *run.store, *run.store, own, own, at);
      std::vector<PatchUnit> units = point.units();
      units.push_back({});
      for (const PatchUnit& unit : units) {
        if (&unit != &units.front() && &unit != &units.back()) continue;
        const auto plan = point.plan(unit, 0, 7);
        const RecordedRun edited = record_run(input.session, input.made.jobs[0], 1, PointSet(), "edited", plan.get());
        CAPTURE(point_name(at.point, at.layer));
        CHECK(std::equal(run.logits.data, run.logits.data + run.logits.cols, edited.logits.data));
        ++n_plans;
      }
    }
    CHECK(n_plans > 10);
  }
}

TEST_CASE("causal patch: cells are whole runs under patch and replay edits, bit for bit") {
  for (const std::string name : {"olmoe", "deepseek_v2_full", "gpt_oss", "qwen2_moe"}) {
    CAPTURE(name);
    const PatchInput input(name);
    const ModelShape& shape = input.session.shape;
    const int32_t l = shape.moe_layers().front();
    const std::string layer = "layer." + std::to_string(l) + ".";
    EditMemory memory;
    memory.add(input.run(0, "clean", "*").store);
    const RecordedRun base = input.run(1, "base", "*");
    const auto brute = [&](const std::string& edit) {
      const RecordedRun run = input.run(1, "brute", "*", "[" + edit + "]", memory);
      return std::pair(input.logit_diff(run) - input.logit_diff(base), run);
    };
    const auto at_layer = R"(,"layers":")" + std::to_string(l) + "\"";
    const auto patch_edit = [&](const std::string& point, const std::string& more) {
      return R"({"op":"patch","from":"memory:clean","sample":"a","point":")" + point + "\"" + more + "}";
    };
    const auto replay_edit = [&](const std::string& weights, const std::string& more) {
      return R"({"op":"replay","trace":"memory:clean","sample":"a","weights":")" + weights + "\"" + more + "}";
    };
    // Of one token.
    const std::string globs = layer + "attn.*," + layer + "resid_mid," + layer + "resid_in," + layer + "resid_out," +
                              layer + "router.in," + layer + "router.ids," + layer + "router.weights," + layer +
                              "expert.in,final.normed,embed";
    PatchRequest request = input.request(globs, PatchBy::position);
    request.step_tokens = 20;  // several steps
    const PatchedPair patched = input.patch(request);
    CHECK(patched.layers_run < patched.layers_of_brute_force);
    int64_t n_changed = 0;
    for (const PointAt& at : request.points) {
      if (at.point == Point::attn_pattern) continue;
      const std::string point = point_name(at.point, at.layer), short_name(point_info(at.point).name);
      CAPTURE(point);
      auto rows = rows_of(patched, request, point);
      REQUIRE(rows.size() == 7);
      for (const int64_t t : {2, 4, 6}) {
        const std::string where = (at.layer < 0 ? "" : at_layer) + positions(t);
        const auto [effect, run] = brute(at.point == Point::router_ids       ? replay_edit("model", where)
                                         : at.point == Point::router_weights ? replay_edit("recorded", where)
                                                                             : patch_edit(short_name, where));
        const PatchRow& row = rows.at(std::to_string(t));
        // The same experts in another order of slots are no change; a replay of them sums in that order.
        if (at.point == Point::router_ids && row.effect == 0)
          CHECK(std::abs(effect) < 1e-6);
        else
          CHECK(row.effect == effect);
        n_changed += effect != 0;
        // Routes that became others, from that token on.
        const PatchPlace place = patch_place(at, shape);
        int64_t flipped = 0, routes = 0;
        const auto was = base.store->ids(base.store->rows(0)), is = run.store->ids(run.store->rows(0));
        const auto k = static_cast<ptrdiff_t>(base.store->n_slots());
        const auto n_layers = static_cast<ptrdiff_t>(base.store->layers().size());
        for (int64_t token = t; token < 7; ++token)
          for (ptrdiff_t i = 0; i < n_layers; ++i) {
            if (base.store->layers()[static_cast<size_t>(i)] < place.first_route) continue;
            const ptrdiff_t from = (token * n_layers + i) * k;
            ++routes;
            flipped += !std::is_permutation(was.begin() + from, was.begin() + from + k, is.begin() + from);
          }
        CHECK(row.routes == routes);
        CHECK(row.flipped == flipped);
      }
    }
    CHECK(n_changed > 8);
    // One head of all tokens, and of one.
    const AttentionShape& attention = shape.layers[static_cast<size_t>(l)].attention;
    for (const PatchBy by : {PatchBy::unit, PatchBy::both}) {
      request = input.request(layer + "attn.q," + layer + "attn.z", by);
      const PatchedPair heads = input.patch(request);
      const std::string last = std::to_string(attention.n_heads - 1);
      for (const auto& [point, width] :
           {std::pair(std::string("attn.q"), attention.d_key), {"attn.z", attention.d_z}}) {
        const std::string neurons = R"(,"neurons":)" + numbers((attention.n_heads - 1) * width, width);
        const std::string where = at_layer + (by == PatchBy::both ? positions(4) : "") + neurons;
        CHECK(rows_of(heads, request, layer + point).at(last + (by == PatchBy::both ? "@4" : "")).effect ==
              brute(patch_edit(point, where)).first);
      }
    }
    // Latent keys in two parts.
    if (attention.d_key != attention.d_value) {
      request = input.request(layer + "attn.k," + layer + "attn.v", PatchBy::unit);
      const PatchedPair keys = input.patch(request);
      auto rows = rows_of(keys, request, layer + "attn.k");
      CHECK(rows.at("latent").effect ==
            brute(patch_edit("attn.k", at_layer + R"(,"neurons":)" + numbers(0, attention.d_value))).first);
      CHECK(rows.at("rope").effect ==
            brute(patch_edit("attn.k", at_layer + R"(,"neurons":)" +
                                           numbers(attention.d_value, attention.d_key - attention.d_value)))
                .first);
      CHECK(rows.at("latent").effect != rows_of(keys, request, layer + "attn.v").at("0").effect);
    }
  }
}

TEST_CASE("causal patch: experts go by id, and one that the route lacks comes in") {
  for (const std::string name : {"mixtral", "olmoe", "deepseek_v2_full", "qwen3_moe"}) {
    CAPTURE(name);
    const PatchInput input(name);
    const int32_t l = input.session.shape.moe_layers().front();
    const std::string layer = "layer." + std::to_string(l) + ".",
                      at_layer = R"(,"layers":")" + std::to_string(l) + "\"";
    const RecordedRun base = input.run(1, "base", "*"), clean = input.run(0, "clean", "*");
    const auto d = static_cast<size_t>(input.session.model.d_model), k = static_cast<size_t>(base.store->n_slots());
    const auto place = static_cast<size_t>(*base.store->layer_index(l));
    const auto route = [&](const RecordedRun& run, int64_t t) {
      const auto ids = run.store->ids({t, t + 1});
      std::vector<int32_t> found(ids.begin() + static_cast<ptrdiff_t>(place * k),
                                 ids.begin() + static_cast<ptrdiff_t>((place + 1) * k));
      return found;
    };
    // weight x output of an expert, made from slots; 0 where it is not selected.
    const auto contribution = [&](const RecordedRun& run, int64_t t, int32_t e) {
      std::vector<float> out(d, 0.f);
      const std::vector<int32_t> ids = route(run, t);
      const auto outputs = run.store->row(Point::expert_out, l, 0, t);
      for (size_t i = 0; i < k; ++i)
        if (ids[i] == e)
          for (size_t c = 0; c < d; ++c)
            out[c] = run.store->row(Point::router_weights, l, 0, t)[i] * outputs[i * d + c];
      return out;
    };
    const auto effect_of_sum = [&](int64_t t, const std::vector<int32_t>& experts) {
      std::vector<float> change(d, 0.f);
      for (const int32_t e : experts) {
        const auto was = contribution(base, t, e), is = contribution(clean, t, e);
        for (size_t c = 0; c < d; ++c) change[c] += is[c] - was[c];
      }
      EditMemory memory;
      memory.add("change", {{static_cast<int64_t>(d)}, change});
      return input.logit_diff(input.run(
                 1, "brute", "*.router.ids",
                 R"([{"op":"add","point":"moe.out","vector":"memory:change")" + at_layer + positions(t) + "}]",
                 memory)) -
             input.logit_diff(base);
    };
    PatchRequest request = input.request(layer + "expert.contribution", PatchBy::both);
    const auto rows = rows_of(input.patch(request), request, layer + "expert.contribution");
    request.by = PatchBy::position;
    const auto whole = rows_of(input.patch(request), request, layer + "expert.contribution");
    int64_t n_alone = 0;
    for (int64_t t = 2; t < 7; ++t) {
      std::vector<int32_t> either = route(base, t);
      for (const int32_t e : route(clean, t))
        if (std::find(either.begin(), either.end(), e) == either.end()) {
          either.push_back(e);
          ++n_alone;
        }
      for (const int32_t e : either)
        CHECK(rows.at(std::to_string(e) + "@" + std::to_string(t)).effect ==
              doctest::Approx(effect_of_sum(t, {e})).epsilon(1e-3).scale(0.01));
      CHECK(whole.at(std::to_string(t)).effect == doctest::Approx(effect_of_sum(t, either)).epsilon(1e-3).scale(0.01));
    }
    CHECK(n_alone > 0);
    // Outputs and neurons: only where both runs select the expert.
    request = input.request(layer + "expert.out," + layer + "expert.hidden", PatchBy::both);
    request.neurons = {1};
    const PatchedPair patched = input.patch(request);
    CHECK(patched.undefined > 0);
    EditMemory memory;
    memory.add(clean.store);
    for (const auto& [unit, row] : rows_of(patched, request, layer + "expert.out")) {
      const size_t at = unit.find('@');
      const auto e = static_cast<int32_t>(std::stoi(unit.substr(0, at)));
      const int64_t t = std::stoll(unit.substr(at + 1));
      std::vector<int32_t> was = route(base, t), is = route(clean, t);
      REQUIRE(std::count(was.begin(), was.end(), e) == 1);
      const auto slot = static_cast<size_t>(std::find(is.begin(), is.end(), e) - is.begin());
      REQUIRE(slot < k);
      EditMemory values;
      const auto all = clean.store->row(Point::expert_out, l, 0, t);
      values.add("value", {{static_cast<int64_t>(d)},
                           {all.begin() + static_cast<ptrdiff_t>(slot * d),
                            all.begin() + static_cast<ptrdiff_t>((slot + 1) * d)}});
      const auto hidden = clean.store->row(Point::expert_hidden, l, 0, t);
      const size_t d_ff = hidden.size() / k;
      values.add("hidden", {{static_cast<int64_t>(d_ff)},
                            {hidden.begin() + static_cast<ptrdiff_t>(slot * d_ff),
                             hidden.begin() + static_cast<ptrdiff_t>((slot + 1) * d_ff)}});
      const std::string where = at_layer + positions(t) + R"(,"experts":[)" + std::to_string(e) + "]}]";
      const auto brute = [&](const std::string& edit) {
        return input.logit_diff(input.run(1, "brute", "*.router.ids", edit + where, values)) - input.logit_diff(base);
      };
      CHECK(row.effect == doctest::Approx(brute(R"([{"op":"ablate","point":"expert.out","value":"memory:value")"))
                              .epsilon(1e-3)
                              .scale(0.01));
      CHECK(rows_of(patched, request, layer + "expert.hidden").at(std::to_string(e) + ":1" + unit.substr(at)).effect ==
            brute(R"([{"op":"ablate","point":"expert.hidden","neurons":[1],"value":"memory:hidden")"));
    }
  }
}

TEST_CASE("causal patch: another order of slots is no change") {
  const PatchInput input("deepseek_v2_lite");
  const RecordedRun run = input.run(0, "run", "*");
  const ActivationStore& store = *run.store;
  const int32_t l = input.session.shape.moe_layers().front();
  const std::string layer = "layer." + std::to_string(l) + ".";
  const auto k = static_cast<size_t>(store.n_slots());
  REQUIRE(k > 1);
  // The run as it is, but for the slots, which stand the other way round.
  ActivationStore other("other", input.session.shape,
                        PointSet::parse(layer + "router.ids," + layer + "router.weights," + layer + "expert.out," +
                                            layer + "expert.hidden," + layer + "resid_mid," + layer + "shared.out",
                                        input.session.shape));
  const std::vector<int32_t> at = {0, 1, 2, 3, 4, 5, 6};
  const RowRange range{0, 0, 7, 0};
  StepRows rows;
  rows.n_rows = 7;
  rows.ranges = std::span(&range, 1);
  rows.positions = at.data();
  other.begin(rows);
  std::vector<int32_t> ids;
  const std::vector<int32_t> all = store.ids(store.rows(0));
  const size_t n_layers = store.layers().size(), place = static_cast<size_t>(*store.layer_index(l));
  for (size_t t = 0; t < 7; ++t)
    for (size_t i = k; i-- > 0;) ids.push_back(all[(t * n_layers + place) * k + i]);
  other.take_ids(l, ids.data(), nullptr, store.n_slots());
  for (const Point point : {Point::router_weights, Point::expert_out, Point::expert_hidden}) {
    std::vector<float> values;
    for (int64_t t = 0; t < 7; ++t) {
      const auto row = store.row(point, l, 0, t);
      const size_t width = row.size() / k;
      for (size_t i = k; i-- > 0;)
        values.insert(values.end(), row.begin() + static_cast<ptrdiff_t>(i * width),
                      row.begin() + static_cast<ptrdiff_t>((i + 1) * width));
    }
    other.take(point, l, values.data(), static_cast<int64_t>(values.size()) / 7);
  }
  for (const Point point : {Point::resid_mid, Point::shared_out}) {
    const std::vector<float> values = store.floats(point_name(point, l), store.rows(0));
    other.take(point, l, values.data(), static_cast<int64_t>(values.size()) / 7);
  }
  other.end();
  const std::string id = "other";
  other.finish(std::span(&id, 1));
  engine::Receivers receivers(*input.session.backend, input.session.model, input.session.weights);
  for (const Point point : {Point::router_ids, Point::router_weights, Point::expert_out, Point::expert_hidden,
                            Point::expert_contribution}) {
    const ExchangedPoint exchanged(input.session, receivers, store, other, at, at, {point, l});
    for (int64_t t = 0; t < 7; ++t) {
      CHECK(!exchanged.changes({}, t));
      for (const PatchUnit& unit : exchanged.units()) CHECK(!exchanged.changes(unit, t));
    }
  }
  // And what it makes of them is the stream as it was.
  const ExchangedPoint exchanged(input.session, receivers, store, other, at, at, {Point::expert_contribution, l});
  const PatchUnit everything;
  const ExchangedPoint::Place there{&everything, 3};
  const auto stream = exchanged.streams(std::span(&there, 1)),
             was = store.floats("layer." + std::to_string(l + 1) + ".resid_in", {3, 4});
  CHECK(stream == was);
}

TEST_CASE("causal patch: logits of the router and patterns, one expert and one head") {
  for (const std::string name : {"olmoe", "deepseek_v2_full", "gpt_oss"}) {
    CAPTURE(name);
    const PatchInput input(name);
    const ModelShape& shape = input.session.shape;
    const int32_t l = shape.moe_layers().back();
    const std::string layer = "layer." + std::to_string(l) + ".",
                      at_layer = R"(,"layers":")" + std::to_string(l) + "\"";
    const RecordedRun base = input.run(1, "base", "*"), clean = input.run(0, "clean", "*");
    const int64_t t = 6;
    PatchRequest request = input.request(layer + "router.logits", PatchBy::both);
    const auto rows = rows_of(input.patch(request), request, layer + "router.logits");
    const int32_t n_experts = shape.layers[static_cast<size_t>(l)].n_experts;
    REQUIRE(rows.size() == static_cast<size_t>(7 * n_experts));
    int64_t n_changed = 0;
    for (int32_t e = 0; e < n_experts; ++e) {
      const auto at = static_cast<size_t>(e);
      const double by = static_cast<double>(clean.store->row(Point::router_logits, l, 0, t)[at]) -
                        static_cast<double>(base.store->row(Point::router_logits, l, 0, t)[at]);
      const double effect =
          input.logit_diff(input.run(1, "brute", "*.router.ids",
                                     R"([{"op":"activate","mode":"bias","by":)" + json::dump(by) + R"(,"experts":[)" +
                                         std::to_string(e) + "]" + at_layer + positions(t) + "}]")) -
          input.logit_diff(base);
      CHECK(rows.at(std::to_string(e) + "@6").effect == doctest::Approx(effect).epsilon(1e-3).scale(0.001));
      n_changed += std::abs(effect) > 1e-4;
    }
    CHECK(n_changed > 1);
    // All of them at one token are the clean run's route there.
    request.by = PatchBy::position;
    const PatchRequest routes = input.request(layer + "router.weights", PatchBy::position);
    CHECK(rows_of(input.patch(request), request, layer + "router.logits").at("6").effect ==
          rows_of(input.patch(routes), routes, layer + "router.weights").at("6").effect);
    // A head that looks where it looked in the clean run, at this run's values.
    const AttentionShape& a = shape.layers[static_cast<size_t>(l)].attention;
    const auto n_heads = static_cast<size_t>(a.n_heads), group = n_heads / static_cast<size_t>(a.n_kv_heads),
               d_value = static_cast<size_t>(a.d_value), d_z = static_cast<size_t>(a.d_z), head = n_heads - 1;
    std::vector<float> attended(n_heads * d_value, 0.f);
    for (size_t h = 0; h < n_heads; ++h)
      for (size_t p = 0; p < 7; ++p)
        for (size_t c = 0; c < d_value; ++c)
          attended[h * d_value + c] +=
              clean.store->row(Point::attn_pattern, l, 0, t)[h * 7 + p] *
              base.store->row(Point::attn_v, l, 0, static_cast<int64_t>(p))[h / group * d_value + c];
    engine::Receivers receivers(*input.session.backend, input.session.model, input.session.weights);
    const std::vector<float> z = a.d_value == a.d_key ? attended : receivers.expand_latents(l, attended);
    EditMemory memory;
    memory.add("z", {{static_cast<int64_t>(z.size())}, z});
    const double effect =
        input.logit_diff(input.run(1, "brute", "*.router.ids",
                                   R"([{"op":"ablate","point":"attn.z","value":"memory:z","neurons":)" +
                                       numbers(static_cast<int64_t>(head * d_z), static_cast<int64_t>(d_z)) + at_layer +
                                       positions(t) + "}]",
                                   memory)) -
        input.logit_diff(base);
    request = input.request(layer + "attn.pattern", PatchBy::both);
    CHECK(rows_of(input.patch(request), request, layer + "attn.pattern").at(std::to_string(head) + "@6").effect ==
          doctest::Approx(effect).epsilon(1e-3).scale(0.001));
    CHECK(effect != 0);
  }
}

TEST_CASE("causal patch: positions by a map of unequal records, and what narrows them") {
  const PatchInput input("olmoe", {R"({"id":"a","pair":"p","condition":"clean","tokens":[5,9,33,17,40,12,61],)"
                                   R"("answer":7,"foil":9,"map":[[1,1],[3,2],[6,5]],"spans":{"x":[3,7]}})",
                                   R"({"id":"b","pair":"p","condition":"corrupt","tokens":[5,8,17,41,12,61],)"
                                   R"("answer":7,"foil":9})"});
  PatchRequest request = input.request("layer.1.resid_mid,layer.1.resid_in", PatchBy::position);
  const RecordedRun base = input.run(1, "base", "*"), clean = input.run(0, "clean", "*");
  for (const std::string point : {"resid_mid", "resid_in"}) {
    const auto rows = rows_of(input.patch(request), request, "layer.1." + point);
    REQUIRE(rows.size() == 3);
    for (const auto& [target, source] : {std::pair(1, 1), {2, 3}, {5, 6}}) {
      EditMemory memory;
      const auto value = clean.store->row(*find_point(point), 1, 0, source);
      memory.add("value", {{static_cast<int64_t>(value.size())}, {value.begin(), value.end()}});
      CHECK(rows.at(std::to_string(target)).effect ==
            input.logit_diff(input.run(1, "brute", "*.router.ids",
                                       R"([{"op":"ablate","point":")" + point +
                                           R"(","layers":"1","value":"memory:value")" + positions(target) + "}]",
                                       memory)) -
                input.logit_diff(base));
    }
  }
  request.span = "x";
  CHECK(input.patch(request).rows.size() == 4);
  request.first_position = 4;
  CHECK(input.patch(request).rows.size() == 2);
  const auto refusal = [&](const PatchRequest& asked) {
    try {
      input.patch(asked);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  request.end_position = 6;
  CHECK(refusal(request) ==
        "records:1: expected a position to exchange under --positions and --span, found none in the pair \"p\"");
  CHECK(
      refusal(input.request("layer.1.attn.pattern", PatchBy::unit)) ==
      "records:2: expected for attn.pattern a map in which all that position 1 of the clean record looks at stands for "
      "positions before its own, found position 0 left out");
  request = input.request("layer.1.attn.z", PatchBy::unit);
  request.units = {99};
  CHECK(refusal(request).rfind("--units: expected numbers below ", 0) == 0);
  request.units = {0};
  request.by = PatchBy::position;
  CHECK(refusal(request) == "--units: expected --by unit, both or natural beside it, found --by position");
  request.units = {};
  request.neurons = {0};
  CHECK(refusal(request) == "--neurons: expected the point expert.hidden, found none");
  CHECK(refusal(input.request("layer.1.resid_in", PatchBy::unit)) ==
        "--by unit: expected a point with heads or experts, found none");
  CHECK_THROWS_WITH(patch_points("*.router.margin", input.session.shape),
                    doctest::Contains("--points: expected a point that can be patched (embed, resid_in, "));
  CHECK(patch_points("layer.1.*", input.session.shape).left_out.size() > 3);
}
