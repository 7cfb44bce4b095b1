// Learning from a teacher, and the closed form, held to torch and numpy (tests/train/distillation_goldens.py).
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "base/csv.h"
#include "base/error.h"
#include "loaders/open.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"
#include "train/refit.h"
#include "train/teacher_loss.h"
#include "train/trained_weights.h"
#include "train/training.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::eval;
using namespace signalbox::engine;
namespace fs = std::filesystem;

const json::Value& distillation_golden() {
  static const json::Value value = json::parse_file(test::source_dir() / "tests/train/distillation.json");
  return value;
}

double number_at(const json::Ref& list, size_t i) { return list[i].number(); }

// Trains a student of a golden model by a teacher of another, or of the same; gives log.csv.
CsvTable taught(const std::string& student, const std::string& teacher_model, const Teacher& like, int64_t steps,
                const fs::path& dir, int64_t held_out = 0, int64_t group_tokens = 512) {
  const auto path = [](const std::string& name) { return (test::goldens_dir() / name / "model").string(); };
  Session session = loaders::open_session(path(student), {}), other = loaders::open_session(path(teacher_model), {});
  TrainedWeights weights(session, wanted_weights("*", session), 1);
  Forward forward(*session.backend, other.model, other.weights, 0);
  Teacher teacher = like;
  teacher.forward = &forward;
  Training training;
  training.session = &session;
  training.trained = &weights;
  TeacherObjective objective(teacher);
  training.objective = &objective;
  for (int64_t i = 0; i < 6; ++i) training.data.push_back(test::example(i));
  for (int64_t i = 0; i < held_out; ++i) training.held_out.push_back(test::example(10 + i));
  training.dir = dir;
  training.manifest.schema = training_schema;
  training.settings.schedule = {Shape::constant, 0, steps, 0};
  training.settings.lr = 3e-3;
  training.settings.adam.decay = 0.1;
  training.settings.clip = 0.5;
  training.settings.batch = 4;
  training.settings.seed = 5;
  training.settings.groups.tokens = group_tokens;
  training.write_result = [&] { fs::create_directories(dir / training.result); };
  REQUIRE(train::train(training) == TrainingEnd::complete);
  return CsvTable::read(dir / "log.csv");
}

std::vector<float> wave(size_t n, double step, double offset = 0) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i)
    out[i] = static_cast<float>(std::sin(step * static_cast<double>(i * i % 9973)) + offset);
  return out;
}

double relative_distance(std::span<const float> got, std::span<const float> want) {
  double errors = 0, squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    errors += error * error;
    squares += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::sqrt(errors / squares);
}

}  // namespace

TEST_CASE("distillation: the divergence from a teacher and its gradient are torch's") {
  const auto backend = kernels::make_cpu_backend({1, "auto"});
  std::vector<float> student(21), teacher(21), slopes(21);
  for (int r = 0; r < 3; ++r)
    for (int v = 0; v < 7; ++v) {
      student[static_cast<size_t>(7 * r + v)] = static_cast<float>(2 * std::sin(3 * r + v));
      teacher[static_cast<size_t>(7 * r + v)] = static_cast<float>(3 * std::cos(r + 2 * v));
    }
  const Tensor z(student.data(), 3, 7), t(teacher.data(), 3, 7), d(slopes.data(), 3, 7);
  for (const std::string tau : {"1.0", "2.5"}) {
    CAPTURE(tau);
    const json::Ref want = json::Ref(distillation_golden(), "distillation.json").at("kl").at(tau);
    const std::vector<int32_t> targets = {1, 2, 3};
    const std::vector<double> losses = teacher_losses(*backend, z, t, targets, std::stod(tau));
    for (size_t r = 0; r < 3; ++r) CHECK(losses[r] == doctest::Approx(number_at(want.at("losses"), r)).epsilon(1e-6));
    teacher_losses_adjoint(*backend, d, z, t, targets, std::stod(tau), 1);
    for (size_t i = 0; i < 21; ++i)
      CHECK(std::fabs(static_cast<double>(slopes[i]) - number_at(want.at("slopes"), i)) <= 1e-6);
  }
  // Rows that do not count, and a student that is the teacher.
  const std::vector<int32_t> some = {-1, 2, -1};
  const std::vector<double> losses = teacher_losses(*backend, z, t, some, 2);
  CHECK(losses[0] == 0);
  CHECK(losses[1] > 0);
  teacher_losses_adjoint(*backend, d, z, t, some, 2, 1);
  for (size_t v = 0; v < 7; ++v) CHECK((slopes[v] == 0 && slopes[14 + v] == 0));
  CHECK(teacher_losses(*backend, t, t, std::vector<int32_t>{0, 0, 0}, 3) == std::vector<double>{0, 0, 0});
}

TEST_CASE("distillation: a student of another family learns from a teacher as in torch") {
  const test::TemporaryDirectory dir;
  const json::Ref want = json::Ref(distillation_golden(), "distillation.json").at("steps");
  Teacher teacher;
  teacher.temperature = 2;
  teacher.weight = 0.7;
  teacher.target = 0.3;
  const CsvTable log = taught(want.at("student").string(), want.at("teacher").string(), teacher, 4, dir / "out", 2);
  for (size_t s = 0; s < 4; ++s) {
    CHECK(std::fabs(log.number(s, log.column("loss")) / number_at(want.at("losses"), s) - 1) <= 2e-5);
    CHECK(std::fabs(log.number(s, log.column("grad_norm")) / number_at(want.at("norms"), s) - 1) <= 1e-3);
  }
  // Neither how many records share a forward, nor anything else of it, changes a bit.
  taught(want.at("student").string(), want.at("teacher").string(), teacher, 4, dir / "single", 2, 1);
  for (const char* file : {"log.csv", "eval.csv"})
    CHECK(test::read_file(dir / "out" / file) == test::read_file(dir / "single" / file));
}

TEST_CASE("distillation: a student that is its teacher has nothing to learn") {
  const test::TemporaryDirectory dir;
  const CsvTable log = taught("olmoe", "olmoe", {}, 1, dir / "out");
  CHECK(log.number(0, log.column("loss")) == 0);
  CHECK(log.number(0, log.column("grad_norm")) == 0);
}

TEST_CASE("distillation: the refit is numpy's ridge regression") {
  ThreadPool pool(2);
  std::vector<float> a, y, w0;
  for (int t = 0; t < 20; ++t) {
    for (int i = 0; i < 6; ++i) a.push_back(static_cast<float>(std::sin(1.3 * t * (i + 1)) + 0.2));
    for (int r = 0; r < 3; ++r) y.push_back(static_cast<float>(std::cos(0.7 * t + 2.1 * r)));
  }
  for (int i = 0; i < 18; ++i) w0.push_back(static_cast<float>(0.1 * i / 18));
  Refit refit(6, 3, pool);
  refit.add(a, y);
  const std::vector<float> w = refit.solve(default_ridge, w0);
  const json::Ref want = json::Ref(distillation_golden(), "distillation.json").at("refit");
  for (size_t i = 0; i < w.size(); ++i)
    CHECK(std::fabs(static_cast<double>(w[i]) - number_at(want.at("w"), i)) <= 1e-6);
  CHECK(refit.error(w0) == doctest::Approx(number_at(want.at("errors"), 0)).epsilon(1e-6));
  CHECK(refit.error(w) == doctest::Approx(number_at(want.at("errors"), 1)).epsilon(1e-6));
}

TEST_CASE("distillation: a planted map comes back, at any number of threads and in any chunks") {
  constexpr size_t n = 150, d = 21, n_tokens = 700;  // beyond a panel of the factor and its tiles
  const std::vector<float> a = wave(n_tokens * n, 0.71, 0.3), planted = wave(d * n, 1.37), other = wave(d * n, 0.39);
  std::vector<float> y(n_tokens * d);
  for (size_t t = 0; t < n_tokens; ++t)
    for (size_t r = 0; r < d; ++r) {
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += static_cast<double>(a[t * n + i]) * static_cast<double>(planted[r * n + i]);
      y[t * d + r] = static_cast<float>(sum);
    }
  ThreadPool one(1), three(3);
  Refit whole(n, d, one), parts(n, d, three);
  whole.add(a, y);
  for (size_t first = 0; first < n_tokens;) {
    const size_t count = std::min(n_tokens - first, first % 7 + 1);
    parts.add(std::span(a).subspan(first * n, count * n), std::span(y).subspan(first * d, count * d));
    first += count;
  }
  CHECK(whole.tokens() == n_tokens);
  const std::vector<float> w = whole.solve(1e-9, other);
  CHECK(relative_distance(w, planted) <= 1e-4);
  CHECK(whole.error(w) <= 1e-10);
  CHECK(w == parts.solve(1e-9, other));
  const std::vector<float> ridged = whole.solve(default_ridge, other);
  CHECK(whole.error(ridged) <= whole.error(other));
  CHECK(relative_distance(whole.solve(default_ridge, planted), planted) <= 1e-6);  // what fits already stays
}

TEST_CASE("distillation: neurons that follow from others need a ridge, silent ones keep their column") {
  ThreadPool pool(1);
  const std::vector<float> a = {1, 1, 0, 2, 2, 0, -1, -1, 0}, y = {1, 2, -1}, w0 = {0.25f, 0.f, 0.5f};
  Refit refit(3, 1, pool);
  refit.add(a, y);
  CHECK_THROWS_AS(refit.solve(0, w0), Error);
  const std::vector<float> w = refit.solve(1e-6, w0);
  CHECK(w[0] + w[1] == doctest::Approx(1).epsilon(1e-4));
  CHECK(w[0] - w[1] == doctest::Approx(0.25).epsilon(1e-4));  // the nearest to w0 of all that fit
  CHECK(w[2] == 0.5f);
  CHECK_THROWS_AS(refit.add(a, std::span<const float>(y).first(2)), Error);
}
