// ERASER scores against the benchmark's own scorer (tests/rationale/eraser/golden.py), its definitions by hand, and
// what of a results file is refused.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "eval/rationale/eraser_scores.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
namespace fs = std::filesystem;

fs::path eraser_data() { return test::source_dir() / "tests/rationale/eraser"; }

// Every number of `expected` within 1e-9 of what is found under the same keys.
void compare(const json::Ref& expected, const json::Ref& found) {
  CAPTURE(expected.path());
  switch (expected.value().type()) {
    case json::Type::object:
      for (const auto& [key, value] : expected.members()) compare(value, found.at(key));
      break;
    case json::Type::array:
      REQUIRE(found.length() == expected.length());
      for (size_t i = 0; i < expected.length(); ++i) compare(expected[i], found[i]);
      break;
    default: CHECK(std::abs(found.number() - expected.number()) <= 1e-9);
  }
}

// A document of ten tokens, one annotation and one result.
class OneInstance {
 public:
  OneInstance() {
    fs::create_directories(dir_ / "docs");
    test::write_file(dir_ / "docs/d", "a b c d e\nf g h i j\n");
    test::write_file(dir_ / "test.jsonl",
                     R"({"annotation_id":"x","query":"q","classification":"yes","evidences":[[{"text":"","docid":"d",)"
                     R"("start_token":2,"end_token":6,"start_sentence":0,"end_sentence":1}]]})"
                     "\n");
  }
  std::vector<EraserResult> results(const std::string& lines) {
    test::write_file(dir_ / "results.jsonl", lines);
    EraserDocuments documents(dir_.path());
    return read_eraser_results(dir_ / "results.jsonl", documents);
  }
  std::string refused(const std::string& lines) {
    try {
      results(lines);
    } catch (const Error& error) {
      return error.reason();
    }
    return "";
  }
  json::Value score(const std::string& lines, bool one_to_one) {
    const auto read = results(lines);
    EraserDocuments documents(dir_.path());
    const auto annotations = read_eraser_annotations(dir_ / "test.jsonl");
    return one_to_one ? one_to_one_scores(annotations, read, documents, {})
                      : eraser_scores(annotations, read, documents, {});
  }

 private:
  test::TemporaryDirectory dir_;
};

std::string hard_line(const std::string& spans, const std::string& more = "") {
  return R"({"annotation_id":"x","rationales":[{"docid":"d","hard_rationale_predictions":[)" + spans + "]" + more +
         "}]}\n";
}
std::string span(int a, int b) {
  return R"({"start_token":)" + std::to_string(a) + R"(,"end_token":)" + std::to_string(b) + "}";
}

double at(const json::Value& value, std::initializer_list<const char*> path) {
  json::Ref ref(value, "scores");
  for (const char* key : path) ref = key[0] == '0' ? ref[0] : ref.at(key);
  return ref.number();
}

}  // namespace

TEST_CASE("eraser scores equal the benchmark's own scorer to 1e-9") {
  EraserDocuments documents(eraser_data());
  const auto annotations = read_eraser_annotations(eraser_data() / "test.jsonl");
  const auto results = read_eraser_results(eraser_data() / "results.jsonl", documents);
  EraserSettings settings;
  settings.iou_thresholds = {0.1, 0.5};
  const json::Value expected = json::parse_file(eraser_data() / "expected.json"),
                    found = eraser_scores(annotations, results, documents, settings);
  compare(json::Ref(expected, "expected"), json::Ref(found, "found"));
  // Written by us and read again, the results are the same.
  test::TemporaryDirectory scratch;
  std::string lines;
  for (const EraserResult& result : results) lines += json::dump(eraser_result_json(result)) + "\n";
  test::write_file(scratch / "again.jsonl", lines);
  const auto again = read_eraser_results(scratch / "again.jsonl", documents);
  CHECK(json::dump(eraser_scores(annotations, again, documents, settings)) == json::dump(found));
}

TEST_CASE("eraser: three predictions on one evidence give recall 3, one to one 1") {
  OneInstance one;
  // IoU with [2, 6): 1/2 at least for none but ...; at .25 each of the three parts counts.
  const std::string lines = hard_line(span(2, 4) + "," + span(4, 6));
  const json::Value scores = one.score(lines, false), matched = one.score(lines, true);
  CHECK(at(scores, {"iou_scores", "0", "micro", "r"}) == 2);  // each has IoU .5, and at .5 it is a hit
  CHECK(at(scores, {"iou_scores", "0", "micro", "p"}) == 1);
  CHECK(at(scores, {"iou_scores", "0", "micro", "f1"}) == doctest::Approx(4.0 / 3));
  CHECK(at(matched, {"iou_scores", "0", "micro", "r"}) == 1);
  CHECK(at(matched, {"iou_scores", "0", "micro", "p"}) == 0.5);
  CHECK(at(scores, {"token_prf", "instance_macro", "f1"}) == 1);
  CHECK(at(scores, {"rationale_prf", "instance_micro", "f1"}) == 0);
}

TEST_CASE("eraser: curves of the known cases") {
  CHECK(auprc({true, false, true, false}, {.9, .8, .7, .6}) == doctest::Approx(.7917).epsilon(1e-4));
  CHECK(average_precision({true, false, true, false}, {.9, .8, .7, .6}) == doctest::Approx(.8333).epsilon(1e-4));
  CHECK(auprc({false, false, true, false}, {.9, .8, .7, .6}) == doctest::Approx(.1667).epsilon(1e-3));
  CHECK(average_precision({false, false, true, false}, {.9, .8, .7, .6}) == doctest::Approx(.3333).epsilon(1e-4));
  CHECK(roc_auc({true, false, true, false}, {.5, .5, .5, .5}) == 0.5);
  CHECK(auprc({false, false}, {.1, .2}) == 0.5);
  CHECK(entropy_of({{"a", 2}, {"b", 2}}) == doctest::Approx(std::log(2)));
  CHECK(kl_of({{"b", .5}, {"a", .5}}, {{"a", .9}, {"b", .1}}) ==
        doctest::Approx(.5 * std::log(.5 / .9) + .5 * std::log(.5 / .1)));
}

TEST_CASE("eraser: no prediction anywhere has no score, and none is refused") {
  OneInstance one;
  const json::Value scores = one.score(hard_line(""), false);
  CHECK(scores.find("rationale_prf")->is_null());
}

TEST_CASE("eraser: what is refused, in one line each") {
  OneInstance one;
  CHECK(one.refused(hard_line(span(1, 4) + "," + span(3, 5))).find("do not overlap, found [1, 4) and [3, 5)") !=
        std::string::npos);
  CHECK(one.refused(hard_line(span(1, 4) + "," + span(1, 4))).empty());  // one, twice: as the benchmark has it
  CHECK(one.refused(hard_line(span(8, 11))).find("found [8, 11)") != std::string::npos);
  CHECK(one.refused(hard_line(span(3, 3))).find("found [3, 3)") != std::string::npos);
  CHECK(one.refused(hard_line("", R"(,"soft_rationale_predictions":[1,2])")).find("each of 10 tokens, found 2") !=
        std::string::npos);
  CHECK(one.refused(hard_line("") + hard_line("")).find("\"x\" again") != std::string::npos);
  CHECK(
      one.refused(R"({"annotation_id":"x","rationales":[{"docid":"d"},{"docid":"d"}]})").find("every document once") !=
      std::string::npos);
  CHECK(one.refused(R"({"annotation_id":"x","rationales":[{"docid":"../test.jsonl"}]})").find("expected a document") !=
        std::string::npos);
  const std::string classes = R"("classification":"yes","classification_scores":{"yes":0.7,"no":0.3})";
  CHECK(one.refused(R"({"annotation_id":"x","rationales":[],"classification":"yes"})").find("classification_scores") !=
        std::string::npos);
  CHECK(one.refused(R"({"annotation_id":"x","rationales":[],)" + classes + "}\n" +
                    R"({"annotation_id":"y","rationales":[]})")
            .find("in every instance or in none") != std::string::npos);
  CHECK(one.refused(R"({"annotation_id":"x","rationales":[],)" + classes +
                    R"(,"comprehensiveness_classification_scores":{"no":1}})")
            .find("a score of the predicted class \"yes\"") != std::string::npos);
  CHECK_THROWS_AS(one.score(R"({"annotation_id":"z","rationales":[]})", false), Error);
}
