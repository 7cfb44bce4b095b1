// The tuned lens: its training held to torch (tests/train/distillation_goldens.py), its readings to its divergences.
#include "train/tuned_lens.h"

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>

#include "base/csv.h"
#include "base/json.h"
#include "loaders/open.h"
#include "tests/docs.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"
#include "train/training.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::eval;
using namespace signalbox::engine;
namespace fs = std::filesystem;

// By layer, from rows with the whole vocabulary: the mean of KL(last layer || layer) over positions below the last.
std::vector<double> divergences(const fs::path& lens_csv) {
  const CsvTable csv = CsvTable::read(lens_csv);
  std::map<std::pair<std::string, int64_t>, std::map<int64_t, std::map<int64_t, double>>> rows;
  for (size_t row = 0; row < csv.n_rows(); ++row)
    rows[{csv.text(row, csv.column("id")), csv.integer(row, csv.column("position"))}][csv.integer(
        row, csv.column("layer"))][csv.integer(row, csv.column("token"))] = csv.number(row, csv.column("logprob"));
  std::vector<double> sums;
  double n = 0;
  for (const auto& [token, layers] : rows) {
    if (rows.count({token.first, token.second + 1}) == 0) continue;
    const auto& last = layers.rbegin()->second;
    sums.resize(layers.size() - 1);
    for (size_t l = 0; l < sums.size(); ++l)
      for (const auto& [id, log_p] : last)
        sums[l] += std::exp(log_p) * (log_p - layers.at(static_cast<int64_t>(l)).at(id));
    ++n;
  }
  for (double& sum : sums) sum /= n;
  return sums;
}

}  // namespace

TEST_CASE("tuned lens: losses, norms, divergences and weights are torch's") {
  const json::Value golden = json::parse_file(test::source_dir() / "tests/train/distillation.json");
  const json::Ref want = json::Ref(golden, "distillation.json").at("lens");
  Session session = loaders::open_session((test::goldens_dir() / want.at("case").string() / "model").string(), {});
  std::map<size_t, std::string> bytes;
  for (const int64_t tokens : {512, 1}) {
    const test::TemporaryDirectory dir;
    TunedLens lens(*session.backend, session.model, 2);
    LensObjective objective(lens, session.weights);
    Training training;
    training.session = &session;
    training.trained = &lens;
    training.objective = &objective;
    for (int64_t i = 0; i < 6; ++i) training.data.push_back(test::example(i));
    training.dir = dir / "out";
    training.manifest.schema = training_schema;
    training.settings.schedule = {Shape::constant, 0, 4, 0};
    training.settings.lr = 3e-3;
    training.settings.adam.decay = 0.1;
    training.settings.clip = 0.5;
    training.settings.batch = 4;
    training.settings.seed = 5;
    training.settings.groups.tokens = tokens;
    training.result = "lens.safetensors";
    training.write_result = [&] { lens.write(dir / "out/lens.safetensors", "{}"); };
    std::vector<Example> held_out = {test::example(10), test::example(11)};
    const std::vector<const Example*> pointers = {held_out.data(), &held_out[1]};
    Forward forward = session.forward(0);
    const std::vector<double> before = objective.by_layer(forward, pointers, training.settings.groups, true),
                              plain = objective.by_layer(forward, pointers, training.settings.groups, false);
    CHECK(before == plain);
    REQUIRE(train::train(training) == TrainingEnd::complete);
    const std::vector<double> after = objective.by_layer(forward, pointers, training.settings.groups, true);
    const CsvTable log = CsvTable::read(dir / "out/log.csv");
    for (size_t s = 0; s < 4; ++s) {
      CHECK(std::fabs(log.number(s, log.column("loss")) / want.at("losses")[s].number() - 1) <= 2e-5);
      CHECK(std::fabs(log.number(s, log.column("grad_norm")) / want.at("norms")[s].number() - 1) <= 1e-3);
    }
    for (size_t l = 0; l < after.size(); ++l) {
      CHECK(before[l] == doctest::Approx(want.at("before")[l].number()).epsilon(2e-5));
      CHECK(after[l] == doctest::Approx(want.at("after")[l].number()).epsilon(2e-5));
    }
    for (int32_t layer = 0; layer < lens.n_layers(); ++layer) {
      const json::Ref norm = want.at("changes").at("layer." + std::to_string(layer) + ".weight");
      const Matrix weight = lens.weight(layer);
      double sum = 0;
      for (int64_t i = 0; i < weight.rows * weight.cols; ++i)
        sum += std::pow(static_cast<double>(static_cast<const float*>(weight.data)[i]), 2);
      CHECK(std::sqrt(sum) == doctest::Approx(norm[0].number()).epsilon(1e-3));
    }
    bytes[bytes.size()] = test::read_file(dir / "out/lens.safetensors");
  }
  CHECK(bytes[0] == bytes[1]);
}

TEST_CASE("tuned lens: lens.csv by it is what training saw, nearer to the model than without") {
  const test::TemporaryDirectory dir;
  const std::string model = (test::goldens_dir() / "qwen3_moe/model").string();
  const std::vector<std::string> lines =
      test::lines_of(test::read_file(test::source_dir() / "tests/compress/golden/records.jsonl"));
  std::string data, held_out;
  for (size_t i = 0; i < 12; ++i) (i < 8 ? data : held_out) += lines[i] + "\n";
  test::write_file(dir / "data.jsonl", data);
  test::write_file(dir / "held.jsonl", held_out);
  const auto run = [&](const std::string& words) {
    const test::Ran ran = test::run_command(test::binary() + " " + words + " --quiet --threads 1");
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    return ran;
  };
  run("train lens " + model + " --data " + (dir / "data.jsonl").string() + " --eval " + (dir / "held.jsonl").string() +
      " --steps 8 --lr 1e-3 --batch 8 --out " + (dir / "tuned").string());
  const std::string file = (dir / "tuned/lens.safetensors").string(),
                    lens = "lens " + model + " --input " + (dir / "held.jsonl").string() + " --top 96 --out ";
  run(lens + (dir / "plain").string());
  run(lens + (dir / "read").string() + " --tuned " + file);
  const CsvTable layers = CsvTable::read(dir / "tuned/layers.csv");
  const std::vector<double> plain = divergences(dir / "plain/lens.csv"), tuned = divergences(dir / "read/lens.csv");
  REQUIRE(layers.n_rows() == plain.size());
  for (size_t l = 0; l < plain.size(); ++l) {
    CHECK(layers.number(l, layers.column("logit_lens")) == doctest::Approx(plain[l]).epsilon(1e-4));
    CHECK(layers.number(l, layers.column("tuned_lens")) == doctest::Approx(tuned[l]).epsilon(1e-4));
    CHECK(tuned[l] < plain[l]);
  }
  CHECK(json::parse_file(dir / "read/summary.json").find("tuned")->is_string());

  const auto refused = [&](const std::string& other, const std::string& text) {
    const test::Ran ran = test::run_command(test::binary() + " lens " + other + " --input " +
                                            (dir / "held.jsonl").string() + " --out " + (dir / "no").string());
    CHECK(ran.code == 1);
    CHECK_MESSAGE(ran.err.find(text) != std::string::npos, ran.err);
  };
  refused((test::goldens_dir() / "qwen2_moe/model").string() + " --tuned " + file,
          "expected a tuned lens of the weights");
  refused(model + " --tuned " + (test::goldens_dir() / "qwen3_moe/model/model.safetensors").string(),
          "expected a tuned lens (schema");
}
