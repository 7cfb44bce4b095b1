// What attributions must add up to, exactly or as the size of a step says, and what is refused.
#include "eval/causal/attribute.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <filesystem>

#include "engine/lens.h"
#include "eval/causal/direct_edges.h"
#include "eval/causal/expert_gain.h"
#include "eval/causal/recorded_run.h"
#include "eval/causal/route_margins.h"
#include "eval/causal/sequence_run.h"
#include "probes/edit_memory.h"
#include "tests/causal/attribution_tables.h"

namespace {

using namespace signalbox;
using namespace signalbox::engine;
using namespace signalbox::eval;
using namespace signalbox::probes;
using test::AttributionRun;
using test::Attributions;

std::shared_ptr<const EditPlan> edits(const Session& session, const std::string& text, const EditMemory* memory) {
  const json::Value listed = json::parse("[" + text + "]", "edits");
  return EditPlan::parse(json::Ref(listed, "edits"), ".", session.shape, 0, memory);
}

std::string at_token(int32_t layer, int64_t token) {
  return R"("layers":")" + std::to_string(layer) + R"(","tokens":{"positions":")" + std::to_string(token) + ":" +
         std::to_string(token + 1) + R"("}})";
}

// Sum of the scores of rows whose key ends so.
double sum_of(const AttributionRun& run, const std::string& end) {
  double sum = 0;
  for (const auto& [key, score] : run.scores)
    if (key.size() >= end.size() && key.compare(key.size() - end.size(), end.size(), end) == 0) sum += score;
  return sum;
}

}  // namespace

TEST_CASE("causal attribute: nothing is attributed where x' is x") {
  const std::vector<std::string> same = {
      R"({"id":"x","pair":"p","condition":"clean","tokens":[5,9,33,17,40,12],"answer":7,"foil":9})",
      R"({"id":"y","pair":"p","condition":"corrupt","tokens":[5,9,33,17,40,12],"answer":7,"foil":9})"};
  for (const std::string name : {"deepseek_v2_full", "gpt_oss", "qwen2_moe"}) {
    Attributions attributions(name, same);
    for (const AttributionMethod method :
         {AttributionMethod::atp, AttributionMethod::ig, AttributionMethod::eap, AttributionMethod::eap_ig}) {
      auto request = attributions.request(method, InPlace::pairs);
      request.steps = 2;
      const AttributionRun run = attributions.run(request);
      CHECK(run.scores.size() > 6);
      for (const auto& one : run.scores) {
        const std::string& key = one.first;
        const double score = one.second;
        CAPTURE(key);
        CHECK(score == 0);
      }
    }
  }
}

TEST_CASE("causal attribute: with the final norm's divisor held, atp is the exact effect in the last layer") {
  for (const std::string name : {"mixtral", "deepseek_v2_full", "gpt_oss"}) {
    CAPTURE(name);
    Attributions attributions(name);
    const Session& session = attributions.setup.session;
    auto request = attributions.request(AttributionMethod::atp, InPlace::zero);
    request.holds_final_divisor = true;
    const AttributionRun nodes = attributions.run(request);
    request.method = AttributionMethod::eap;
    const AttributionRun edges_run = attributions.run(request);

    const auto last_layer = static_cast<int32_t>(session.model.n_layers()) - 1;
    const std::string stream = point_name(Point::resid_out, last_layer);
    const PointSet points = PointSet::parse(stream + ",*.router.ids", session.shape);
    // Tables of two records with the same keys hold the second one's rows.
    const Job& job = attributions.setup.made.jobs[1];
    const int64_t last = job.n_given() - 1;
    Lens lens(*session.backend, session.model, session.weights);
    const auto d = static_cast<size_t>(session.model.d_model);
    std::vector<double> readers(2 * d);
    const int32_t tokens[] = {7, 9};
    lens.readers(tokens, readers);
    const RecordedRun base = record_run(session, job, 1, points, "base");
    const auto row = [&](const RecordedRun& run) { return run.store->row(Point::resid_out, last_layer, 0, last); };
    const double divisor = lens.divisors(row(base)).front();
    const auto metric = [&](const RecordedRun& run) {
      double sum = 0;
      for (size_t i = 0; i < d; ++i) sum += static_cast<double>(row(run)[i]) * (readers[i] - readers[d + i]) / divisor;
      return sum;
    };
    size_t compared = 0;
    const std::vector<int32_t> route =
        routes_of(*base.store, 0, static_cast<int64_t>(base.store->layers().size()) - 1).back();
    for (const int32_t expert : route) {
      const auto plan = edits(
          session,
          R"({"op":"scale_expert","by":0,"experts":[)" + std::to_string(expert) + "]," + at_token(last_layer, last),
          nullptr);
      const double hole = metric(record_run(session, job, 1, points, "hole", plan.get())) - metric(base);
      const double score = nodes.at(std::to_string(last) + "|" + std::to_string(last_layer) + "|expert.contribution|" +
                                    std::to_string(expert));
      CHECK(score == doctest::Approx(hole).epsilon(1e-5));
      ++compared;
    }
    CHECK(compared > 1);
    // All direct attributions together are the logits; nothing of them remains without any.
    CHECK(sum_of(edges_run, ">logits") == doctest::Approx(-metric(base)).epsilon(1e-4));
  }
}

TEST_CASE("causal attribute: edges to the logits add up to the gradient times the change of the last stream") {
  for (const std::string name : {"olmoe", "qwen2_moe"}) {
    Attributions attributions(name);
    const Session& session = attributions.setup.session;
    const AttributionRun run = attributions.run(attributions.request(AttributionMethod::eap, InPlace::pairs));
    const std::string last = point_name(Point::resid_out, static_cast<int32_t>(session.model.n_layers()) - 1);
    std::vector<std::vector<float>> streams;
    std::vector<float> slope;
    for (size_t i = 0; i < 2; ++i) {
      const MetricRows rows = attributions.setup.metric(Metric::logit_diff, i);
      SequenceRequest request;
      request.job = &attributions.setup.made.jobs[i];
      request.rows = &rows;
      request.values = request.slopes = last;
      request.back = true;
      const SequenceRun ran = run_sequence(session, request);
      streams.push_back(ran.values->floats(last, ran.values->rows(0)));
      if (i == 0) slope = ran.slopes->floats(last, ran.slopes->rows(0));
    }
    double want = 0;
    for (size_t i = 0; i < slope.size(); ++i)
      want += static_cast<double>(slope[i]) * (static_cast<double>(streams[1][i]) - static_cast<double>(streams[0][i]));
    CHECK(sum_of(run, ">logits") == doctest::Approx(want).epsilon(1e-4));
  }
}

TEST_CASE("causal attribute: the integral and the jumps are the change, with an error that falls as 1 / steps^2") {
  for (const std::string name : {"mixtral", "deepseek_v2_full"}) {
    CAPTURE(name);
    Attributions attributions(name);
    auto request = attributions.request(AttributionMethod::ig, InPlace::pairs);
    std::vector<double> rests;
    for (const int64_t steps : {32, 128}) {
      if (name != "mixtral" && steps > 32) continue;  // once is enough for the order of the error
      request.steps = steps;
      const AttributionRun run = attributions.run(request);
      CHECK(run.result.crossings >= 2);
      // Without the jumps it fails, by what is said.
      CHECK(run.result.missed_without_jumps == doctest::Approx(std::fabs(run.result.change - run.result.integral)));
      CHECK(run.result.missed_without_jumps > 10 * std::fabs(run.result.rest));
      CHECK(run.result.change == doctest::Approx(run.result.integral + run.result.jumps + run.result.rest));
      CHECK(run.sum + run.result.rest == doctest::Approx(run.result.change));  // tokens and crossings, row by row
      rests.push_back(std::fabs(run.result.rest));
    }
    CHECK(rests.back() < 0.02);
    if (rests.size() > 1) CHECK(rests[1] < rests[0] / 3);
    request.most_crossings = 1;
    CHECK_THROWS_WITH(attributions.run(request),
                      "--max-crossings: expected at most 1 changes of routes on the path of x, found more (or hold "
                      "them: --routes held)");
  }
}

TEST_CASE("causal attribute: a gain is the slope of what an expert adds, and other routes are those of edits") {
  Attributions attributions("olmoe");
  const Session& session = attributions.setup.session;
  const Job& job = attributions.setup.made.jobs[0];
  const MetricRows rows = attributions.setup.metric(Metric::logit_diff, 0);
  SequenceRequest request;
  request.job = &job;
  request.rows = &rows;
  request.values = gain_points();
  request.slopes = gain_slopes();
  request.back = true;
  const SequenceRun base = run_sequence(session, request);
  const int32_t layer = session.model.moe_layers()[1];
  constexpr int64_t token = 6;
  const LayerGains gains = expert_gains(session, *base.values, *base.slopes, layer, token, 1);
  size_t forced = 0, banned = 0;
  for (const OtherRoute& other : gains.routes[0]) {
    CAPTURE(other.expert);
    CAPTURE(other.forced);
    const std::string expert = R"("experts":[)" + std::to_string(other.expert) + "]," + at_token(layer, token);
    const auto plan =
        edits(session,
              (other.forced ? R"({"op":"activate","mode":"force",)" : R"({"op":"deactivate","mode":"ban",)") + expert,
              nullptr);
    SequenceRequest changed;
    changed.job = &job;
    changed.values = "*.router.ids,*.router.weights,*.expert.out";
    changed.plan = plan.get();
    const SequenceRun run = run_sequence(session, changed);
    const auto place = static_cast<size_t>(*run.values->layer_index(layer));
    const auto k = static_cast<size_t>(run.values->n_slots());
    const std::vector<int32_t> ids = run.values->ids({token, token + 1});
    const std::vector<float> weights = run.values->floats("router.weights", {token, token + 1});
    for (size_t i = 0; i < k; ++i) {
      CHECK(other.ids[i] == ids[place * k + i]);
      CHECK(other.weights[i] == doctest::Approx(weights[place * k + i]).epsilon(1e-6));
    }
    (other.forced ? forced : banned) += 1;
    if (!other.forced) continue;
    // What the expert makes of this token's stream, added to the block's output with the routes held.
    const auto slot =
        static_cast<size_t>(std::find(other.ids.begin(), other.ids.end(), other.expert) - other.ids.begin());
    const auto d = static_cast<size_t>(session.model.d_model);
    const std::span<const float> out = run.values->row(Point::expert_out, layer, 0, token).subspan(slot * d, d);
    const auto metric = [&](double by) {
      EditMemory memory;
      memory.add(base.values);
      memory.add("output", {{static_cast<int64_t>(d)}, {out.begin(), out.end()}});
      const auto held = edits(session,
                              R"({"op":"add","point":"moe.out","vector":"memory:output","scale":)" +
                                  std::to_string(by) + "," + at_token(layer, token) +
                                  R"(,{"op":"replay","trace":"memory:run","layers":"all","weights":"model"})",
                              &memory);
      SequenceRequest moved;
      moved.job = &job;
      moved.rows = &rows;
      moved.plan = held.get();
      return run_sequence(session, moved).metric;
    };
    const double want = (metric(0.001) - metric(-0.001)) / 0.002;
    CHECK(gains.gains[static_cast<size_t>(other.expert)] == doctest::Approx(want).epsilon(0.02).scale(0.05));
  }
  CHECK(forced == static_cast<size_t>(gains.n_experts) - gains.ids[0].size());
  CHECK(banned == gains.ids[0].size());
}

TEST_CASE(
    "causal attribute: routes that a small change flips are those that the router chooses of the changed stream") {
  int64_t flipped = 0;
  for (const std::string name : {"deepseek_v2_full", "gpt_oss", "qwen3_moe"}) {
    CAPTURE(name);
    const Attributions attributions(name);
    const Session& session = attributions.setup.session;
    const PointSet points = DirectEdges::points(session.shape);
    std::vector<std::shared_ptr<const ActivationStore>> stores;
    for (const Job& job : attributions.setup.made.jobs)
      stores.push_back(record_run(session, job, 1, points, "run", nullptr).store);
    std::vector<std::array<int32_t, 2>> map;
    for (int32_t t = 0; t < 10; ++t) map.push_back({t, t});
    DirectEdges edges(session, stores[0], stores[1], map);
    const RouteMargins margins(session, *stores[0]);
    const int32_t layer = session.model.moe_layers().back();
    // A change that only the last router sees: what is written just before it.
    int64_t apart = 0;
    for (int32_t t = 2; t < 10; ++t) {
      std::vector<DirectEdges::Change> changes = edges.changes(t, {CausalNode::Kind::router, layer, -1});
      for (DirectEdges::Change& change : changes)
        for (float& x : change.delta) x *= 0.1f;
      const auto exact = edges.router(layer, t, changes);
      std::vector<RouteMargins::Change> tested;
      for (const DirectEdges::Change& change : changes)
        tested.push_back(
            {node_stage({CausalNode::Kind::router, layer, -1}, session.shape.n_layers()) - 1, t, change.delta.data()});
      const std::vector<RouteFlips> found = margins.flips(tested);
      for (size_t i = 0; i < changes.size(); ++i) {
        CHECK(found[i].cells == 1);
        flipped += found[i].flipped;
        apart += (found[i].flipped > 0) != !exact[i].entered.empty();
      }
    }
    CHECK(apart == 0);  // a tenth of a change is all but linear
  }
  CHECK(flipped > 10);
}

TEST_CASE("causal attribute: what has no meaning is refused before the first forward") {
  Attributions attributions("olmoe");
  const auto refused = [&](AttributionRequest request) {
    try {
      attributions.run(request);
    } catch (const std::exception& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  auto request = attributions.request(AttributionMethod::atp, InPlace::zero);
  request.metric = Metric::kl;
  CHECK(refused(request) ==
        "--metric: expected a metric whose gradient at the unedited run is not 0 everywhere, found kl (--method ig and "
        "eap-ig look elsewhere)");
  request = attributions.request(AttributionMethod::ig, InPlace::zero);
  CHECK(refused(request).find("--instead: expected pairs or mean for the path of ig, found zero") == 0);
  Attributions other(
      "olmoe",
      {R"({"id":"x","pair":"p","condition":"clean","tokens":[5,9,33],"answer":7,"foil":9})",
       R"({"id":"y","pair":"p","condition":"corrupt","tokens":[5,33],"map":[[0,0],[2,1]],"answer":7,"foil":9})"});
  CHECK_THROWS_WITH(
      other.run(other.request(AttributionMethod::eap_ig, InPlace::pairs)),
      "records:2: expected a pair whose positions stand for themselves, all of them, for the path of eap-ig, found 3 "
      "and 2 tokens and a map of 2");
  // Without a path a map is enough.
  CHECK(other.run(other.request(AttributionMethod::atp, InPlace::pairs)).scores.size() > 10);
}

TEST_CASE("causal attribute: what was stopped goes on, and ends with the same bytes" *
          doctest::test_suite("repeats: killed processes of commands that other tests run")) {
  Attributions attributions("mixtral");
  const test::TemporaryDirectory dir;
  const auto bytes = [&](const std::string& name) {
    std::string all;
    for (const char* file : {"attribution.csv", "totals.csv", "crossings.csv", "summary.json"})
      all += test::read_file(dir / name / file);
    return all;
  };
  const auto run = [&](const std::string& name, const std::atomic<bool>* interrupted,
                       const std::function<void(int64_t)>& on_progress) {
    auto request = attributions.request(AttributionMethod::ig, InPlace::mean);
    NodeMeans means;
    for (const Job& job : attributions.setup.made.jobs) {
      SequenceRequest reference;
      reference.job = &job;
      reference.values = Contributions::points(attributions.setup.session.shape);
      means.add(Contributions(attributions.setup.session, *run_sequence(attributions.setup.session, reference).values),
                attributions.setup.session.model.n_layers());
    }
    means.finish();
    request.means = &means;
    request.steps = 4;
    request.dir = dir / name;
    request.interrupted = interrupted;
    request.on_progress = on_progress;
    return attribute(attributions.setup.session, attributions.setup.records, attributions.setup.made, request);
  };
  const AttributionResult whole = run("whole", nullptr, {});
  CHECK(whole.records == 2);
  CHECK(whole.crossings > 0);
  std::atomic<bool> stop = false;
  const AttributionResult stopped = run("stopped", &stop, [&](int64_t done) { stop = done == 1; });
  CHECK(stopped.interrupted);
  CHECK_FALSE(std::filesystem::exists(dir / "stopped/attribution.csv"));
  int64_t first = 0;
  const AttributionResult resumed = run("stopped", nullptr, [&](int64_t done) { first = first > 0 ? first : done; });
  CHECK(first == 1);  // is known, and not run again
  CHECK(resumed.records == 2);
  CHECK(bytes("stopped") == bytes("whole"));
  // Once more: nothing is left to do, and the same is said.
  CHECK(run("whole", nullptr, {}).change == whole.change);
}
