#include "tests/train/tiny_training.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "tests/support.h"
#include "train/trained_weights.h"

namespace signalbox::test {

namespace fs = std::filesystem;
using namespace train;

std::vector<double> numbers(const json::Ref& list) {
  std::vector<double> out;
  for (const json::Ref& item : list.items()) out.push_back(item.number());
  return out;
}

std::vector<int32_t> record_tokens(int64_t i) {
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < 12 + i % 5; ++t)
    tokens.push_back(static_cast<int32_t>((7 * i * i + 13 * t + 3 * t * i + 5) % 96));
  return tokens;
}

Example example(int64_t i) {
  std::vector<int32_t> tokens = record_tokens(i);
  Example made;
  made.targets.assign(tokens.end() - (4 + i % 3), tokens.end());
  made.targets.push_back(-1);
  made.prompt = std::make_shared<Prompt>("r" + std::to_string(i), std::move(tokens));
  return made;
}

WeightValues values_of(const fs::path& model) {
  Session session = loaders::open_session(model.string(), {});
  WeightValues out;
  TrainedWeights weights(session, wanted_weights("*", session), 1);
  for_each_tensor(session.model, session.weights, [&](const TensorPlace& place) {
    const float* data = place.vector ? place.vector->data : static_cast<const float*>(place.matrix->data);
    out[weight_name(place.id)].assign(data, data + place.rows * place.cols);
  });
  return out;
}

TrainingRun::TrainingRun(const std::string& name) : model(golden_model(name)) {
  settings.schedule = {Shape::cosine, 2, 6, 0.1};
  settings.lr = 3e-3;
  settings.adam.decay = 0.1;
  settings.clip = 0.5;
  settings.batch = 4;
  settings.seed = 5;
  settings.save_every = 2;
}

TrainingEnd TrainingRun::run(const fs::path& dir, int64_t stop_after) const {
  Session session = loaders::open_session(model, {});
  TrainedWeights weights(session, wanted_weights(globs, session), settings.threads);
  std::optional<RoutingTraining> tuned;
  if (routing) tuned.emplace(session, *routing, weights.before(), &weights);
  const loaders::Rewrite rewrite(loaders::resolve_model(model, nullptr).files, session.family, session.model);
  std::atomic<bool> interrupted = false;
  Training training;
  training.session = &session;
  training.trained = &weights;
  if (tuned) training.routing = &*tuned;
  for (int64_t i = 0; i < n_records; ++i) training.data.push_back(example(i));
  if (only_last)
    for (Example& one : training.data) one.targets.erase(one.targets.begin(), one.targets.end() - 2);
  for (int64_t i = 0; i < n_held_out; ++i) training.held_out.push_back(example(i + 10));
  for (int64_t i = 0; i < n_stop; ++i) training.stop.push_back(example(i + first_stop));
  training.dir = dir;
  training.manifest.schema = training_schema;
  training.settings = settings;
  training.write_result = [&] {
    ChangedModel changed = weights.changed([&](const TensorId& id) { return rewrite.stored_dtype(id); });
    if (tuned) tuned->put(changed);
    rewrite.write(changed, training.dir / checkpoint_dir);
  };
  training.interrupted = &interrupted;
  int64_t n = 0;
  training.on_step = [&](int64_t, int64_t, double) { interrupted = ++n >= stop_after; };
  return train::train(training);
}

void check_equal(const fs::path& a, const fs::path& b) {
  for (const auto& entry : fs::recursive_directory_iterator(a)) {
    const std::string name = fs::relative(entry.path(), a).string();
    if (!entry.is_regular_file() || name == "manifest.json" || name == "log.txt") continue;
    REQUIRE_MESSAGE(fs::exists(b / name), name);
    CHECK_MESSAGE(test::read_file(entry.path()) == test::read_file(b / name), name);
  }
  CHECK_FALSE(fs::exists(b / state_file));
}

void check_changes(const json::Ref& changes, const fs::path& before_dir, const fs::path& after_dir, double tolerance) {
  const WeightValues before = values_of(before_dir), after = values_of(after_dir);
  Session shapes = loaders::open_session(before_dir.string(), {});
  double squares = 0, errors = 0;
  for (const auto& one : changes.members()) {
    const std::string& tensor = one.first;
    CAPTURE(tensor);
    const std::vector<double> expected = numbers(one.second);
    const std::vector<float>& values = after.at(tensor);
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
    CHECK(std::fabs(got[0] - expected[0]) <= std::max(5e-4, tolerance) * expected[0]);
    for (size_t j = 1; j < 4; ++j) {
      squares += expected[j] * expected[j];
      errors += (got[j] - expected[j]) * (got[j] - expected[j]);
    }
  }
  CHECK(std::sqrt(errors / squares) <= tolerance);
}

}  // namespace signalbox::test
