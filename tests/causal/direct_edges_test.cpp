// Direct edges against path patching with everything frozen, run through the edits that users write.
#include "eval/causal/direct_edges.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/csv.h"
#include "eval/causal/edge_study.h"
#include "eval/causal/recorded_run.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "probes/edit_memory.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::probes;
using Kind = CausalNode::Kind;

constexpr int32_t here = 6;  // the position that is looked at

struct TwoRuns {
  Session session;
  std::vector<Record> records;
  RecordJobs made;
  std::shared_ptr<const ActivationStore> base, other;
  explicit TwoRuns(const std::string& name)
      : session(tools::open_session((test::goldens_dir() / name / "model").string(), {})) {
    for (const char* line :
         {R"({"id":"a","pair":"p","condition":"clean","tokens":[5,9,33,17,40,12,61],"answer":7,"foil":9})",
          R"({"id":"b","pair":"p","condition":"corrupt","tokens":[5,9,8,17,41,12,50],"answer":7,"foil":9})"})
      records.push_back(parse_record(json::parse(line, "records"), "records"));
    made = make_jobs(session, records, Generate{}, nullptr);
    base = run(0, "base", "").store;
    other = run(1, "other", "").store;
  }
  RecordedRun run(size_t record, const std::string& name, const std::string& edits,
                  EditMemory memory = EditMemory()) const {
    PointSet points = PointSet::parse("*", session.shape);
    std::shared_ptr<const EditPlan> plan;
    if (!edits.empty()) {
      const json::Value list = json::parse(edits, "edits");
      plan = EditPlan::parse(json::Ref(list, "edits"), ".", session.shape, 0, &memory);
    }
    return record_run(session, made.jobs[record], 1, points, name, plan.get());
  }
  DirectEdges edges() const {
    std::vector<std::array<int32_t, 2>> map;
    for (int32_t t = 0; t < 7; ++t) map.push_back({t, t});
    return DirectEdges(session, base, other, map);
  }
  std::vector<float> row(const ActivationStore& run, Point point, int32_t layer) const {
    const auto found = run.row(point, layer, 0, here);
    return {found.begin(), found.end()};
  }
  std::set<int32_t> route(const ActivationStore& run, int32_t layer) const {
    const auto ids = run.ids({here, here + 1});
    const auto k = static_cast<size_t>(run.n_slots()), place = static_cast<size_t>(*run.layer_index(layer));
    return {ids.begin() + static_cast<ptrdiff_t>(place * k), ids.begin() + static_cast<ptrdiff_t>((place + 1) * k)};
  }
  // What an expert adds in a run; empty where it is not selected.
  std::vector<float> contribution(const ActivationStore& run, int32_t layer, int32_t expert) const {
    const std::set<int32_t> ids = route(run, layer);
    const auto found = ids.find(expert);
    if (found == ids.end()) return {};
    const auto all = row(run, Point::expert_contribution, layer);
    const auto d = static_cast<ptrdiff_t>(session.model.d_model), i = std::distance(ids.begin(), found);
    return {all.begin() + i * d, all.begin() + (i + 1) * d};
  }
};

std::string at_layer(int32_t layer) { return R"(,"layers":")" + std::to_string(layer) + "\""; }

// The run of the base record with the sender's value of the other run, and all other blocks held at the base run's.
RecordedRun patched(const TwoRuns& runs, const CausalNode& sender) {
  const std::string only =
      R"(,"tokens":{"positions":")" + std::to_string(here) + ":" + std::to_string(here + 1) + "\"}";
  EditMemory memory;
  memory.add(runs.base);
  memory.add(runs.other);
  std::string edits;
  const auto add = [&](const std::string& edit) { edits += (edits.empty() ? "[" : ",") + edit; };
  const auto patch = [&](const std::string& point, const std::string& where, const std::string& from) {
    add(R"({"op":"patch","point":")" + point + R"(","from":"memory:)" + from + R"(","sample":")" +
        (from == "base" ? "a" : "b") + "\"" + where + "}");
  };
  const int32_t l = sender.layer;
  const auto vector = [&](std::vector<float> values) {
    const auto n = static_cast<int64_t>(values.size());
    memory.add("value", {{n}, std::move(values)});
  };
  switch (sender.kind) {
    case Kind::embed: patch("embed", only, "other"); break;
    case Kind::dense: patch("mlp.out", at_layer(l) + only, "other"); break;
    case Kind::shared: patch("shared.out", at_layer(l) + only, "other"); break;
    case Kind::head: {
      vector(runs.row(*runs.other, Point::attn_z, l));
      const int64_t width = runs.session.shape.layers[static_cast<size_t>(l)].attention.d_z;
      std::string neurons;
      for (int64_t c = 0; c < width; ++c) neurons += (c > 0 ? "," : "[") + std::to_string(sender.index * width + c);
      add(R"({"op":"ablate","point":"attn.z","value":"memory:value","neurons":)" + neurons + "]" + at_layer(l) + only +
          "}");
      break;
    }
    default: {
      const std::vector<float> was = runs.contribution(*runs.base, l, sender.index);
      std::vector<float> is = runs.contribution(*runs.other, l, sender.index);
      if (is.empty()) is.assign(was.size(), 0.f);
      for (size_t c = 0; c < was.size(); ++c) is[c] -= was[c];
      vector(is);
      add(R"({"op":"add","point":"moe.out","vector":"memory:value")" + at_layer(l) + only + "}");
      break;
    }
  }
  for (int32_t layer = 0; layer < runs.session.shape.n_layers(); ++layer) {
    const bool moe = runs.session.shape.layers[static_cast<size_t>(layer)].moe;
    if (!(sender.kind == Kind::head && layer == l)) patch("attn.out", at_layer(layer), "base");
    if (layer != l || sender.kind == Kind::head) patch(moe ? "moe.out" : "mlp.out", at_layer(layer), "base");
  }
  return runs.run(0, "patched", edits + "]", std::move(memory));
}

void check_close(const std::vector<float>& found, const std::vector<float>& after, const std::vector<float>& before,
                 size_t first = 0) {
  double size = 0, gap = 0;
  for (size_t c = 0; c < found.size(); ++c) {
    const double want = static_cast<double>(after[first + c]) - static_cast<double>(before[first + c]);
    gap += std::pow(want - static_cast<double>(found[c]), 2);
    size += std::pow(static_cast<double>(before[first + c]), 2) + want * want;
  }
  CHECK(std::sqrt(gap) <= 1e-5 * std::sqrt(size) + 1e-7);
}

}  // namespace

TEST_CASE("direct edges: every edge is path patching with everything frozen, flips included") {
  int64_t n_flipped = 0;
  for (const std::string name : {"olmoe", "deepseek_v2_full", "gpt_oss", "qwen2_moe"}) {
    CAPTURE(name);
    const TwoRuns runs(name);
    DirectEdges edges = runs.edges();
    const ModelShape& shape = runs.session.shape;
    const int32_t n_layers = shape.n_layers();
    const auto all = edges.changes(here, {Kind::logits, -1, -1});
    REQUIRE(all.size() > 4);
    // Their sum is what the two streams differ in.
    std::vector<float> sum(static_cast<size_t>(runs.session.model.d_model), 0.f);
    for (const auto& change : all)
      for (size_t c = 0; c < sum.size(); ++c) sum[c] += change.delta[c];
    check_close(sum, runs.row(*runs.other, Point::resid_out, n_layers - 1),
                runs.row(*runs.base, Point::resid_out, n_layers - 1));
    std::set<Kind> kinds;
    int64_t edges_seen = 0;
    for (const auto& change : all) {
      kinds.insert(change.sender.kind);
      CAPTURE(node_name(change.sender));
      const RecordedRun run = patched(runs, change.sender);
      const std::vector<DirectEdges::Change> one = {change};
      for (int32_t l = 0; l < n_layers; ++l) {
        CAPTURE(l);
        const LayerShape& layer = shape.layers[static_cast<size_t>(l)];
        const AttentionShape& attention = layer.attention;
        const int32_t stage = node_stage(change.sender, n_layers);
        if (stage < 2 * l + 1) {
          const auto head = static_cast<int32_t>(attention.n_heads - 1),
                     kv = static_cast<int32_t>(attention.n_kv_heads - 1);
          check_close(edges.content({Kind::query, l, head}, here, one)[0], runs.row(*run.store, Point::attn_q, l),
                      runs.row(*runs.base, Point::attn_q, l), static_cast<size_t>(head * attention.d_key));
          check_close(edges.content({Kind::key, l, kv}, here, one)[0], runs.row(*run.store, Point::attn_k, l),
                      runs.row(*runs.base, Point::attn_k, l), static_cast<size_t>(kv * attention.d_key));
          check_close(edges.content({Kind::value, l, kv}, here, one)[0], runs.row(*run.store, Point::attn_v, l),
                      runs.row(*runs.base, Point::attn_v, l), static_cast<size_t>(kv * attention.d_value));
        }
        if (stage >= 2 * l + 2) continue;
        ++edges_seen;
        if (!layer.moe) {
          // What the block makes is held, and was read before that: nothing to compare but its own output.
          CHECK(edges.content({Kind::dense, l, -1}, here, one)[0].size() == sum.size());
          continue;
        }
        const auto edge = edges.router(l, here, one)[0];
        check_close(edge.logits, runs.row(*run.store, Point::router_logits, l),
                    runs.row(*runs.base, Point::router_logits, l));
        const std::set<int32_t> was = runs.route(*runs.base, l), is = runs.route(*run.store, l);
        std::vector<int32_t> entered, left;
        std::set_difference(is.begin(), is.end(), was.begin(), was.end(), std::back_inserter(entered));
        std::set_difference(was.begin(), was.end(), is.begin(), is.end(), std::back_inserter(left));
        CHECK(edge.entered == entered);
        CHECK(edge.left == left);
        n_flipped += !left.empty();
        const auto ids = run.store->ids({here, here + 1});
        const auto k = static_cast<size_t>(run.store->n_slots()),
                   place = static_cast<size_t>(*run.store->layer_index(l));
        CHECK(edge.route == std::vector<int32_t>(ids.begin() + static_cast<ptrdiff_t>(place * k),
                                                 ids.begin() + static_cast<ptrdiff_t>((place + 1) * k)));
        check_close(edge.route_weights, runs.row(*run.store, Point::router_weights, l), std::vector<float>(k, 0.f));
        for (const int32_t expert : was) {
          if (!is.count(expert)) continue;
          // Its output alone: the weight of the base run is held.
          const auto weight = [&](const ActivationStore& of) {
            const auto slots = of.ids({here, here + 1});
            for (size_t i = 0; i < k; ++i)
              if (slots[place * k + i] == expert) return of.row(Point::router_weights, l, 0, here)[i];
            return 0.f;
          };
          std::vector<float> after = runs.contribution(*run.store, l, expert);
          for (float& x : after) x *= weight(*runs.base) / weight(*run.store);
          check_close(edges.content({Kind::expert, l, expert}, here, one)[0], after,
                      runs.contribution(*runs.base, l, expert));
        }
        if (layer.shared)
          check_close(edges.content({Kind::shared, l, -1}, here, one)[0], runs.row(*run.store, Point::shared_out, l),
                      runs.row(*runs.base, Point::shared_out, l));
      }
      const std::vector<int32_t> tokens = {7, 9, 3};
      const std::vector<float> was = runs.row(*runs.base, Point::logits, -1),
                               is = runs.row(*run.store, Point::logits, -1);
      const auto found = edges.logits(here, tokens, one)[0];
      for (size_t i = 0; i < tokens.size(); ++i)
        CHECK(found[i] == doctest::Approx(is[static_cast<size_t>(tokens[i])] - was[static_cast<size_t>(tokens[i])])
                              .epsilon(1e-4)
                              .scale(1));
    }
    CHECK(kinds.count(Kind::embed) + kinds.count(Kind::head) + kinds.count(Kind::expert) == 3);
    CHECK(edges_seen > 0);
  }
  CHECK(n_flipped > 0);
}

TEST_CASE("direct edges: the shares of a router's logits add up to them") {
  for (const std::string name : {"mixtral", "deepseek_v2_lite", "gpt_oss", "qwen3_moe"}) {
    CAPTURE(name);
    const TwoRuns runs(name);
    DirectEdges edges = runs.edges();
    for (const int32_t l : runs.session.model.moe_layers()) {
      const DirectEdges::RouteShares shares = edges.route_shares(l, here);
      std::vector<double> sum(shares.rest.begin(), shares.rest.end());
      for (const auto& part : shares.parts)
        for (size_t e = 0; e < sum.size(); ++e) sum[e] += static_cast<double>(part.logits[e]);
      for (size_t e = 0; e < sum.size(); ++e)
        CHECK(sum[e] == doctest::Approx(static_cast<double>(shares.total[e])).epsilon(1e-5).scale(1));
      CHECK(runs.route(*runs.base, l).size() > 0);
      CHECK(shares.total[static_cast<size_t>(shares.last_in)] >= shares.total[static_cast<size_t>(shares.first_out)]);
    }
  }
}

TEST_CASE("causal nodes: names and what is refused") {
  const Session session = tools::open_session((test::goldens_dir() / "deepseek_v2_full/model").string(), {});
  for (const std::string name :
       {"embed", "logits", "L1.H1", "L1.Q1", "L1.K0", "L1.V0", "L1.E3", "L1.shared", "L0.mlp", "L1.router"})
    CHECK(node_name(parse_node(name, session.shape, "--sender")) == name);
  CHECK_THROWS_WITH(parse_node("L1.E99", session.shape, "--sender"),
                    doctest::Contains("--sender: expected a number below"));
  CHECK_THROWS_WITH(parse_node("L99.E0", session.shape, "--sender"), doctest::Contains("expected a layer below"));
  CHECK_THROWS_WITH(parse_node("L0.router", session.shape, "--sender"),
                    "--sender: expected a layer with a router, found \"L0.router\"");
  for (const std::string name : {"", "L", "L1", "L1.", "L1.E", "L1.X2", "1.E2", "L1.E2x", "E2"})
    CHECK_THROWS_WITH(parse_node(name, session.shape, "--sender"), doctest::Contains("expected a node such as"));
}

TEST_CASE("causal edges: an edge's effect is that of path patching in three passes") {
  for (const std::string name : {"olmoe", "deepseek_v2_full"}) {
    CAPTURE(name);
    const TwoRuns runs(name);
    const ModelShape& shape = runs.session.shape;
    const int32_t l = shape.n_layers() - 1;
    const std::string layer = std::to_string(l), only = R"(,"tokens":{"positions":"6:7"}})";
    EdgeRequest request;
    request.senders = find_nodes("embed,L" + std::to_string(l - 1) + ".*", true, shape, "--senders");
    request.receivers = find_nodes("L" + layer + ".router,L" + layer + ".Q1,L" + layer + ".K0,L" + layer + ".E*,logits",
                                   false, shape, "--receivers");
    request.first_position = here;
    request.end_position = here + 1;
    request.keep_all = request.margins = true;
    const std::vector<CausalPair> pairs =
        causal_pairs(Metric::logit_diff, runs.records, runs.made, runs.session.encode);
    check_edges(request, runs.records, pairs, shape);
    const EdgeStudy study = measure_edges(runs.session, runs.made, pairs, request);
    const auto difference = [](const RecordedRun& run) {
      return static_cast<double>(run.logits.data[7]) - static_cast<double>(run.logits.data[9]);
    };
    const double base = difference(runs.run(0, "again", ""));
    double in = 0, out = 0;
    for (const MarginRow& row : study.margins) {
      in += row.of_last_in;
      out += row.of_first_out;
    }
    REQUIRE(study.margins.size() > 5);
    const std::vector<float> logits = runs.row(*runs.base, Point::router_logits, l);
    CHECK(in ==
          doctest::Approx(static_cast<double>(logits[static_cast<size_t>(study.margins[0].last_in)])).epsilon(1e-4));
    CHECK(out ==
          doctest::Approx(static_cast<double>(logits[static_cast<size_t>(study.margins[0].first_out)])).epsilon(1e-4));
    CHECK(runs.route(*runs.base, l).size() == static_cast<size_t>(shape.n_active()));
    const test::TemporaryDirectory dir;
    write_edges(dir / "edges", study, request, runs.session);
    const CsvTable table = CsvTable::read(dir / "edges/edges.csv");
    CHECK(table.n_rows() == study.estimates.size());
    CHECK(CsvTable::read(dir / "edges/margins.csv").n_rows() == study.margins.size());
    std::set<Kind> receivers;
    int64_t n_effects = 0;
    REQUIRE(study.of_pairs.size() == 1);
    for (const EdgeRow& row : study.of_pairs[0]) {
      const CausalNode &sender = request.senders[row.sender], &receiver = request.receivers[row.receiver];
      CAPTURE(node_name(sender));
      CAPTURE(node_name(receiver));
      CHECK(row.tokens == 1);
      const RecordedRun run = patched(runs, sender);
      EditMemory memory;
      memory.add(run.store);
      const AttentionShape& attention = shape.layers[static_cast<size_t>(l)].attention;
      const std::string from = R"("memory:patched","sample":"a","layers":")" + layer + "\"" + only;
      std::string edit;
      if (receiver.kind == Kind::router) {
        edit = R"({"op":"replay","weights":"recorded","trace":)" + from;
        CHECK(row.flipped == (runs.route(*run.store, l) != runs.route(*runs.base, l)));
      } else if (receiver.kind == Kind::query || receiver.kind == Kind::key) {
        const bool query = receiver.kind == Kind::query;
        std::string neurons;
        for (int64_t c = receiver.index * attention.d_key; c < (receiver.index + 1) * attention.d_key; ++c)
          neurons += (neurons.empty() ? "[" : ",") + std::to_string(c);
        edit = std::string(R"({"op":"patch","point":")") + (query ? "attn.q" : "attn.k") + R"(","neurons":)" + neurons +
               R"(],"from":)" + from;
      } else if (receiver.kind == Kind::expert) {
        // Weight x output as it is with the route of the unedited run.
        std::vector<float> change = runs.contribution(*runs.base, l, receiver.index);
        REQUIRE(!change.empty());
        if (!runs.route(*run.store, l).count(receiver.index)) continue;
        DirectEdges edges = runs.edges();
        for (const auto& one : edges.changes(here, receiver))
          if (one.sender == sender) change = edges.content(receiver, here, std::vector<DirectEdges::Change>{one})[0];
        memory.add("change", {{static_cast<int64_t>(change.size())}, change});
        edit = R"({"op":"add","point":"moe.out","vector":"memory:change","layers":")" + layer + "\"" + only;
      }
      const double effect =
          difference(edit.empty() ? run : runs.run(0, "third", "[" + edit + "]", std::move(memory))) - base;
      CHECK(row.effect == doctest::Approx(effect).epsilon(1e-3).scale(0.005));
      receivers.insert(receiver.kind);
      n_effects += std::abs(effect) > 1e-3;
    }
    CHECK(receivers.size() >= 4);
    CHECK(n_effects > 10);
  }
}
