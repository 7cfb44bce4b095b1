// When a training ends by itself, what is kept then, and that neither depends on interruptions; with what else goes on
// from process to process: selection biases and the terms' columns.
#include "train/stopping.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "base/csv.h"
#include "base/error.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using test::TrainingRun;

}  // namespace

TEST_CASE("stopping: weights are kept when the interval of the change lies below 0, two looks without that end it") {
  Stopping stopping({}, std::vector<double>(8, 2.0));
  const auto losses = [](double mean, double spread) {
    std::vector<double> sums;
    for (int i = 0; i < 8; ++i) sums.push_back(2 * (mean + spread * (i % 2 ? 1 : -1)));
    return sums;
  };
  Stopping::Look look = stopping.look(0, losses(3, 0));
  CHECK(look.kept);
  CHECK(look.best);
  CHECK(look.change.mean == 0);
  look = stopping.look(5, losses(2, 0.1));
  CHECK(look.kept);
  CHECK(look.loss == doctest::Approx(2));
  CHECK(look.change.mean == doctest::Approx(-1));
  look = stopping.look(10, losses(1.99, 0.4));  // lower, but not beyond doubt
  CHECK_FALSE(look.kept);
  CHECK(look.best);
  CHECK_FALSE(stopping.ended());
  // What goes on elsewhere.
  Stopping other({}, std::vector<double>(8, 2.0));
  other.restore(stopping.state());
  for (Stopping* one : {&stopping, &other}) {
    look = one->look(15, losses(2.5, 0.1));  // worse
    CHECK_FALSE(look.kept);
    CHECK_FALSE(look.best);
    CHECK(one->ended());
    CHECK_FALSE(one->reached_target());
    CHECK(one->best_step() == 10);
  }
  Stopping aimed({1.5, 0, 1}, std::vector<double>(8, 2.0));
  aimed.look(0, losses(3, 0));
  CHECK_FALSE(aimed.ended());
  aimed.look(5, losses(1.4, 0));
  CHECK(aimed.ended());
  CHECK(aimed.reached_target());
  CHECK_THROWS_AS(other.restore(std::vector<double>(5)), Error);
}

TEST_CASE("stopping: a training ends early with the weights of its best look, whatever interrupts it") {
  const test::TemporaryDirectory dir;
  TrainingRun run("olmoe");
  run.settings.schedule = {Shape::constant, 0, 40, 0};
  run.settings.save_every = 1;
  run.n_stop = 4;
  RoutingTuning tuning;
  tuning.terms.coefficient(RoutingTerm::z_loss) = 0.01;
  tuning.expert_anchor = 0.01;
  run.routing = tuning;
  // Other random tokens get no better: two looks. What is trained on does, until the loss is low enough.
  for (const bool learnt : {false, true}) {
    CAPTURE(learnt);
    const std::string name = learnt ? "learnt" : "other";
    if (learnt) {
      run.first_stop = 0;
      run.settings.stop_loss = 2.5;
    }
    REQUIRE(run.run(dir / name) == TrainingEnd::complete);
    const CsvTable stops = CsvTable::read(dir / name / "stop.csv"), log = CsvTable::read(dir / name / "log.csv");
    const size_t last = stops.n_rows() - 1, kept = stops.column("kept");
    CHECK(last < 40);
    CHECK(log.n_rows() == last);
    if (learnt) {
      REQUIRE(last > 3);
      CHECK(stops.number(last, stops.column("loss")) <= 2.5);
    } else {
      REQUIRE(last >= 2);
      CHECK(stops.integer(last, kept) + stops.integer(last - 1, kept) == 0);
    }
    int64_t best = -1;
    double least = 1e30;
    for (size_t i = 0; i <= last; ++i) {
      const double loss = stops.number(i, stops.column("loss"));
      CHECK(stops.integer(i, stops.column("best")) == int64_t{loss < least});
      if (loss >= least) continue;
      least = loss;
      best = stops.integer(i, stops.column("step"));
    }
    // The result is that of a training of as many steps as the best look's.
    if (best > 0) {
      TrainingRun shorter = run;
      shorter.n_stop = 0;
      shorter.settings.schedule.steps = best;
      REQUIRE(shorter.run(dir / (name + "-shorter")) == TrainingEnd::complete);
      CHECK(test::read_file(dir / (name + "-shorter") / "model/model.safetensors") ==
            test::read_file(dir / name / "model/model.safetensors"));
    }
    CHECK_FALSE(std::filesystem::exists(dir / name / best_file));
  }
  REQUIRE(run.run(dir / "parts", 1) == TrainingEnd::interrupted);
  REQUIRE(run.run(dir / "parts", 2) == TrainingEnd::interrupted);
  REQUIRE(run.run(dir / "parts") == TrainingEnd::complete);
  test::check_equal(dir / "learnt", dir / "parts");
}
