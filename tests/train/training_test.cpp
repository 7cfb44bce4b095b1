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
#include "tests/train/tiny_training.h"
#include "train/trained_weights.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::eval;
using namespace signalbox::engine;
using test::TrainingRun, test::check_equal, test::numbers, test::values_of;
using Values = test::WeightValues;
namespace fs = std::filesystem;

const json::Value& golden() {
  static const json::Value value = json::parse_file(test::source_dir() / "tests/train/training.json");
  return value;
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
  for (const auto& one : schedules) {
    const std::string& name = one.first;
    const Schedule& schedule = one.second;
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
    const TrainingRun run(name);
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
    CHECK(json::Ref(want.at("changes")).members().size() == test::values_of(run.model).size());
    test::check_changes(want.at("changes"), run.model, dir / name / "model", 3e-4);
  }
}

TEST_CASE("training: the same bytes with other threads and forwards, and in several processes") {
  const test::TemporaryDirectory dir;
  TrainingRun run("qwen2_moe_step_bf16");  // tied embeddings, BF16
  REQUIRE(run.run(dir / "whole") == TrainingEnd::complete);
  CHECK(run.run(dir / "whole") == TrainingEnd::was_complete);
  TrainingRun other = run;
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
  TrainingRun run("olmoe");
  run.globs = "expert.*";
  run.only_last = true;
  run.n_records = 1;
  run.n_held_out = 0;
  run.settings.batch = 1;
  run.settings.schedule = {Shape::constant, 0, 1, 0};
  REQUIRE(run.run(dir / "experts") == TrainingEnd::complete);
  const Values before = values_of(run.model), after = values_of(dir / "experts/model");
  int64_t changed = 0, left = 0;
  for (const auto& one : after) {
    const std::string& name = one.first;
    const std::vector<float>& values = one.second;
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
  TrainingRun run("mixtral");
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
  // Where the forward itself finds it, and nothing else asks for a state.
  TrainingRun inside("olmoe");
  inside.settings.lr = 1e6;
  inside.settings.clip = 0;
  inside.settings.save_every = 0;
  inside.settings.schedule = {Shape::constant, 0, 6, 0};
  said.clear();
  try {
    inside.run(dir / "inside");
  } catch (const Error& error) {
    said = error.what();
  }
  const size_t why = said.find("router: expected finite logits, found NaN or infinity");
  CHECK_MESSAGE(said.starts_with("step "), said);
  CHECK_MESSAGE(why != std::string::npos, said);
  CHECK_MESSAGE(said.find(" on the records \"r") > why, said);
  CHECK(said.ends_with("(the state before this step is kept)"));
  CHECK(fs::exists(dir / "inside" / state_file));
  // Where held-out records find it, the step and they are named.
  for (const char* flag : {"--eval", "--stop"}) {
    run.settings.save_every = 1;
    run.settings.lr = 3e38;
    run.n_held_out = std::string_view(flag) == "--eval" ? 2 : 0;
    run.n_stop = 2 - run.n_held_out;
    said.clear();
    try {
      run.run(dir / flag);
    } catch (const Error& error) {
      said = error.what();
    }
    CHECK_MESSAGE(said.starts_with("step 1, " + std::string(flag) + ": "), said);
    const bool of_record = said.find("expected a finite loss of the record \"r") != std::string::npos;
    CHECK_MESSAGE((of_record || said.find("expected finite logits") != std::string::npos), said);
  }
}
