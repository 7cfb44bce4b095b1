// signalbox train distill: the student by its files, by score and by another process; what it refuses; kills.
#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/csv.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "tests/docs.h"
#include "tests/kills.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

Ran distill(const std::string& words) { return run_command(binary() + " train distill " + words); }

// The words of such a command, for run_with_kills.
std::vector<std::string> distill_words(const std::string& text) {
  std::vector<std::string> words = {"train", "distill"};
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    if (end > at) words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

// Records of tests/compress, from `first` on; every second has the domain "even".
std::string records_of(size_t first, size_t count) {
  std::string out;
  const std::vector<std::string> lines = lines_of(read_file(source_dir() / "tests/compress/golden/records.jsonl"));
  for (size_t i = first; i < first + count; ++i) {
    json::Value record = json::parse(lines.at(i), "record");
    record.set("domain", i % 2 == 0 ? "even" : "odd");
    out += json::dump(record) + "\n";
  }
  return out;
}

double ppl_by_score(const fs::path& model, const fs::path& records) {
  const Ran scored = run_command(binary() + " score " + model.string() + " --json --quiet --input " + records.string());
  REQUIRE_MESSAGE(scored.code == 0, scored.err);
  double sum = 0, n = 0;
  for (const std::string& line : lines_of(scored.out)) {
    if (line.empty()) continue;
    const json::Value scores = json::parse(line, "score");
    for (const json::Value& p : scores.find("logprobs")->items()) {
      sum += p.real();
      ++n;
    }
  }
  return std::exp(-sum / n);
}

void same_results(const fs::path& a, const fs::path& b) {
  size_t n = 0;
  for (const auto& entry : fs::recursive_directory_iterator(a)) {
    const std::string name = fs::relative(entry.path(), a).string();
    const std::string file = entry.path().filename().string();
    if (!entry.is_regular_file() || file == "manifest.json" || file == "log.txt") continue;
    REQUIRE_MESSAGE(fs::exists(b / name), name);
    CHECK_MESSAGE(read_file(entry.path()) == read_file(b / name), name);
    ++n;
  }
  CHECK(n >= 7);
}

}  // namespace

TEST_CASE("train distill: the student is judged as what is written, and its stages bring it nearer") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", records_of(0, 8));
  write_file(dir / "stop.jsonl", records_of(8, 2));
  write_file(dir / "report.jsonl", records_of(10, 4));
  const std::string common =
      golden_model("qwen2_moe") + " --data " + (dir / "data.jsonl").string() + " --stop " +
      (dir / "stop.jsonl").string() + " --eval " + (dir / "report.jsonl").string() +
      " --keep 3 --block-steps 3 --steps 4 --lr 2e-4 --block-lr 2e-4 --batch 4 --save-every 2 --random 1 --out ";
  const auto begin = std::chrono::steady_clock::now();
  const Ran ran = distill(common + (dir / "a").string());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  CHECK(ran.out.find("student") != std::string::npos);
  const CsvTable quality = CsvTable::read(dir / "a/quality.csv");
  const std::vector<std::string> plans = {"original",      "student",   "blocks", "closed_form",
                                          "concatenation", "frequency", "random"};
  REQUIRE(quality.n_rows() == plans.size());
  for (size_t row = 0; row < plans.size(); ++row) {
    CHECK(quality.text(row, quality.column("plan")) == plans[row]);
    CHECK((quality.number(row, quality.column("kl")) > 0) == (row > 0));
    CHECK(quality.integer(row, quality.column("parameters")) ==
          quality.integer(row == 0 ? 0 : 1, quality.column("parameters")));
  }
  CHECK(quality.number(1, quality.column("ppl")) ==
        doctest::Approx(ppl_by_score(dir / "a", dir / "report.jsonl")).epsilon(1e-9));
  CHECK(quality.number(0, quality.column("ppl")) ==
        doctest::Approx(ppl_by_score(golden_model("qwen2_moe"), dir / "report.jsonl")).epsilon(1e-9));
  // The second pass over the records loses less than the first.
  const CsvTable log = CsvTable::read(dir / "a/log.csv");
  REQUIRE(log.n_rows() == 4);
  const auto loss = [&](size_t row) { return log.number(row, log.column("loss")); };
  CHECK(loss(2) + loss(3) < loss(0) + loss(1));
  CHECK(CsvTable::read(dir / "a/stop.csv").n_rows() == 3);
  CHECK(CsvTable::read(dir / "a/blocks_stop.csv").n_rows() == 3);
  const CsvTable blocks = CsvTable::read(dir / "a/blocks.csv");
  for (size_t row = 0; row < blocks.n_rows(); ++row)
    CHECK(blocks.number(row, blocks.column("error_refit")) <= blocks.number(row, blocks.column("error_concatenated")));
  // All neurons are dense: nothing is left of a router.
  const json::Value config = json::parse_file(dir / "a/config.json");
  CHECK(config.find("mlp_only_layers")->items().size() == 3);
  CHECK_FALSE(fs::exists(dir / "a/logits"));
  CHECK(distill(common + (dir / "a").string()).err.find("was complete") != std::string::npos);

  // Killed, with other threads and forwards: the same bytes.
  std::vector<std::string> words = distill_words(common);
  words.insert(words.end(), {(dir / "b").string(), "--threads", "2", "--chunk", "1", "--quiet"});
  run_with_kills(words, seconds, 7);
  same_results(dir / "a", dir / "b");
  same_results(dir / "b", dir / "a");  // and no more files
}

TEST_CASE("train distill: a specialist of one domain is judged on the others too") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", records_of(0, 14));
  const std::string common =
      golden_model("mixtral") + " --data " + (dir / "data.jsonl").string() + " --keep 2 --steps 0 --random 0 --quiet ";
  const Ran ran = distill(common + "--domain even --json --score do-acp --out " + (dir / "a").string());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const json::Value said = json::parse(ran.out, "stdout");
  CHECK(said.find("quality")->items().size() == 4);
  REQUIRE(fs::exists(dir / "a/quality_other.csv"));
  CHECK(read_file(dir / "a/quality.csv") != read_file(dir / "a/quality_other.csv"));
  const json::Value config = json::parse_file(dir / "a/config.json");
  CHECK(config.find("num_local_experts")->integer() == 1);
  CHECK(config.find("num_experts_per_tok")->integer() == 1);
  // With all experts there is nothing to choose, and it is said.
  const Ran all = distill(golden_model("mixtral") + " --data " + (dir / "data.jsonl").string() +
                          " --keep 8 --steps 0 --random 1 --out " + (dir / "all").string());
  REQUIRE_MESSAGE(all.code == 0, all.err);
  CHECK(all.err.find("--keep 8: all experts stay") != std::string::npos);
  CHECK(distill(common + "--domain none --out " + (dir / "b").string()).err.find("--domain: expected records") !=
        std::string::npos);
}

TEST_CASE("train distill: of several sizes each is what a command for it alone makes, after kills too") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", records_of(0, 14));
  const std::string common = golden_model("mixtral") + " --data " + (dir / "data.jsonl").string() +
                             " --steps 2 --save-every 1 --batch 2 --domain even --random 2 --out ";
  const fs::path curve = dir / "curve";
  const auto begin = std::chrono::steady_clock::now();
  const Ran ran = distill(common + curve.string() + " --keep 3,1");
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  REQUIRE(distill(common + (dir / "one").string() + " --keep 3").code == 0);
  same_results(dir / "one", curve / "keep-3");
  same_results(curve / "keep-3", dir / "one");
  const Ran again = distill(common + (curve / "keep-3").string() + " --keep 3");
  CHECK_MESSAGE(again.err.find("was complete") != std::string::npos, again.err);

  // One table: the original once, then the sizes ascending.
  const CsvTable quality = CsvTable::read(curve / "quality.csv"), of_one = CsvTable::read(dir / "one/quality.csv");
  REQUIRE(quality.n_rows() == 2 * of_one.n_rows() - 1);
  for (size_t row = 0; row < of_one.n_rows(); ++row)
    for (size_t column = 0; column < of_one.header().size(); ++column)
      CHECK(of_one.text(row, column) == quality.text(row == 0 ? 0 : quality.n_rows() - of_one.n_rows() + row, column));
  CHECK(quality.text(1, quality.column("plan")) == "student");
  CHECK(quality.integer(1, quality.column("keep")) == 1);
  CHECK(quality.integer(1, quality.column("parameters")) <
        quality.integer(quality.n_rows() - 1, quality.column("parameters")));
  CHECK(quality.number(1, quality.column("ppl_ci_lo")) < quality.number(1, quality.column("ppl")));
  CHECK(quality.number(1, quality.column("ppl")) < quality.number(1, quality.column("ppl_ci_hi")));
  CHECK(fs::exists(curve / "quality_other.csv"));
  for (const char* text : {"student", "baseline", "M parameters"})
    CHECK(read_file(curve / "curve.svg").find(text) != std::string::npos);
  CHECK(read_file(curve / "report.html").find("Other domains") != std::string::npos);
  CHECK(ran.out.find("loss, 95 %") != std::string::npos);

  const Ran shown = distill(common + curve.string() + " --keep 1,3 --json");
  REQUIRE_MESSAGE(shown.code == 0, shown.err);
  CHECK(shown.err.find("was complete") != std::string::npos);
  CHECK(json::parse(shown.out, "stdout").find("quality")->items().size() == quality.n_rows());
  CHECK(distill(common + curve.string() + " --keep 1,2").err.find("keep[1]: was 3, now 2") != std::string::npos);
  CHECK(distill(common + (dir / "no").string() + " --keep 1,1").code == 2);
  CHECK(distill(common + (dir / "no").string() + " --keep 1,9").err.find("expected from 1 to 8 experts, found 9") !=
        std::string::npos);
  CHECK_FALSE(fs::exists(dir / "no"));

  std::vector<std::string> words = distill_words(common);
  words.insert(words.end(), {(dir / "killed").string(), "--keep", "1,3", "--threads", "2", "--chunk", "1", "--quiet"});
  run_with_kills(words, seconds, 5);
  same_results(curve, dir / "killed");
  same_results(dir / "killed", curve);
}

TEST_CASE("train distill: splits that share a prompt, and flags without effect, are refused") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", records_of(0, 6));
  write_file(dir / "same.jsonl", records_of(5, 3));
  write_file(dir / "two.jsonl", records_of(8, 2));
  const std::string common = golden_model("olmoe") + " --data " + (dir / "data.jsonl").string() + " --out " +
                             (dir / "out").string() + " --quiet --keep ";
  const auto refused = [&](const std::string& words, int code, const std::string& text) {
    const Ran ran = distill(common + words);
    CHECK(ran.code == code);
    CHECK_MESSAGE(ran.err.find(text) != std::string::npos, ran.err);
    CHECK_FALSE(fs::exists(dir / "out/manifest.json"));
  };
  refused("2 --steps 0 --eval " + (dir / "same.jsonl").string(), 1, "found the prompt of");
  refused("2 --steps 0 --stop " + (dir / "two.jsonl").string() + " --eval " + (dir / "two.jsonl").string(), 1,
          "expected prompts to judge by that are none of those to stop by");
  refused("2 --steps 0 --lr 1", 2, "--lr: expected --steps above 0");
  refused("2 --steps 0 --block-lr 1", 2, "--block-lr: expected --block-steps above 0");
  refused("2 --steps 0 --output-sample 9", 2, "expected --score do-acp");
  refused("2 --steps 1 --kl-weight 0", 2, "expected a number above 0 for one of them");
  // Its one expert is always chosen with weight 1.
  refused("2 --steps 1 --weights router", 2, "--weights: expected routers that can learn");
  refused("2 --steps 1 --weights dense.gate", 2, "--weights: expected GLOB[,GLOB...]");
  refused("9 --steps 0", 2, "--keep: layer 0: expected from 1 to 8 experts, found 9");
}

TEST_CASE("train router: damaged routers learn to be the original's again, and all else stays bit by bit") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", records_of(0, 14));
  const std::string data = (dir / "data.jsonl").string(), model = golden_model("olmoe");
  const auto run = [&](const std::string& words) { return run_command(binary() + " train " + words + " --quiet"); };
  const Ran damaged = run("full " + model + " --data " + data + " --weights router --steps 3 --lr 0.05 --out " +
                          (dir / "damaged").string());
  REQUIRE_MESSAGE(damaged.code == 0, damaged.err);
  const std::string student = (dir / "damaged/model").string();
  const Ran ran = run("router " + student + " --teacher " + model + " --data " + data +
                      " --steps 20 --lr 1e-2 --batch 8 --save-every 10 --out " + (dir / "out").string());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const CsvTable quality = CsvTable::read(dir / "out/quality.csv");
  REQUIRE(quality.n_rows() == 3);
  for (const char* plan : {"original", "before", "after"}) CHECK(ran.out.find(plan) != std::string::npos);
  CHECK(quality.number(2, quality.column("kl")) < 0.7 * quality.number(1, quality.column("kl")));
  size_t changed = 0;
  for (const auto& entry : fs::directory_iterator(student)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto before = safetensors::File::open(entry.path()),
               after = safetensors::File::open(dir / "out" / entry.path().filename());
    for (const safetensors::TensorInfo& info : before->tensors()) {
      const bool same = std::memcmp(before->data(info), after->data(after->at(info.name)), info.bytes) == 0;
      if (!same) ++changed;
      CHECK_MESSAGE((same || info.name.find("mlp.gate.weight") != std::string::npos), info.name);
    }
  }
  CHECK(changed == 3);
  const Ran other =
      run("router builtin --teacher " + model + " --data " + data + " --steps 1 --out " + (dir / "no").string());
  CHECK(other.code == 1);
  CHECK_MESSAGE(other.err.find("expected the vocabulary of") != std::string::npos, other.err);
  CHECK_FALSE(fs::exists(dir / "no/manifest.json"));
  // One active expert whose weight is made 1: no router learns, in no training.
  const std::string still = (dir / "still").string(), mixtral = golden_model("mixtral");
  fs::create_directories(still);
  for (const auto& entry : fs::directory_iterator(mixtral)) fs::copy(entry.path(), dir / "still");
  json::Value config = json::parse_file(dir / "still/config.json");
  config.set("num_experts_per_tok", int64_t{1});
  fs::remove(dir / "still/config.json");
  write_file(dir / "still/config.json", json::dump(config));
  const std::string rest = " --data " + data + " --steps 1 --out ";
  for (const std::string& words : {"router " + still + " --teacher " + mixtral, "full " + still + " --weights router",
                                   "lora " + still + " --targets router"}) {
    CAPTURE(words);
    const Ran refused = run(words + rest + (dir / "never").string());
    CHECK(refused.code == (words.starts_with("router") ? 1 : 2));  // of the others a flag names the routers
    CHECK_MESSAGE(refused.err.find(": expected routers that can learn, found") != std::string::npos, refused.err);
    CHECK_FALSE(fs::exists(dir / "never"));
  }
  CHECK(run("full " + still + " --weights router --balance switch:0.1" + rest + (dir / "balanced").string()).code == 0);
}
