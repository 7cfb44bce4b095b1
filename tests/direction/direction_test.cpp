// Directions of planted models: found, held against controls, and what edits with them do; and of models without one.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/csv.h"
#include "base/safetensors.h"
#include "eval/direction/router_space.h"
#include "eval/direction/steering.h"
#include "eval/direction/validate.h"
#include "tests/bad_files/files.h"
#include "tests/causal/planted.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
using namespace signalbox::loaders;
using test::Planted;

std::string spec_of(const std::string& family, int records) {
  return R"({"family":")" + family + R"(","dtype":"f32","seed":5,"config":{"num_hidden_layers":4},"circuits":[)" +
         R"({"kind":"direction","expert":{"layer":1,"expert":0},"swap":[3,5],)" +
         R"("tokens":[[48,49],[50,51],[52,53],[54,55]],"answer":65,"foil":66,"records":)" + std::to_string(records) +
         R"(,"length":5}]})";
}

Extraction extracted(const Session& session, const std::vector<Record>& records, ExtractRequest& request) {
  request.contrast = {"on", "off"};
  Labelled data = label_records(records, request.contrast, "records");
  split_labelled(data, request.contrast, request.split, request.seed, "records");
  return extract_directions(session, data, request);
}

std::vector<double> numbers(const json::Value& list) {
  std::vector<double> out;
  for (const json::Value& item : list.items()) out.push_back(item.real());
  return out;
}

double cosine(std::span<const double> a, std::span<const double> b) {
  return dot(a, b) / std::sqrt(dot(a, a) * dot(b, b));
}

const ValidationRow& row_of(const Validation& found, int64_t layer, const std::string& part, const std::string& kind,
                            const std::string& dose) {
  const auto at = std::find_if(found.rows.begin(), found.rows.end(), [&](const ValidationRow& row) {
    return row.layer == layer && row.part == part && row.kind == kind && row.dose == dose;
  });
  REQUIRE(at != found.rows.end());
  return *at;
}

}  // namespace

TEST_CASE("direction: a planted one is found, its parts are the planted parts, and it beats its controls") {
  for (const std::string family : {"mixtral", "gpt_oss", "deepseek_v2"}) {
    CAPTURE(family);
    const Planted planted(spec_of(family, 24));
    const json::Value& truth = planted.circuit(0);
    const std::vector<double> content = numbers(*truth.find("content")), router = numbers(*truth.find("router"));
    ExtractRequest request;
    const std::vector<Record> records = read_records((planted.dir / "m/circuit-0.jsonl").string());
    const Extraction found = extracted(*planted.session, records, request);
    const LayerDirection& layer = found.layers[1];
    std::vector<double> whole = content;
    for (size_t c = 0; c < whole.size(); ++c) whole[c] += router[c];
    CHECK(cosine(layer.whole, whole) > 0.99);
    CHECK(cosine(layer.router, router) > 0.99);
    CHECK(cosine(layer.rest, content) > 0.99);
    CHECK(layer.router_layer == 2);
    CHECK(layer.auc == 1);
    write_extraction(planted.dir / "d", found, request, *planted.session);

    const StoredDirections stored = read_directions(planted.dir / "d");
    int64_t left_out = 0;
    const Labelled data = held_out_records(stored, records, "records", left_out);
    CHECK(left_out == 36);
    CHECK(data.records.size() == 12);
    ValidateRequest ask;
    ask.layers = {1};
    ask.doses = {-1, 1};
    ask.resamples = 200;
    ask.controls = 40;
    const Validation validation = validate_directions(*planted.session, stored, data, ask);
    const ValidationRow& separation = row_of(validation, 1, "whole", "direction", "");
    CHECK(separation.auc == 1);
    CHECK(separation.p < 0.1);
    CHECK(std::fabs(row_of(validation, 1, "whole", "permuted", "").auc - 0.5) < 0.15);
    // A flip of the answer, either way; isotropic and data vectors of the same length do little on the average.
    const double flip = row_of(validation, 1, "whole", "direction", "1").effect;
    CHECK(flip > 10);
    CHECK(row_of(validation, 1, "whole", "direction", "-1").effect < -10);
    for (const std::string kind : {"data", "isotropic"}) {
      CAPTURE(kind);
      const ValidationRow& row = row_of(validation, 1, "whole", kind, "1");
      CHECK(std::fabs(row.effect) < 0.35 * flip);
      CHECK(row.p < 0.1);
    }
    // Ablation leaves half of a flip.
    const double ablation = row_of(validation, 1, "whole", "direction", "ablate").effect;
    CHECK((ablation < -0.25 * flip && ablation > -0.8 * flip));
    for (const SteeringRow& row : validation.steering) {
      if (row.dose == "ablate") continue;
      CAPTURE(row.part);
      CAPTURE(row.dose);
      CHECK(row.opposite == 0);
      CHECK(row.kl > 0);
      if (row.part == "rest") {
        CHECK(row.jaccard_next == 1);
      } else {
        CHECK(row.jaccard_next < 0.9);
        CHECK(std::fabs(row.routes_alone) > 2);
      }
      if (row.part == "router") CHECK(std::fabs(row.routes_held) < 0.2 * std::fabs(row.effect));
    }
    write_validation(stored, validation, ask);
    const CsvTable table = CsvTable::read(planted.dir / "d/validation.csv");
    CHECK(table.header() ==
          std::vector<std::string>{"layer", "part", "kind", "dose", "auc", "effect", "ci_lo", "ci_hi", "p"});
    CHECK(table.n_rows() == validation.rows.size());
  }
}

TEST_CASE("direction: steering from the middle is a whole run under add, and parts are what edits read") {
  const Planted planted(spec_of("olmoe", 4));
  const Session& session = *planted.session;
  ExtractRequest request;
  const std::vector<Record> records = read_records((planted.dir / "m/circuit-0.jsonl").string());
  write_extraction(planted.dir / "d", extracted(session, records, request), request, session);
  const auto file = safetensors::File::open(planted.dir / "d/directions.safetensors");
  const auto d = static_cast<size_t>(session.model.d_model);
  const RecordJobs made = make_jobs(session, {records[0]}, Generate{}, nullptr);
  const MetricRows rows = metric_rows(Metric::logit_diff, records[0], made.encoded[0], session.encode);
  for (const std::vector<int64_t>& positions : {std::vector<int64_t>{4}, std::vector<int64_t>{1, 2, 4}}) {
    MetricRows divergence;
    divergence.metric = Metric::kl;
    divergence.targets.assign(static_cast<size_t>(5 - positions.front()), 0);
    Steering steering(session, made.jobs[0], rows, divergence, positions, 16, 64);
    for (const int64_t layer : {0, 1, 2, 3}) {
      for (const std::string suffix : {"", ".router", ".rest"}) {
        const std::string name = "layer." + std::to_string(layer) + ".resid_out" + suffix;
        CAPTURE(name);
        const auto* values = reinterpret_cast<const float*>(file->data(file->at(name)));
        std::vector<float> vectors, scales;
        for (const float dose : {-1.5f, 0.5f, 2.0f}) {
          vectors.insert(vectors.end(), values, values + d);
          scales.insert(scales.end(), positions.size(), dose);
        }
        std::vector<double> kl;
        const std::vector<double> found = steering.effects(layer, vectors, scales, &kl);
        size_t i = 0;
        for (const std::string dose : {"-1.5", "0.5", "2"}) {
          std::string edits = "[";
          for (const auto& [begin, end] : runs_of(positions))
            edits += (begin == positions.front() ? "" : ",") + std::string(R"({"op":"add","point":"layer.)") +
                     std::to_string(layer) + R"(.resid_out","vector":"d/directions.safetensors:)" + name +
                     R"(","scale":)" + dose + R"(,"tokens":{"positions":")" + std::to_string(begin) + ":" +
                     std::to_string(end) + R"("}})";
          const EffectsRow row = planted.effect({records[0]}, edits + "]");
          const double total = row.total * std::fabs(2 * row.base);
          CHECK(std::fabs(found[i] - total) <= (layer == 3 ? 2e-4 : 1e-9));
          if (total != 0) CHECK(kl[i] > 0);
          ++i;
        }
      }
    }
  }
}

TEST_CASE("direction: the router's part is all that its logits see") {
  for (const std::string family : {"qwen2_moe", "deepseek_v2"}) {
    const Planted planted(spec_of(family, 4));
    const Session& session = *planted.session;
    for (const int32_t layer : session.model.moe_layers()) {
      const RouterSpace space(session, layer);
      const LayerWeights& weights = session.weights.layers[static_cast<size_t>(layer)];
      const Matrix& w = std::get<MoeWeights>(weights.ffn).router;
      const auto d = static_cast<size_t>(w.cols);
      REQUIRE(w.dtype == DType::f32);
      std::vector<double> v(d);
      for (size_t c = 0; c < d; ++c) v[c] = std::sin(3.0 * static_cast<double>(c * c) + layer);
      const std::vector<double> part = space.part(v), again = space.part(part);
      for (size_t c = 0; c < d; ++c) CHECK(std::fabs(part[c] - again[c]) < 1e-10);
      for (int64_t e = 0; e < w.rows; ++e) {
        double of_whole = 0, of_part = 0;
        for (size_t c = 0; c < d; ++c) {
          const double r = double{static_cast<const float*>(w.data)[e * w.row_stride + static_cast<int64_t>(c)]} *
                           double{weights.ffn_norm.data[c]};
          of_whole += r * v[c];
          of_part += r * part[c];
        }
        CHECK(std::fabs(of_whole - of_part) < 1e-9);
      }
      CHECK(space.rank() <= w.rows);
      CHECK(dot(part, std::span<const double>(part)) < dot(v, std::span<const double>(v)));
    }
    CHECK(!reading_router(session.model, session.model.n_layers() - 1));
  }
}

TEST_CASE("direction: p of the best layer is uniform where labels mean nothing" *
          doctest::test_suite("repeats: thousands of draws of what is drawn once elsewhere")) {
  // Conditions without a meaning, drawn anew in every study: 60 of them on a model whose layers each make the stream
  // anew, so that the best of six is better than one.
  test::TemporaryDirectory dir;
  synthetic::make_model(
      json::parse(R"({"family":"mixtral","init":{"output":6},"config":{"num_hidden_layers":6}})", "spec"), "spec",
      dir / "m");
  const Session session = open_session((dir / "m").string(), {});
  std::vector<double> ps;
  uint32_t state = 12345;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
  for (int study = 0; study < 60; ++study) {
    std::vector<Record> records;
    for (int i = 0; i < 24; ++i) {
      std::string tokens;
      for (int t = 0; t < 3; ++t) tokens += (t ? "," : "") + std::to_string(100 + next() % 150);
      const std::string line = R"({"id":")" + std::to_string(i) + R"(","condition":")" + (i % 2 ? "on" : "off") +
                               R"(","set":")" +
                               (i < 10   ? "a"
                                : i < 14 ? "b"
                                         : "c") +
                               R"(","tokens":[)" + tokens + R"(],"answer":65,"foil":66})";
      records.push_back(parse_record(json::parse(line, "records"), "records"));
    }
    ExtractRequest request;
    request.split = {"set", {"a", "b", "c"}};
    write_extraction(dir / "d", extracted(session, records, request), request, session);
    const StoredDirections stored = read_directions(dir / "d");
    int64_t left_out = 0;
    const Labelled data = held_out_records(stored, records, "records", left_out);
    ValidateRequest ask;
    ask.controls = 39;
    ask.resamples = 1;
    ask.seed = static_cast<uint64_t>(study);
    ps.push_back(validate_directions(session, stored, data, ask).auc_p);
  }
  std::sort(ps.begin(), ps.end());
  double distance = 0;  // of the distribution of p from the uniform one on 1/40, 2/40, ... 1
  for (size_t i = 0; i < ps.size(); ++i) {
    const double below = static_cast<double>(i) / static_cast<double>(ps.size());
    distance = std::max({distance, below + 1 / static_cast<double>(ps.size()) - ps[i], ps[i] - 1.0 / 40 - below});
  }
  CAPTURE(distance);
  CHECK(distance < 0.21);  // Kolmogorov and Smirnov, 1 %
  CHECK(std::fabs(std::accumulate(ps.begin(), ps.end(), 0.0) / 60 - 0.5) < 0.12);
}

TEST_CASE("direction: what cannot be meant") {
  const auto record = [](int i, const std::string& condition, const std::string& rest) {
    return parse_record(json::parse(R"({"id":")" + std::to_string(i) + R"(","condition":")" + condition +
                                        R"(","tokens":[1,)" + std::to_string(i) + "]" + rest + "}",
                                    "records"),
                        "records:" + std::to_string(i));
  };
  const auto message = [](auto&& act) -> std::string {
    try {
      act();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const ConditionPair contrast{"a", "b"};
  CHECK(test::good_message(message([] { parse_contrast("a", "--contrast"); }), "expected two conditions A:B"));
  CHECK(test::good_message(message([] { parse_contrast("a:a", "--contrast"); }), "expected two conditions A:B"));
  CHECK(test::good_message(message([] { parse_places("first", "--at"); }), "expected last, all or span:NAME"));
  CHECK(test::good_message(message([] { parse_split("k:a,b", "--split", direction_sets); }), "expected KEY:A,B,C"));
  CHECK(test::good_message(message([&] { label_records({record(1, "a", "")}, contrast, "f"); }),
                           "expected records with the condition \"b\", found none among 1"));
  const std::vector<Record> few = {record(1, "a", ""), record(2, "b", ""), record(3, "a", ""), record(4, "b", "")};
  CHECK(test::good_message(message([&] {
                             Labelled data = label_records(few, contrast, "f");
                             split_labelled(data, contrast, {"", direction_sets}, 0, "f");
                           }),
                           "found none of \"a\" in extract"));
  CHECK(test::good_message(message([&] {
                             Labelled data = label_records(few, contrast, "f");
                             split_labelled(data, contrast, {"set", {"x", "y", "z"}}, 0, "f");
                           }),
                           "set: expected x, y or z (--split), found none"));
  const std::vector<Record> torn = {record(1, "a", R"(,"pair":"p","set":"x")"),
                                    record(2, "b", R"(,"pair":"p","set":"y")")};
  CHECK(test::good_message(message([&] {
                             Labelled data = label_records(torn, contrast, "f");
                             split_labelled(data, contrast, {"set", {"x", "y", "z"}}, 0, "f");
                           }),
                           "set: expected x, which the record of the same pair or prompt has"));
  test::TemporaryDirectory dir;
  CHECK(
      test::good_message(message([&] { read_directions(dir.path()); }), "expected a directory of signalbox direction"));
}
