// Pipelines tested by bans and direct edges: planted ones are told apart, effects are those of public edits.
#include "eval/causal/pipelines.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/files.h"
#include "eval/causal/recorded_run.h"
#include "probes/edit_memory.h"
#include "tests/bad_files/files.h"
#include "tests/causal/planted.h"
#include "tests/causal/tiny_models.h"
#include "tests/docs.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::probes;
using Kind = CausalNode::Kind;

CausalNode expert(int32_t layer, int32_t index) { return {Kind::expert, layer, index}; }

PipelineStudy study_of(const engine::Session& session, const std::vector<Record>& records,
                       const std::vector<ExpertLink>& links, uint64_t seed = 0) {
  PipelineRequest request;
  request.links = links;
  request.resamples = {999, seed, 1};
  return study_pipelines(session, records, make_jobs(session, records, engine::Generate{}, nullptr), request);
}

std::vector<Record> both_conditions(const test::Planted& planted, size_t circuit) {
  std::vector<Record> records = planted.records(circuit, "clean");
  for (Record& record : planted.records(circuit, "corrupt")) records.push_back(std::move(record));
  return records;
}

// Random texts of a tiny model.
std::vector<std::string> random_lines(int n, int length, int n_vocab, uint64_t state) {
  std::vector<std::string> lines;
  for (int i = 0; i < n; ++i) {
    std::string tokens;
    for (int t = 0; t < length; ++t) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      tokens += (t ? "," : "") + std::to_string(state % (uint64_t{1} << 63) / 4096 % static_cast<uint64_t>(n_vocab));
    }
    lines.push_back("{\"id\":\"" + std::to_string(i) + "\",\"tokens\":[" + tokens + "]}");
  }
  return lines;
}

}  // namespace

TEST_CASE("causal pipelines: planted routes select, the way round an expert is a path, planted content feeds") {
  const std::string on = R"("tokens":[[11,12]],"answer":13,"foil":14,"records":12,"length":6)",
                    other = R"("tokens":[[21,22]],"answer":23,"foil":24,"records":12,"length":6)";
  const test::Planted planted(
      R"({"family":"olmoe","dtype":"f32","seed":3,"config":{"num_hidden_layers":6},"circuits":[)"
      R"({"kind":"route","experts":[{"layer":0,"expert":1},{"layer":1,"expert":3},{"layer":2,"expert":5}],)" +
      on + R"(},{"kind":"content","experts":[{"layer":3,"expert":0},{"layer":4,"expert":5},{"layer":5,"expert":2}],)" +
      other + "}]}");
  const std::vector<ExpertLink> routes = {
      {expert(0, 1), expert(1, 3), {1}, 1}, {expert(0, 1), expert(2, 5), {}, 1}, {expert(1, 3), expert(2, 5), {1}, 1}};
  const PipelineStudy selected = study_of(*planted.session, both_conditions(planted, 0), routes);
  CHECK(selected.units == 12);
  for (const size_t i : {size_t{0}, size_t{1}, size_t{2}}) {
    CAPTURE(i);
    const LinkEffects& link = selected.links[i];
    CHECK(std::string(verdict_text(link.verdict)) == (i == 1 ? "selects (through others)" : "selects (direct)"));
    CHECK(link.tokens == 12);
    CHECK(link.selected == 1);
    CHECK(link.ban_selected.mean == -1);
    CHECK(link.direct_selected.mean == (i == 1 ? 0 : -1));
    CHECK(link.ban_logit.q < 0.05);
  }
  const std::vector<ExpertLink> contents = {{expert(3, 0), expert(4, 5), {1}, 1}, {expert(4, 5), expert(5, 2), {1}, 1}};
  const PipelineStudy fed = study_of(*planted.session, both_conditions(planted, 1), contents);
  for (const LinkEffects& link : fed.links) {
    CHECK(std::string(verdict_text(link.verdict)) == "feeds only");
    CHECK(link.ban_selected.mean == 0);
    CHECK(link.tokens == 2 * 12 * 6);
    CHECK(link.feeds.mean == doctest::Approx(1).epsilon(0.01));  // the flag is all that is copied
    CHECK(link.feeds_controls.random < 0.7);
  }
  PipelineRequest request;
  request.links = routes;
  const std::string sentence = pipelines_sentence(selected, request);
  CHECK(sentence.find("2 select directly, 1 through others") != std::string::npos);
  CHECK(sentence.find("1 of 1 pipeline selects at every step") != std::string::npos);
}

TEST_CASE("causal pipelines: experts that share tokens and nothing else are associated only" *
          doctest::test_suite("repeats: a larger study of what smaller ones do")) {
  // Four experts in each of six layers, each fires on the same tokens as one of every other layer.
  std::string planted;
  for (int layer = 0; layer < 6; ++layer)
    for (int e = 0; e < 4; ++e) {
      std::string tokens;
      for (int i = 0; i < 12; ++i) tokens += (i ? "," : "") + std::to_string(e * 12 + i);
      planted += std::string(planted.empty() ? "" : ",") + R"({"layer":)" + std::to_string(layer) + R"(,"expert":)" +
                 std::to_string((e + 3 * layer) % 8) + R"(,"tokens":[)" + tokens + "]}";
    }
  test::TemporaryDirectory dir;
  loaders::synthetic::make_model(
      json::parse(R"({"family":"olmoe","dtype":"f32","seed":5,"config":{"hidden_size":128,"num_hidden_layers":6},)"
                  R"("planted":[)" +
                      planted + "]}",
                  "spec"),
      "spec", dir / "m");
  const engine::Session session = loaders::open_session((dir / "m").string(), {});
  std::vector<Record> records;
  for (const std::string& line : random_lines(16, 24, 48, 7))
    records.push_back(parse_record(json::parse(line, "records"), "records"));
  std::vector<ExpertLink> links;
  for (int layer = 0; layer < 5; ++layer)
    for (int e = 0; e < 4; ++e)
      links.push_back({expert(layer, (e + 3 * layer) % 8), expert(layer + 1, (e + 3 * layer + 3) % 8), {}, 1});
  const PipelineStudy study = study_of(session, records, links);
  int n_selects = 0, n_feeds = 0;
  for (const LinkEffects& link : study.links) {
    CHECK(link.tokens > 20);
    CHECK(link.selected == 1);  // as strong an association as there is
    CHECK(link.ban_selected.mean == 0);
    n_feeds += link.verdict == LinkVerdict::feeds;
    n_selects += link.verdict != LinkVerdict::feeds && link.verdict != LinkVerdict::associated;
  }
  CHECK(n_selects == 0);
  CHECK(static_cast<double>(n_feeds) <= link_q * static_cast<double>(links.size()));
}

TEST_CASE("causal pipelines: bans are public edits, direct changes a patched router, everything else held") {
  for (const std::string name : {"olmoe", "gpt_oss"}) {
    CAPTURE(name);
    const test::TinyRecords tiny(name, random_lines(3, 12, 60, 11));
    const engine::Session& session = tiny.session;
    const auto run = [&](size_t record, const std::string& edits, EditMemory memory = EditMemory()) {
      std::shared_ptr<const EditPlan> plan;
      if (!edits.empty()) {
        const json::Value list = json::parse(edits, "edits");
        plan = EditPlan::parse(json::Ref(list, "edits"), ".", session.shape, 0, &memory);
      }
      return record_run(session, tiny.made.jobs[record], 1, PointSet::parse("*", session.shape), "run", plan.get())
          .store;
    };
    const auto route = [](const ActivationStore& store, int64_t t, int32_t layer) {
      const std::vector<int32_t> ids = store.ids({t, t + 1});
      const auto k = static_cast<size_t>(store.n_slots()), at = static_cast<size_t>(*store.layer_index(layer)) * k;
      return std::vector<int32_t>(ids.begin() + static_cast<ptrdiff_t>(at),
                                  ids.begin() + static_cast<ptrdiff_t>(at + k));
    };
    const auto has = [&](const ActivationStore& store, int64_t t, const CausalNode& node) {
      const std::vector<int32_t> ids = route(store, t, node.layer);
      return std::find(ids.begin(), ids.end(), node.index) != ids.end();
    };
    const int32_t last = session.shape.moe_layers().back(), first = session.shape.moe_layers().front();
    const auto base = run(0, "");
    const CausalNode from = expert(first, route(*base, 6, first)[0]), to = expert(last, route(*base, 6, last)[0]);
    const PipelineStudy study = study_of(session, tiny.records, {{from, to, {}, 1}});
    double selected = 0, logit = 0, later = 0, direct = 0, direct_selected = 0, feeds = 0, fed = 0;
    int64_t tokens = 0, later_tokens = 0;
    for (size_t r = 0; r < tiny.records.size(); ++r) {
      const auto was = run(r, "");
      std::string bans;  // at each token that selects it
      for (int64_t t = 0; t < was->n_tokens(); ++t)
        if (has(*was, t, from))
          bans += std::string(bans.empty() ? "[" : ",") + R"({"op":"deactivate","mode":"ban","experts":{")" +
                  std::to_string(from.layer) + "\":[" + std::to_string(from.index) + R"(]},"tokens":{"positions":")" +
                  std::to_string(t) + ":" + std::to_string(t + 1) + "\"}}";
      const auto is = run(r, bans.empty() ? "" : bans + "]");
      const auto logit_of = [&](const ActivationStore& store, int64_t t) {
        return static_cast<double>(
            store.row(Point::router_logits, to.layer, 0, static_cast<int32_t>(t))[static_cast<size_t>(to.index)]);
      };
      bool begun = false;
      for (int64_t t = 0; t < was->n_tokens(); ++t) {
        const bool here = has(*was, t, from);
        const auto at = static_cast<int32_t>(t);
        if (!begun && !here) {
          const auto x = was->row(Point::resid_out, last, 0, at), y = is->row(Point::resid_out, last, 0, at);
          CHECK(std::equal(x.begin(), x.end(), y.begin()));
        }
        begun = begun || here;
        if (begun && !here) {
          later += logit_of(*is, t) - logit_of(*was, t);
          ++later_tokens;
        }
        if (!here) continue;
        ++tokens;
        selected += static_cast<double>(has(*is, t, to)) - static_cast<double>(has(*was, t, to));
        logit += logit_of(*is, t) - logit_of(*was, t);
        // The stream of to's layer without what `from` adds, by an edit there; the route held for what it computes.
        std::vector<int32_t> ids = route(*was, t, from.layer);
        std::sort(ids.begin(), ids.end());
        const auto rank = static_cast<size_t>(std::find(ids.begin(), ids.end(), from.index) - ids.begin()),
                   d = static_cast<size_t>(session.model.d_model);
        const auto row = was->row(Point::expert_contribution, from.layer, 0, at).subspan(rank * d, d);
        std::vector<float> without(row.begin(), row.end());
        for (float& x : without) x = -x;
        const std::string add = R"([{"op":"add","point":"resid_mid","layers":")" + std::to_string(to.layer) +
                                R"(","vector":"memory:without","tokens":{"positions":")" + std::to_string(t) + ":" +
                                std::to_string(t + 1) + "\"}}";
        const auto memory = [&] {
          EditMemory made;
          made.add("without", {{static_cast<int64_t>(d)}, without});
          made.add(was);
          return made;
        };
        const auto alone = run(r, add + "]", memory());
        direct += logit_of(*alone, t) - logit_of(*was, t);
        direct_selected += static_cast<double>(has(*alone, t, to)) - static_cast<double>(has(*was, t, to));
        if (!has(*was, t, to)) continue;
        const auto held = run(r, add + R"(,{"op":"replay","trace":"memory:run","weights":"recorded"}])", memory());
        std::vector<int32_t> of_to = route(*was, t, to.layer);
        std::sort(of_to.begin(), of_to.end());
        const auto place = static_cast<size_t>(std::find(of_to.begin(), of_to.end(), to.index) - of_to.begin());
        const auto x = was->row(Point::expert_contribution, to.layer, 0, at).subspan(place * d, d),
                   y = held->row(Point::expert_contribution, to.layer, 0, at).subspan(place * d, d);
        double change = 0, size = 0;
        for (size_t c = 0; c < d; ++c) {
          change += std::pow(static_cast<double>(y[c]) - static_cast<double>(x[c]), 2);
          size += std::pow(static_cast<double>(x[c]), 2);
        }
        feeds += std::sqrt(change);
        fed += std::sqrt(size);
      }
    }
    const LinkEffects& link = study.links[0];
    REQUIRE(tokens > 3);
    REQUIRE(fed > 0);
    const auto n = static_cast<double>(tokens);
    CHECK(link.tokens == tokens);
    CHECK(link.later_tokens == later_tokens);
    CHECK(link.ban_selected.mean == doctest::Approx(selected / n));
    CHECK(link.ban_logit.mean == doctest::Approx(logit / n));
    CHECK(std::fabs(logit) > 1e-3);
    CHECK(link.later_logit.mean == doctest::Approx(later / static_cast<double>(later_tokens)));
    CHECK(link.direct_selected.mean == doctest::Approx(direct_selected / n));
    CHECK(link.direct_logit.mean == doctest::Approx(direct / n).epsilon(1e-4));
    CHECK(link.feeds.mean == doctest::Approx(feeds / fed).epsilon(1e-4));
  }
}

TEST_CASE("causal pipelines: tables of links are read as analyze writes them, and others refused") {
  const test::TinyRecords tiny("olmoe", random_lines(1, 4, 60, 3));
  const ModelShape& shape = tiny.session.shape;
  test::TemporaryDirectory dir;
  const auto put = [&](const char* name, const std::string& text) { write_file_atomically(dir / name, text); };
  const std::string head = "pipeline,step,layer,expert,phi\n";
  put("pipelines.csv", head + "1,1,0,2,\n1,2,1,3,0.5\n2,1,0,4,\n2,2,1,3,0.25\n");
  put("across_layers.csv",
      "layer_a,expert_a,layer_b,expert_b,phi,q\n0,4,1,3,0.2,0.01\n0,1,1,2,0.3,0.01\n0,1,1,5,0.3,0.05\n"
      "0,2,1,6,,\n");
  const std::vector<ExpertLink> links = read_expert_links(dir.path(), dir / "across_layers.csv", shape);
  REQUIRE(links.size() == 3);
  CHECK(node_name(links[0].from) + " " + node_name(links[0].to) == "L0.E1 L1.E2");
  CHECK(links[1].pipelines == std::vector<int64_t>{1});
  CHECK(links[2].pipelines == std::vector<int64_t>{2});
  const std::pair<std::string, const char*> cases[] = {
      {head + "1,1,0,2,\n1,3,1,3,0.5\n", "line 3: expected step 2 of pipeline 1, found step 3 of pipeline 1"},
      {head + "1,1,1,2,\n1,2,1,3,0.5\n", "line 3: expected a layer above 1, found 1"},
      {head + "1,1,0,99,\n", "line 2: expected an expert from 0 to"},
      {head + "1,1,77,0,\n", "line 2: expected a layer of this model with a router in layer, found 77"},
      {head, "expected a pipeline of two steps or more, found none"},
  };
  for (const auto& [text, expected] : cases) {
    put("other.csv", text);
    std::string message;
    try {
      read_expert_links(dir / "other.csv", {}, shape);
    } catch (const Error& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK(test::good_message(message, expected));
  }
  put("summary.json", R"({"traces":[{"model_hash":"abc"}]})");
  CHECK_THROWS_AS(require_analysis_of(dir.path(), "abd"), Error);
  require_analysis_of(dir.path(), "abc");
}

TEST_CASE("causal pipelines: what draws say does not depend on batches, and what numbers say stands on the page") {
  const test::TinyRecords tiny("olmoe", random_lines(4, 10, 60, 5));
  std::vector<ExpertLink> links;
  for (int e = 0; e < 4; ++e) links.push_back({expert(0, e), expert(1, e), {}, 1});
  const PipelineStudy one = study_of(tiny.session, tiny.records, links, 4);
  engine::Session other = loaders::open_session((test::goldens_dir() / "olmoe" / "model").string(), {});
  other.options.batch = 1;
  const PipelineStudy two = study_of(other, tiny.records, links, 4);
  for (size_t i = 0; i < links.size(); ++i) {
    if (one.links[i].tokens == 0) continue;
    CHECK(one.links[i].ban_logit.mean == two.links[i].ban_logit.mean);
    CHECK(one.links[i].direct_controls.random == two.links[i].direct_controls.random);
  }
  const std::string page = test::page_of("docs/causal-pipelines.md");
  for (int verdict = 0; verdict <= static_cast<int>(LinkVerdict::untested); ++verdict) {
    const std::string text = verdict_text(static_cast<LinkVerdict>(verdict));
    CHECK_MESSAGE(page.find("| `" + text + "` |") != std::string::npos, text);
  }
  PipelineStudy interrupted;
  const std::atomic<bool> stop = true;
  PipelineRequest request;
  request.links = links;
  request.interrupted = &stop;
  CHECK(study_pipelines(tiny.session, tiny.records, tiny.made, request).interrupted);
}
