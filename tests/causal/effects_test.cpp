// Effects of edits and their parts, against runs with routes replayed from traces on disk; and how the change travels,
// against the same traces.
#include "eval/causal/effects.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/csv.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "probes/trace.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
namespace fs = std::filesystem;

const char* const record_lines[] = {R"({"id":"a","tokens":[5,9,33,17,40,12,61,8,25,30]})",
                                    R"({"id":"b","tokens":[44,3,9,71]})"};
// Acts in the first layer with a router of these models, on all tokens but the first two.
std::string edit_of(int32_t layer) {
  return R"([{"op":"misroute","policy":"next_best","layers":")" + std::to_string(layer) +
         R"(","tokens":{"positions":"2:99"}}])";
}

struct Study {
  Session session;
  std::vector<Record> records;
  test::TemporaryDirectory dir;
  explicit Study(const std::string& name) : session(open_session((test::goldens_dir() / name / "model").string(), {})) {
    for (const char* line : record_lines) records.push_back(parse_record(json::parse(line, "records"), "records"));
  }
  std::shared_ptr<const EditPlan> plan(const std::string& text) const {
    if (text.empty()) return nullptr;
    const json::Value edits = json::parse(text, "edits");
    return session.edits(json::Ref(edits, "edits"), ".", 0);
  }
  RecordJobs jobs(const std::string& edits) const { return make_jobs(session, records, Generate{}, plan(edits)); }
  // A trace of the records under these edits; and the mean of -log p of each record.
  fs::path trace(const std::string& edits, const std::string& name) const {
    const RecordJobs made = jobs(edits);
    TraceRequest request;
    request.dir = dir / name;
    request.points = PointSet::parse("*.router.ids,*.router.weights,*.resid_out,*.router.logits", session.shape);
    request.plan = plan(edits);
    session.trace(made.jobs, session.options, request,
                  [&](int64_t i) { return records[static_cast<size_t>(i)].source; }, {});
    return request.dir;
  }
  std::vector<double> nll(const std::string& edits) const {
    RecordJobs made = jobs(edits);
    std::vector<double> found(records.size());
    for (Job& job : made.jobs) job.task = Score{};
    RunEvents events;
    events.on_done = [&](Result result) {
      double sum = 0;
      for (const double x : result.logprobs) sum += x;
      found[static_cast<size_t>(result.index)] = -sum / static_cast<double>(result.logprobs.size());
    };
    session.run(made.jobs, session.options, events, nullptr);
    return found;
  }
};

std::string replay_of(const fs::path& trace, const std::string& layers, const std::string& weights) {
  return R"({"op":"replay","trace":")" + trace.string() + R"(","layers":")" + layers + R"(","weights":")" + weights +
         R"("})";
}

}  // namespace

TEST_CASE("causal effects: total, direct, routes and interaction are those of four runs") {
  for (const std::string name : {"olmoe", "deepseek_v2_full", "gpt_oss"}) {
    for (const bool holds_weights : {false, true}) {
      CAPTURE(name);
      CAPTURE(holds_weights);
      const Study setup(name);
      const std::vector<int32_t> moe = setup.session.model.moe_layers();
      const std::string edits = edit_of(moe[0]);
      const std::string layers = std::to_string(moe[1]) + "-" + std::to_string(moe.back());
      EffectsRequest request;
      request.metric = Metric::nll;
      request.holds_weights = holds_weights;
      const Effects effects = measure_effects(setup.session, setup.records, setup.jobs(edits), request);
      CHECK(effects.highest_layer == moe[0]);
      const char* weights = holds_weights ? "recorded" : "model";
      const fs::path base_trace = setup.trace("", "base"), edited_trace = setup.trace(edits, "edited");
      const std::vector<double> base = setup.nll(""), edited = setup.nll(edits),
                                direct = setup.nll(edits.substr(0, edits.size() - 1) + "," +
                                                   replay_of(base_trace, layers, weights) + "]"),
                                routes = setup.nll("[" + replay_of(edited_trace, layers, weights) + "]");
      for (size_t i = 0; i < 2; ++i) {
        const EffectsRow& row = effects.rows[i];
        CHECK(row.base == base[i]);
        CHECK(row.total == edited[i] - base[i]);
        CHECK(row.direct == direct[i] - base[i]);
        CHECK(row.routes == routes[i] - base[i]);
        CHECK(row.interaction == doctest::Approx(row.total - row.direct - row.routes));
        CHECK(row.total != 0);
      }
    }
  }
}

TEST_CASE("causal effects: how a change travels") {
  const Study setup("olmoe");
  const std::string edits = edit_of(0);
  EffectsRequest request;
  request.metric = Metric::nll;
  const Effects effects = measure_effects(setup.session, setup.records, setup.jobs(edits), request);
  const TraceReader a(setup.trace("", "base")), b(setup.trace(edits, "edited"));
  const int64_t d_model = setup.session.model.d_model, k = a.n_slots(), n_experts = a.n_experts();
  REQUIRE(effects.propagation.size() == static_cast<size_t>(setup.session.model.n_layers() - 1));
  for (const PropagationRow& row : effects.propagation) {
    double relative = 0, squares = 0, jaccard = 0;
    int64_t tokens = 0, left = 0, crossed = 0;
    for (int64_t sample = 0; sample < 2; ++sample) {
      const auto rows = a.rows(sample);
      const std::string name = "layer." + std::to_string(row.layer) + ".resid_out";
      const std::vector<float> x = a.floats(name, rows), y = b.floats(name, rows);
      const std::vector<float> z = a.floats("router.logits", rows), other_z = b.floats("router.logits", rows);
      const std::vector<int32_t> ids = a.ids(rows), other_ids = b.ids(rows);
      const int64_t n_layers = static_cast<int64_t>(a.layers().size());
      for (int64_t t = 2; t < rows.size(); ++t) {
        double size = 0, change = 0;
        for (int64_t c = t * d_model; c < (t + 1) * d_model; ++c) {
          size += std::pow(static_cast<double>(x[static_cast<size_t>(c)]), 2);
          change += std::pow(
              static_cast<double>(y[static_cast<size_t>(c)]) - static_cast<double>(x[static_cast<size_t>(c)]), 2);
        }
        relative += std::sqrt(change / size);
        const int64_t at = t * n_layers + row.layer;
        std::set<int32_t> was, is, all;
        for (int64_t i = 0; i < k; ++i) {
          was.insert(ids[static_cast<size_t>(at * k + i)]);
          is.insert(other_ids[static_cast<size_t>(at * k + i)]);
        }
        all = was;
        all.insert(is.begin(), is.end());
        const int64_t common = 2 * k - static_cast<int64_t>(all.size());
        left += k - common;
        crossed += common < k;
        jaccard += static_cast<double>(common) / static_cast<double>(all.size());
        for (int64_t e = at * n_experts; e < (at + 1) * n_experts; ++e)
          squares += std::pow(
              static_cast<double>(other_z[static_cast<size_t>(e)]) - static_cast<double>(z[static_cast<size_t>(e)]), 2);
        ++tokens;
      }
    }
    const auto n = static_cast<double>(tokens);
    CHECK(row.tokens == tokens);
    CHECK(row.dresid_rel == doctest::Approx(relative / n));
    CHECK(row.ids_changed == doctest::Approx(static_cast<double>(left) / (n * static_cast<double>(k))));
    CHECK(row.margin_crossed == doctest::Approx(static_cast<double>(crossed) / n));
    CHECK(row.jaccard == doctest::Approx(jaccard / n));
    CHECK(row.dlogit_rms == doctest::Approx(std::sqrt(squares / (n * static_cast<double>(n_experts)))));
    CHECK((row.dresid_cos > 0 && row.dresid_cos < 1));
    CHECK(row.lens_kl > 0);
  }
}

TEST_CASE("causal effects: edits of the last layer have no later routes; files keep empty cells") {
  const Study setup("olmoe");
  EffectsRequest request;
  request.metric = Metric::nll;
  const std::string edits = R"([{"op":"temperature","t":2}])";
  const Effects effects = measure_effects(setup.session, setup.records, setup.jobs(edits), request);
  CHECK(effects.propagation.empty());
  for (const EffectsRow& row : effects.rows) CHECK((std::isnan(row.direct) && std::isnan(row.interaction)));
  write_effects(setup.dir / "out", effects, request, setup.session, setup.plan(edits)->source());
  const CsvTable table = CsvTable::read(setup.dir / "out/effects.csv");
  CHECK(table.n_rows() == 2);
  CHECK(table.text(0, table.column("direct")).empty());
  CHECK(table.number(0, table.column("total")) == effects.rows[0].total);
}
