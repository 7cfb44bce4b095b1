// Doses of a neuron against scored runs with the edit that they are; and effects whose records are kept.
#include "eval/causal/neuron_dose.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <filesystem>

#include "base/csv.h"
#include "base/error.h"
#include "base/safetensors.h"
#include "loaders/open.h"
#include "probes/trace.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
namespace fs = std::filesystem;

const char* const dosed_lines[] = {R"({"id":"a","tokens":[5,9,33,17,40,12,61,8,25,30],"pair":"p"})",
                                   R"({"id":"b","tokens":[44,3,9,71,20,31,55],"pair":"p"})",
                                   R"({"id":"c","tokens":[50,31,22,7,9,13]})"};

struct Dosing {
  Session session;
  std::vector<Record> records;
  RecordJobs made;
  test::TemporaryDirectory dir;
  explicit Dosing(const std::string& name)
      : session(tools::open_session((test::goldens_dir() / name / "model").string(), {})) {
    for (const char* line : dosed_lines) records.push_back(parse_record(json::parse(line, "records"), "records"));
    made = make_jobs(session, records, Generate{}, nullptr);
  }
  // The expert of the first layer with a router that the second token of the first record selects first.
  NeuronPlace place() const {
    const int32_t layer = session.model.moe_layers()[0];
    TraceRequest request;
    request.dir = dir / "routes";
    request.points = PointSet::parse("*.router.ids", session.shape);
    session.trace(made.jobs, session.options, request,
                  [&](int64_t i) { return records[static_cast<size_t>(i)].source; }, {});
    const TraceReader trace(request.dir);
    return {
        layer,
        trace.ids(trace.rows(
            0))[static_cast<size_t>(session.model.moe_layers().size()) * static_cast<size_t>(session.model.n_active())],
        3};
  }
  double nll(size_t record, const std::string& edit) const {
    Job job = made.jobs[record];
    job.index = 0;
    job.task = Score{};
    if (!edit.empty()) {
      const json::Value edits = json::parse("[" + edit + "]", "edits");
      job.plan = session.edits(json::Ref(edits, "edits"), dir.path(), 0);
    }
    double sum = 0;
    RunEvents events;
    events.on_done = [&](Result result) {
      for (const double x : result.logprobs) sum += x;
    };
    session.run({job}, session.options, events, nullptr);
    return -sum / static_cast<double>(job.n_given() - 1);
  }
};

}  // namespace

TEST_CASE("neuron dose: each is a scored run with the neuron written to") {
  for (const std::string name : {"olmoe", "gpt_oss"}) {
    CAPTURE(name);
    const Dosing dosing(name);
    const NeuronPlace place = dosing.place();
    const auto values = neuron_values(dosing.session, dosing.made.jobs, place);
    REQUIRE(!values[0].empty());
    const int64_t d_ff = dosing.session.model.layers[static_cast<size_t>(place.layer)].moe()->d_ff;
    const std::vector<float> row(static_cast<size_t>(d_ff), 0.75f);
    const safetensors::TensorHeader header[] = {{"v", "F32", {d_ff}}};
    safetensors::Writer file(dosing.dir / "v.safetensors", header);
    file.write(row.data(), row.size() * sizeof(float));
    file.finish();
    const std::string where = R"("point":"expert.hidden","layers":")" + std::to_string(place.layer) +
                              R"(","experts":[)" + std::to_string(place.expert) + R"(])";
    EffectsRequest request;
    request.metric = Metric::nll;
    const auto totals = [&](DoseKind kind, double dose) {
      const DosedJobs dosed = dosed_jobs(dosing.session, dosing.made, values, place, kind, dose);
      request.memory = [&](size_t i) { return &dosed.memories[i]; };
      std::vector<double> found;
      for (const EffectsRow& effect : measure_effects(dosing.session, dosing.records, dosed.made, request).rows)
        found.push_back(effect.total);
      return found;
    };
    const std::vector<double> zero = totals(DoseKind::set, 0), set = totals(DoseKind::set, 0.75),
                              none = totals(DoseKind::scale, 0), same = totals(DoseKind::scale, 1),
                              nothing = totals(DoseKind::add, 0), more = totals(DoseKind::add, 0.5);
    for (size_t i = 0; i < 3; ++i) {
      const double base = dosing.nll(i, "");
      CHECK(zero[i] == dosing.nll(i, R"({"op":"ablate","value":"zero","neurons":[3],)" + where + "}") - base);
      CHECK(set[i] == dosing.nll(i, R"({"op":"ablate","value":"v.safetensors:v","neurons":[3],)" + where + "}") - base);
      CHECK(none[i] == zero[i]);
      CHECK(same[i] == 0);
      CHECK(nothing[i] == 0);
      if (!values[i].empty()) CHECK(more[i] != 0);
      if (values[i].empty()) CHECK(set[i] == 0);
    }
    CHECK(zero[0] != 0);
    CHECK_THROWS_WITH_AS(neuron_values(dosing.session, dosing.made.jobs, {place.layer, place.expert, 99999}),
                         ("--neuron: expected a neuron below " + std::to_string(d_ff) + ", found 99999").c_str(),
                         UsageError);
  }
}

TEST_CASE("neuron dose: quantiles of its own values, means over records that select its expert") {
  const std::vector<Dose> doses = quantile_doses({{{0, 4.f}, {3, 1.f}}, {}, {{1, 3.f}, {2, 2.f}}});
  std::map<std::string, double> by_name;
  for (const Dose& dose : doses) by_name[dose.name] = dose.value;
  CHECK(by_name["0"] == 0);
  CHECK(by_name["mean"] == 2.5);
  CHECK(by_name["p01"] == doctest::Approx(1.03));
  CHECK(by_name["p25"] == 1.75);
  CHECK(by_name["p50"] == 2.5);
  CHECK(by_name["p99"] == doctest::Approx(3.97));
  CHECK(std::is_sorted(doses.begin(), doses.end(), [](const Dose& a, const Dose& b) { return a.value < b.value; }));
  CHECK_THROWS_AS(quantile_doses({{}}), Error);

  const Dosing dosing("olmoe");
  Effects effects;
  for (const double total : {1.0, 2.0, 6.0}) {
    EffectsRow row;
    row.total = total;
    row.direct = total / 2;
    row.routes = 0;
    effects.rows.push_back(row);
  }
  const DoseRow row = dose_row({"p50", 2.5}, effects, dosing.records, {{{1, 1.f}, {2, 1.f}}, {}, {{0, 2.f}}}, 0);
  CHECK(row.records == 2);
  CHECK(row.tokens == 3);
  CHECK(row.total.mean == 3.5);
  CHECK(row.direct.mean == 1.75);
  CHECK(row.total.ci.lo == 1);
  CHECK(row.total.ci.hi == 6);
  const CsvTable table = CsvTable::parse(dose_table({row}, Metric::nll), "dose.csv");
  CHECK(table.text(0, table.column("dose")) == "p50");
  CHECK(table.number(0, table.column("total_hi")) == 6);
}

TEST_CASE("causal effects: chunks change no bit, and records that are known are not run again") {
  Dosing dosing("deepseek_v2_full");
  const int32_t layer = dosing.session.model.moe_layers()[0];
  const json::Value edits =
      json::parse(R"([{"op":"misroute","policy":"next_best","layers":")" + std::to_string(layer) + R"("}])", "edits");
  const auto plan = dosing.session.edits(json::Ref(edits, "edits"), ".", 0);
  const RecordJobs made = make_jobs(dosing.session, dosing.records, Generate{}, plan);
  std::vector<std::string> written;
  for (const int64_t chunk : {512, 4, 1}) {
    EffectsRequest request;
    request.metric = Metric::nll;
    dosing.session.options.chunk = chunk;
    request.kept.stem = dosing.dir / ("kept" + std::to_string(chunk));
    std::atomic<bool> stop{false};
    request.interrupted = &stop;
    if (chunk == 4) {
      request.on_progress = [&](int64_t) { stop = true; };
      CHECK(measure_effects(dosing.session, dosing.records, made, request).interrupted);
      CHECK(test::read_file(request.kept.stem.string() + ".jsonl").find("\"a\"") != std::string::npos);
      stop = false;
      request.on_progress = {};
    }
    std::string kept;
    request.kept.on_kept = [&](const std::string& what) { kept = what; };
    const Effects effects = measure_effects(dosing.session, dosing.records, made, request);
    CHECK(kept == (chunk == 4 ? "1 of 3 records of kept4" : ""));
    const fs::path out = dosing.dir / ("out" + std::to_string(chunk));
    write_effects(out, effects, request, dosing.session, edits);
    written.push_back(test::read_file(out / "effects.csv") + test::read_file(out / "propagation.csv"));
  }
  CHECK(written[1] == written[0]);
  CHECK(written[2] == written[0]);
}
