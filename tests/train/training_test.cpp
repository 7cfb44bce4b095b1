// Training held to PyTorch (tests/train/training_goldens.py), and what must hold exactly: bits that depend on no
// threads, groups or interruptions, frozen weights, and experts that no token reaches.
#include "train/training.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/csv.h"
#include "base/error.h"
#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "tests/support.h"
#include "train/trained_weights.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::eval;
using namespace signalbox::engine;
namespace fs = std::filesystem;

const json::Value& golden() {
  static const json::Value value = json::parse_file(test::source_dir() / "tests/train/training.json");
  return value;
}

std::vector<double> numbers(const json::Ref& list) {
  std::vector<double> out;
  for (const json::Ref& item : list.items()) out.push_back(item.number());
  return out;
}

// record(i) of the script.
Example example(int64_t i) {
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < 12 + i % 5; ++t)
    tokens.push_back(static_cast<int32_t>((7 * i * i + 13 * t + 3 * t * i + 5) % 96));
  Example made;
  made.targets.assign(tokens.end() - (4 + i % 3), tokens.end());
  made.targets.push_back(-1);
  made.prompt = std::make_shared<Prompt>("r" + std::to_string(i), std::move(tokens));
  return made;
}

using Values = std::map<std::string, std::vector<float>>;

Values values_of(const fs::path& model) {
  Session session = loaders::open_session(model.string(), {});
  Values out;
  TrainedWeights weights(session, wanted_weights("*", session), 1);
  for_each_tensor(session.model, session.weights, [&](const TensorPlace& place) {
    const float* data = place.vector ? place.vector->data : static_cast<const float*>(place.matrix->data);
    out[weight_name(place.id)].assign(data, data + place.rows * place.cols);
  });
  return out;
}

struct Run {
  std::string model, globs = "*";
  TrainingSettings settings;
  int64_t n_records = 6, n_held_out = 2;
  bool only_last = false;  // one target a record
  Run(std::string name) : model((test::goldens_dir() / name / "model").string()) {
    settings.schedule = {Shape::cosine, 2, 6, 0.1};
    settings.lr = 3e-3;
    settings.adam.decay = 0.1;
    settings.clip = 0.5;
    settings.batch = 4;
    settings.seed = 5;
    settings.save_every = 2;
  }
  // Trains into `dir`, at most `stop_after` steps in this process.
  TrainingEnd run(const fs::path& dir, int64_t stop_after = 1000) const {
    Session session = loaders::open_session(model, {});
    TrainedWeights weights(session, wanted_weights(globs, session), settings.threads);
    const loaders::Rewrite rewrite(loaders::resolve_model(model, nullptr).files, session.family, session.model);
    std::atomic<bool> interrupted = false;
    Training training;
    training.session = &session;
    training.trained = &weights;
    for (int64_t i = 0; i < n_records; ++i) training.data.push_back(example(i));
    if (only_last)
      for (Example& one : training.data) one.targets.erase(one.targets.begin(), one.targets.end() - 2);
    for (int64_t i = 0; i < n_held_out; ++i) training.held_out.push_back(example(i + 10));
    training.dir = dir;
    training.manifest.schema = training_schema;
    training.settings = settings;
    training.write_result = [&] {
      rewrite.write(weights.changed([&](const TensorId& id) { return rewrite.stored_dtype(id); }),
                    training.dir / checkpoint_dir);
    };
    training.interrupted = &interrupted;
    int64_t n = 0;
    training.on_step = [&](int64_t, int64_t, double) { interrupted = ++n >= stop_after; };
    return train::train(training);
  }
};

void check_equal(const fs::path& a, const fs::path& b) {
  for (const auto& entry : fs::recursive_directory_iterator(a)) {
    const std::string name = fs::relative(entry.path(), a).string();
    if (!entry.is_regular_file() || name == "manifest.json" || name == "log.txt") continue;
    REQUIRE_MESSAGE(fs::exists(b / name), name);
    CHECK_MESSAGE(test::read_file(entry.path()) == test::read_file(b / name), name);
  }
  CHECK_FALSE(fs::exists(b / state_file));
}

}  // namespace

TEST_CASE("training: AdamW, clipping and schedules are PyTorch's") {
  const json::Ref root(golden(), "training.json");
  std::vector<float> w(24), m(24), v(24), g(24);
  for (size_t i = 0; i < w.size(); ++i) w[i] = std::sin(static_cast<float>(i));
  const AdamW adam{0.8, 0.95, 1e-6, 0.1};
  for (int64_t s = 0; s < 5; ++s) {
    for (size_t i = 0; i < g.size(); ++i)
      g[i] = static_cast<float>(std::cos(static_cast<double>(i) + 2.0 * static_cast<double>(s)) /
                                (1.0 + static_cast<double>(i)));
    adamw_step(w, m, v, g, adam, s + 1, 1e-2, adam.decay, 1);
    const std::vector<double> want = numbers(root.at("adamw")[static_cast<size_t>(s)]);
    for (size_t i = 0; i < w.size(); ++i) CHECK(std::fabs(static_cast<double>(w[i]) - want[i]) <= 2e-7);
  }
  const float scales[] = {0.01f, 1.f, 100.f};
  for (size_t i = 0; i < 3; ++i) {
    std::vector<float> x(5);
    for (size_t j = 0; j < 5; ++j) x[j] = static_cast<float>(j + 1) * scales[i];
    const double norm = std::sqrt(squared_norm(x));
    const std::vector<double> want = numbers(root.at("clip")[i]);
    CHECK(norm == doctest::Approx(want[0]).epsilon(1e-6));
    CHECK(static_cast<double>(clip_factor(norm, 2)) == doctest::Approx(want[1]).epsilon(1e-6));
  }
  CHECK(clip_factor(1e9, 0) == 1);
  const std::map<std::string, Schedule> schedules = {{"constant", {Shape::constant, 3, 10, 0}},
                                                     {"linear", {Shape::linear, 3, 10, 0}},
                                                     {"cosine", {Shape::cosine, 3, 10, 0}},
                                                     {"cosine_to_a_tenth", {Shape::cosine, 3, 10, 0.1}}};
  for (const auto& [name, schedule] : schedules) {
    CAPTURE(name);
    const std::vector<double> want = numbers(root.at("schedules").at(name));
    for (int64_t step = 1; step <= 10; ++step)
      CHECK(schedule.factor(step) == doctest::Approx(want[static_cast<size_t>(step - 1)]).epsilon(1e-12));
  }
  for (int64_t step = 1; step <= 6; ++step) {
    const std::vector<double> want = numbers(root.at("order")[static_cast<size_t>(step - 1)]);
    const std::vector<int64_t> got = records_of_step(6, 4, 5, step);
    CHECK(std::vector<double>(got.begin(), got.end()) == want);
  }
}

TEST_CASE("training: losses, norms and final weights of three families are PyTorch's") {
  const test::TemporaryDirectory dir;
  for (const std::string name : {"mixtral", "olmoe", "qwen2_moe"}) {
    CAPTURE(name);
    const Run run(name);
    REQUIRE(run.run(dir / name) == TrainingEnd::complete);
    const json::Ref want = json::Ref(golden(), "training.json").at("models").at(name);
    const CsvTable log = CsvTable::read(dir / name / "log.csv");
    REQUIRE(log.n_rows() == 6);
    for (size_t s = 0; s < 6; ++s) {
      CHECK(std::fabs(log.number(s, log.column("loss")) / want.at("losses")[s].number() - 1) <= 2e-5);
      CHECK(std::fabs(log.number(s, log.column("grad_norm")) / want.at("norms")[s].number() - 1) <= 1e-3);
      CHECK(std::fabs(log.number(s, log.column("lr")) - want.at("rates")[s].number()) <= 1e-15);
      CHECK(log.integer(s, log.column("left")) == 0);
    }
    const Values before = values_of(run.model), after = values_of(dir / name / "model");
    CHECK(before.size() == after.size());
    const json::Ref changes = want.at("changes");
    Session shapes = loaders::open_session(run.model, {});
    double squares = 0, errors = 0;
    for (const auto& [tensor, values] : after) {
      CAPTURE(tensor);
      const std::vector<double> expected = numbers(changes.at(tensor));
      int64_t rows = 0;
      for_each_tensor(shapes.model, shapes.weights, [&](const TensorPlace& place) {
        if (weight_name(place.id) == tensor) rows = place.rows;
      });
      const auto cols = static_cast<int64_t>(values.size()) / rows;
      std::vector<double> got(4);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c) {
          const auto at = static_cast<size_t>(r * cols + c);
          const double d = static_cast<double>(values[at]) - static_cast<double>(before.at(tensor)[at]);
          got[0] += d * d;
          for (int j = 1; j <= 3; ++j)
            got[static_cast<size_t>(j)] +=
                std::cos(0.37 * static_cast<double>(r + 1) * j) * d * std::cos(0.53 * static_cast<double>(c + 1) * j);
        }
      got[0] = std::sqrt(got[0]);
      CHECK(std::fabs(got[0] - expected[0]) <= 5e-4 * expected[0]);
      for (size_t j = 1; j < 4; ++j) {
        squares += expected[j] * expected[j];
        errors += (got[j] - expected[j]) * (got[j] - expected[j]);
      }
    }
    CHECK(std::sqrt(errors / squares) <= 3e-4);
  }
}

TEST_CASE("training: the same bytes with other threads and forwards, and in several processes") {
  const test::TemporaryDirectory dir;
  Run run("qwen2_moe_step_bf16");  // tied embeddings, BF16
  REQUIRE(run.run(dir / "whole") == TrainingEnd::complete);
  CHECK(run.run(dir / "whole") == TrainingEnd::was_complete);
  Run other = run;
  other.settings.groups.tokens = 1;
  other.settings.threads = 3;
  REQUIRE(other.run(dir / "parts", 1) == TrainingEnd::interrupted);
  REQUIRE(fs::exists(dir / "parts" / state_file));
  test::write_file(dir / "parts/log.csv", test::read_file(dir / "parts/log.csv") + "99,torn");
  REQUIRE(other.run(dir / "parts", 2) == TrainingEnd::interrupted);
  REQUIRE(other.run(dir / "parts") == TrainingEnd::complete);
  check_equal(dir / "whole", dir / "parts");
  const CsvTable evals = CsvTable::read(dir / "whole/eval.csv");
  CHECK(evals.n_rows() == 4);  // 0, 2, 4, 6
  CHECK(evals.number(0, evals.column("change")) == 0);
}

TEST_CASE("training: what is not chosen stays bit by bit, and so do experts that no token reaches") {
  const test::TemporaryDirectory dir;
  Run run("olmoe");
  run.globs = "expert.*";
  run.only_last = true;
  run.n_records = 1;
  run.n_held_out = 0;
  run.settings.batch = 1;
  run.settings.schedule = {Shape::constant, 0, 1, 0};
  REQUIRE(run.run(dir / "experts") == TrainingEnd::complete);
  const Values before = values_of(run.model), after = values_of(dir / "experts/model");
  int64_t changed = 0, left = 0;
  for (const auto& [name, values] : after) {
    const bool same = std::memcmp(values.data(), before.at(name).data(), values.size() * sizeof(float)) == 0;
    if (name.find(".expert.") != std::string::npos) {
      ++(same ? left : changed);
    } else {
      CHECK_MESSAGE(same, name);
    }
  }
  const CsvTable log = CsvTable::read(dir / "experts/log.csv");
  CHECK(log.integer(0, log.column("left")) == left);
  CHECK(left > 0);
  CHECK(changed > 0);
  CHECK_FALSE(fs::exists(dir / "experts/eval.csv"));
}

TEST_CASE("training: a loss that is not finite stops it, and the state before is kept") {
  const test::TemporaryDirectory dir;
  Run run("mixtral");
  run.settings.lr = 1e30;
  run.settings.schedule = {Shape::constant, 0, 6, 0};
  std::string said;
  try {
    run.run(dir / "wild");
  } catch (const Error& error) {
    said = error.what();
  }
  CHECK_MESSAGE(said.starts_with("step 2: expected a finite "), said);
  CHECK(said.ends_with("(the state before this step is kept)"));
  CHECK(fs::exists(dir / "wild" / state_file));
  CHECK_FALSE(fs::exists(dir / "wild/model"));
}
