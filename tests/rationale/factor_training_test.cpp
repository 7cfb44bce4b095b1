// Training of rationale models on planted clusters: found in every seed where they lie apart, the same bytes whatever
// the threads and interruptions; what is read from files, and what of them is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/csv.h"
#include "base/error.h"
#include "eval/data/dice.h"
#include "tests/support.h"
#include "train/rationale/factor_study.h"
#include "train/rationale/factor_tensors.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::eval;
namespace fs = std::filesystem;

// Sentences of 5 to 9 tokens from K clusters in R^8 whose centres have the norm `separation`; noise of unit variance.
struct Planted {
  FactorCorpus corpus;
  std::vector<Record> records;
};
Planted plant(int32_t n_clusters, double separation, uint64_t seed, int64_t n_sentences = 60) {
  constexpr size_t d = 8;
  Dice dice(seed, "planted");
  const auto normal = [&] {  // a sum of twelve even draws
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(dice.below(1u << 30)) / (1 << 30);
    return sum;
  };
  std::vector<std::vector<double>> centres;
  for (int32_t k = 0; k < n_clusters; ++k) {
    std::vector<double> centre(d);
    double square = 0;
    for (double& x : centre) {
      x = normal();
      square += x * x;
    }
    for (double& x : centre) x *= separation / std::sqrt(square);
    centres.push_back(centre);
  }
  Planted made;
  FactorCorpus& corpus = made.corpus;
  corpus.d_hidden = corpus.d_target = d;
  corpus.offsets.push_back(0);
  for (int64_t s = 0; s < n_sentences; ++s) {
    json::Value tags = json::Value::array(), object = json::Value::object();
    std::vector<double> mean(d, 0);
    const int64_t n = dice.between(5, 9);
    for (int64_t t = 0; t < n; ++t) {
      const auto k = dice.below(static_cast<uint64_t>(n_clusters));
      tags.push_back("c" + std::to_string(k));
      for (size_t i = 0; i < d; ++i) {
        corpus.hidden.push_back(static_cast<float>(centres[k][i] + normal()));
        mean[i] += static_cast<double>(corpus.hidden.back()) / static_cast<double>(n);
      }
      corpus.words.push_back(static_cast<int32_t>(t));
    }
    corpus.target.insert(corpus.target.end(), mean.begin(), mean.end());
    corpus.offsets.push_back(corpus.offsets.back() + n);
    corpus.ids.push_back("s" + std::to_string(s));
    made.records.push_back(
        parse_record(object.set("id", corpus.ids.back()).set("prompt", "").set("tags", std::move(tags)), "here"));
  }
  add_factor_labels(corpus, made.records, {});
  add_factor_splits(corpus, made.records, 0);
  return made;
}

FactorStudy study_of(const Planted& planted, const std::string& recipe, int64_t n_seeds, const fs::path& dir) {
  FactorStudy study;
  study.corpus = &planted.corpus;
  study.settings = factor_recipe(recipe, "--recipe");
  study.settings.batch = 16;
  study.settings.resamples = 50;
  study.settings.permutations = 20;
  study.n_factors = {3};
  study.n_seeds = n_seeds;
  study.dir = dir;
  study.manifest.schema = rationale_schema;
  return study;
}

std::vector<double> column(const fs::path& file, const char* name) {
  const CsvTable table = CsvTable::read(file);
  std::vector<double> values;
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (!table.text(r, table.column(name)).empty()) values.push_back(table.number(r, table.column(name)));
  return values;
}

const std::vector<const char*>& result_files() {
  static const std::vector<const char*> files = {factor_log, factor_metrics,     factor_weights,    factor_outputs,
                                                 factor_prf, factor_contingency, factor_scores_file};
  return files;
}

}  // namespace

TEST_CASE("planted clusters that lie apart are found in every seed") {
  const Planted planted = plant(3, 30, 1);
  for (const char* recipe : {"document", "clusters"}) {
    CAPTURE(recipe);
    const test::TemporaryDirectory scratch;
    FactorStudy study = study_of(planted, recipe, 3, scratch / "out");
    study.settings.epochs = 6;
    FactorChoice chosen;
    CHECK(study_factors(study, chosen) == FactorStudyEnd::complete);
    CHECK(column(scratch / "out/models.csv", "adjusted_rand") == std::vector<double>{1, 1, 1});
    CHECK(column(scratch / "out/models.csv", "macro_f1") == std::vector<double>{1, 1, 1});
    CHECK(chosen.agreement == 1);
    CHECK(study_factors(study, chosen) == FactorStudyEnd::was_complete);
  }
}

TEST_CASE("planted clusters: the nearer, the worse; and the more factors, the less seeds agree") {
  std::vector<double> found;
  for (const double separation : {0.5, 3.0, 8.0}) {
    const test::TemporaryDirectory scratch;
    const Planted planted = plant(3, separation, 2);
    FactorStudy study = study_of(planted, "clusters", 1, scratch / "out");
    study.settings.epochs = 12;
    FactorChoice chosen;
    study_factors(study, chosen);
    const json::Value scores = json::parse_file(scratch / "out" / factor_scores_file);
    found.push_back(scores.find("adjusted_rand")->real());
  }
  CHECK(found[0] < 0.3);
  CHECK(found[1] > found[0] + 0.2);
  CHECK(found[2] > 0.95);
  const test::TemporaryDirectory scratch;
  const Planted planted = plant(3, 12, 3);
  FactorStudy study = study_of(planted, "clusters", 3, scratch / "out");
  study.settings.epochs = 6;
  study.n_factors = {2, 3, 6};
  FactorChoice chosen;
  study_factors(study, chosen);
  CHECK(chosen.n_factors == 3);  // labels take no part in that
}

TEST_CASE("training: the same bytes with any threads, and after interruptions anywhere") {
  const Planted planted = plant(3, 4, 4, 30);
  const test::TemporaryDirectory scratch;
  FactorChoice chosen;
  FactorStudy study = study_of(planted, "clusters", 1, scratch / "whole");
  study.settings.epochs = 4;
  study.settings.save_every = 2;
  study_factors(study, chosen);
  study.dir = scratch / "threads";
  study.threads = 3;
  study_factors(study, chosen);
  study.dir = scratch / "pieces";
  int64_t stops = 0;
  for (FactorStudyEnd end = FactorStudyEnd::interrupted; end == FactorStudyEnd::interrupted; ++stops) {
    REQUIRE(stops < 20);
    std::atomic<bool> stop = false;
    study.interrupted = &stop;
    study.on_step = [&](int64_t, int64_t step, double) { stop = step % 3 == 0; };
    end = study_factors(study, chosen);
    if (end == FactorStudyEnd::interrupted) {  // a killed process leaves rows that no state knows of
      test::write_file(scratch / "pieces" / factor_log,
                       test::read_file(scratch / "pieces" / factor_log) + "9,9,9,9,9,9\r\n");
    }
  }
  CHECK(stops > 2);
  for (const char* file : result_files())
    for (const char* other : {"threads", "pieces"}) {
      CAPTURE(file);
      CAPTURE(other);
      CHECK(test::read_file(scratch / "whole" / file) == test::read_file(scratch / other / file));
    }
}

TEST_CASE("metrics.csv and factors.safetensors are those of the weights that are written") {
  const Planted planted = plant(3, 4, 5, 20);
  const test::TemporaryDirectory scratch;
  FactorStudy study = study_of(planted, "document", 1, scratch / "out");
  study.settings.epochs = 2;
  FactorChoice chosen;
  study_factors(study, chosen);
  const auto weights = safetensors::File::open(scratch / "out" / factor_weights);
  FactorShape shape{3, 8, 8, 8, false};
  FactorParameters p(shape);
  for (size_t i = 0; i < factor_parameter_names.size(); ++i)
    factor_parameter(p, i) = read_doubles(*weights, factor_parameter_names[i], factor_parameter_shape(shape, i));
  const PreparedCorpus corpus = prepare_corpus(planted.corpus, false);
  ThreadPool pool(1);
  const FactorLosses losses = evaluate_factors(p, corpus, corpus.sentences[0], study.settings, pool);
  const CsvTable metrics = CsvTable::read(scratch / "out" / factor_metrics);
  const size_t row = metrics.n_rows() - 3;  // training, validation, test
  CHECK(metrics.text(row, 1) == "train");
  for (size_t i = 0; i < n_factor_losses; ++i)
    CHECK(metrics.number(row, metrics.column(factor_loss_names[i])) == doctest::Approx(losses[i]).epsilon(1e-12));
  const auto outputs = safetensors::File::open(scratch / "out" / factor_outputs);
  const std::vector<double> pi = read_doubles(*outputs, "pi", {planted.corpus.n_rows(), 3}),
                            z = read_doubles(*outputs, "z", {20, 3, 8});
  std::vector<int64_t> all(20);
  for (size_t s = 0; s < all.size(); ++s) all[s] = static_cast<int64_t>(s);
  FactorOutputs made;
  factor_losses(p, corpus.batch(all), study.settings.forms, {}, pool, &made, nullptr);
  for (size_t i = 0; i < z.size(); ++i) CHECK(z[i] == doctest::Approx(made.z[i]).epsilon(1e-6));
  for (size_t i = 0; i < pi.size(); ++i) CHECK(pi[i] == doctest::Approx(made.pi[i]).epsilon(1e-6));
}

TEST_CASE("labels and splits of records") {
  const auto corpus_of = [](std::vector<std::string> lines) {
    Planted made;
    made.corpus.offsets = {0};
    for (const std::string& line : lines) {
      made.records.push_back(parse_record(json::parse(line, "here"), "here"));
      made.corpus.ids.push_back(made.records.back().id);
      made.corpus.offsets.push_back(made.corpus.offsets.back() + 3);
      for (int32_t w : {0, 0, 1}) made.corpus.words.push_back(w);  // two rows of the first word
    }
    return made;
  };
  Planted made = corpus_of({R"({"id":"a","prompt":"","words":["x","y"],"tags":["B-PER","O"],"split":"train"})",
                            R"({"id":"b","prompt":"","words":["x","y"],"tags":[2,-100],"split":"dev"})",
                            R"({"id":"c","prompt":"","words":["x","y"],"tags":["I-PER",""],"split":"test"})"});
  add_factor_labels(made.corpus, made.records, {});
  CHECK(made.corpus.label_names == std::vector<std::string>{"PER", "2"});
  CHECK(made.corpus.labels == std::vector<std::vector<int32_t>>{{1, 0}, {2, -1}, {1, 0}});
  add_factor_splits(made.corpus, made.records, 0);
  CHECK(made.corpus.splits == std::vector<FactorSplit>{FactorSplit::train, FactorSplit::validation, FactorSplit::test});
  Planted bad = corpus_of({R"({"id":"a","prompt":"","words":["x","y"],"tags":["O"]})"});
  CHECK_THROWS_AS(add_factor_labels(bad.corpus, bad.records, {}), Error);
  bad = corpus_of({R"({"id":"a","prompt":"","split":"half"})"});
  CHECK_THROWS_AS(add_factor_splits(bad.corpus, bad.records, 0), Error);
  const Planted dealt = plant(2, 1, 6, 30);
  for (const FactorSplit split : {FactorSplit::validation, FactorSplit::test})
    CHECK(std::count(dealt.corpus.splits.begin(), dealt.corpus.splits.end(), split) == 3);
}
