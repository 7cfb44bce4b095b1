// Words taken out of the built-in model's documents, experts as rationales, and hidden keys as transformers hides them
// (tests/rationale/mask_goldens.py).
#include "eval/rationale/expert_study.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "base/csv.h"
#include "base/error.h"
#include "eval/rationale/eraser_scores.h"
#include "loaders/open.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
namespace fs = std::filesystem;

std::vector<bool> words_of(const ChoiceRecord& record, const std::vector<int64_t>& out) {
  std::vector<bool> words(record.words.size(), false);
  for (const int64_t w : out) words[static_cast<size_t>(w)] = true;
  return words;
}

}  // namespace

TEST_CASE("mask: keys are hidden as transformers hides them; deletion is another thing") {
  const json::Value golden = json::parse_file(test::source_dir() / "tests/rationale/mask.json");
  const json::Ref ref(golden, "golden");
  ChoiceRecord record;
  record.id = "a";
  for (const json::Ref& token : ref.at("tokens").items())
    record.tokens.push_back(static_cast<int32_t>(token.integer()));
  for (const json::Ref& word : ref.at("words").items()) {
    record.words.emplace_back();
    for (const json::Ref& t : word.items()) record.words.back().push_back(t.integer());
  }
  for (const json::Ref& choice : ref.at("choices").items()) {
    record.names.push_back("c" + std::to_string(record.names.size()));
    record.choices.emplace_back();
    for (const json::Ref& token : choice.items())
      record.choices.back().push_back(static_cast<int32_t>(token.integer()));
  }
  for (const auto& [name, cases] : ref.at("models").members()) {
    CAPTURE(name);
    const engine::Session session = loaders::open_session((test::goldens_dir() / name / "model").string(), {});
    ChoiceRuns runs(session, record);
    double farthest = 0;
    for (size_t i = 0; i < cases.length(); ++i) {
      std::vector<int64_t> out;
      for (const json::Ref& w : ref.at("out")[i].items()) out.push_back(w.integer());
      const ClassScores masked = runs.without(Removal::mask, {words_of(record, out)}).front(),
                        deleted = runs.without(Removal::remove, {words_of(record, out)}).front();
      for (size_t c = 0; c < masked.size(); ++c) {
        CHECK(std::abs(masked[c].second - cases[i][c].number()) < 2e-4);
        farthest = std::max(farthest, std::abs(masked[c].second - deleted[c].second));
        if (out.empty()) CHECK(std::abs(masked[c].second - deleted[c].second) < 1e-6);
      }
    }
    CHECK(farthest > 1e-3);
  }
}

TEST_CASE("evidence of the built-in world: taken out, the answer is lost; alone, it stays" *
          doctest::test_suite("built-in model")) {
  const test::TemporaryDirectory scratch;
  const test::Ran made = test::run_command(test::binary() + " rationale convert world " +
                                           (test::source_dir() / "tools/builtin/heldout/choices.jsonl").string() +
                                           " --out " + (scratch / "world").string());
  REQUIRE_MESSAGE(made.code == 0, made.err);
  const std::string out = (scratch / "out").string();
  const std::string command = test::binary() + " rationale experts builtin --data " +
                              (scratch / "world/records.jsonl").string() +
                              " --limit 4 --random 1 --random-experts 1 --resamples 100 --quiet --out ";
  const test::Ran ran = test::run_command(command + out);
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const CsvTable scores = CsvTable::read(fs::path(out) / "scores.csv");
  const auto value = [&](const std::string& method, const std::string& removal, const std::string& metric) {
    for (size_t r = 0; r < scores.n_rows(); ++r)
      if (scores.text(r, 0) == method && scores.text(r, 1) == removal && scores.text(r, 2) == metric)
        return scores.number(r, 3);
    FAIL(method << " " << removal << " " << metric);
    return 0.0;
  };
  const double p = value("whole text", "none", "p");
  CHECK(p > 0.8);
  for (const char* removal : {"delete", "mask"}) {
    CAPTURE(removal);
    CHECK(value("gold", removal, "comprehensiveness") > 0.8 * p);
    CHECK(value("gold", removal, "sufficiency") < 0.25);
    CHECK(value("gold", removal, "token_f1") == 1);
    CHECK(value("leave_one_out", removal, "comprehensiveness") > value("random", removal, "comprehensiveness"));
    CHECK(value("gold", removal, "auprc") == doctest::Approx(1));
  }
  // The files are ERASER's: scored again from disk, the numbers are those of scores.csv.
  EraserDocuments documents(scratch / "world");
  const auto all = read_eraser_annotations(scratch / "world/test.jsonl");
  const auto results = read_eraser_results(fs::path(out) / "results/experts-delete.jsonl", documents);
  std::vector<EraserAnnotation> annotations;
  for (const EraserResult& result : results)
    for (const EraserAnnotation& annotation : all)
      if (annotation.id == result.id) annotations.push_back(annotation);
  const json::Value eraser = eraser_scores(annotations, results, documents, {});
  const json::Ref ref(eraser, "eraser");
  CHECK(ref.at("classification_scores").at("comprehensiveness").number() ==
        doctest::Approx(value("experts", "delete", "comprehensiveness")).epsilon(1e-12));
  CHECK(ref.at("classification_scores").at("sufficiency_aopc").number() ==
        doctest::Approx(value("experts", "delete", "sufficiency_aopc")).epsilon(1e-12));
  CHECK(ref.at("token_prf").at("instance_macro").at("f1").number() ==
        doctest::Approx(value("experts", "delete", "token_f1")).epsilon(1e-12));
  CHECK(ref.at("token_soft_metrics").at("auprc").number() ==
        doctest::Approx(value("experts", "delete", "auprc")).epsilon(1e-12));
  // As after a kill: some lines are there, the rest is made, to the same bytes.
  const std::string again = (scratch / "again").string();
  fs::copy(out, again, fs::copy_options::recursive);
  std::string manifest = test::read_file(fs::path(again) / "manifest.json");
  for (size_t at = 0; (at = manifest.find("\"complete\"", at)) != std::string::npos; at += 9)
    manifest.replace(at, 10, "\"running\"");
  test::write_file(fs::path(again) / "manifest.json", manifest);
  const std::string lines = test::read_file(fs::path(out) / "samples.jsonl");
  test::write_file(fs::path(again) / "samples.jsonl", lines.substr(0, lines.find('\n') + 20));
  fs::remove(fs::path(again) / "scores.csv");
  const test::Ran resumed = test::run_command(command + again + " --threads 1");
  REQUIRE_MESSAGE(resumed.code == 0, resumed.err);
  for (const char* file : {"scores.csv", "samples.jsonl", "experts.csv", "results/matched.0-mask.jsonl"})
    CHECK(test::read_file(fs::path(out) / file) == test::read_file(fs::path(again) / file));
}

TEST_CASE("top words: the share rounded up, ties to the first") {
  CHECK(top_words({1, 3, 3, 2}, 0.3) == std::vector<bool>{false, true, true, false});
  CHECK(top_words({0, 0, 0, 0, 0}, 0.2) == std::vector<bool>{true, false, false, false, false});
}
