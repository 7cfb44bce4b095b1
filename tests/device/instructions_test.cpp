// The instruction kit under the shim, judged by tools/bench/instructions.py, whose arithmetic shares nothing with the
// shim's; and the shim beside every recording of real hardware that there is.
// clang-format off
#include "tests/device/shim_run.h"  // before everything of kernels/cuda
// clang-format on
#include "kernels/cuda/kit/instructions.h"

#include <algorithm>
#include <filesystem>

#include "base/json.h"
#include "tests/support.h"

namespace signalbox::test {

namespace {

using shim_run::InstructionResult;

std::string script() { return (source_dir() / "tools/bench/instructions.py").string(); }

std::vector<InstructionResult> results_of_shim() {
  std::vector<InstructionResult> results;
  shim::run_instructions([&](const InstructionResult& result) { results.push_back(result); });
  return results;
}

std::string write(const TemporaryDirectory& folder, const std::string& name,
                  const std::vector<InstructionResult>& all) {
  std::string text = "{\"schema\": \"signalbox instructions 1\", \"device\": \"shim\"}\n";
  for (const InstructionResult& result : all) text += shim::json_line(result) + "\n";
  write_file(folder / name, text);
  return (folder / name).string();
}

std::vector<json::Value> verdicts(const std::string& text) {
  std::vector<json::Value> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) lines.push_back(json::parse(text.substr(at, end - at), "a line"));
    at = end + 1;
  }
  return lines;
}

}  // namespace

TEST_CASE("instructions: the shim's are what plain arithmetic makes of the same operands") {
  const TemporaryDirectory folder;
  std::vector<InstructionResult> results;
  shim_run::in_each_order([&] {
    const std::vector<InstructionResult> again = results_of_shim();
    if (results.empty()) results = again;
    REQUIRE(again.size() == results.size());
    for (size_t i = 0; i < again.size(); ++i) CHECK(again[i].words == results[i].words);
  });
  const Ran ran = run_command("python3 " + script() + " check " + write(folder, "shim.jsonl", results));
  INFO(ran.out << ran.err);
  CHECK(ran.code == 0);
  const std::vector<json::Value> lines = verdicts(ran.out);
  REQUIRE(lines.size() == results.size() + 2);
  // The shim's own way of adding is recognised by its bits, and by no other model's.
  const json::Value* rounding = lines[lines.size() - 2].find("rounding");
  REQUIRE(rounding);
  const json::Value& best = rounding->items()[0];
  CHECK(best.find("model")->string() == "f32 sums in order, then added");
  CHECK(best.find("equal")->integer() == best.find("of")->integer());
  CHECK(rounding->items()[1].find("equal")->integer() < best.find("of")->integer());
}

TEST_CASE("instructions: a wrong bit of any result is found") {
  const TemporaryDirectory folder;
  const std::vector<InstructionResult> right = results_of_shim();
  const std::string original = write(folder, "right.jsonl", right);
  std::vector<InstructionResult> wrong = right;
  // The highest bit of an exponent, and the sign of a result that is not zero.
  for (InstructionResult& result : wrong) {
    const auto at = std::find_if(result.words.begin(), result.words.end(), [](uint32_t word) {
      return (word & 0x7f800000u) != 0x7f800000u && (word & 0x7f800000u) > 0x3f000000u;
    });
    *(at == result.words.end() ? result.words.begin() : at) ^= 0x40000000u;
  }
  const std::string changed = write(folder, "wrong.jsonl", wrong);
  for (const std::string& command : {" check " + changed, " compare " + original + " " + changed}) {
    const Ran ran = run_command("python3 " + script() + command);
    CHECK(ran.code == 1);
    for (const json::Value& line : verdicts(ran.out)) {
      if (!line.find("status") || line.find("rounding")) continue;
      CAPTURE(json::dump(line));
      CHECK(line.find("status")->string() == "failed");
    }
  }
  // Results that are missing, too many or too short.
  wrong = right;
  wrong.pop_back();
  wrong.front().words.pop_back();
  const Ran ran =
      run_command("python3 " + script() + " compare " + original + " " + write(folder, "short.jsonl", wrong));
  CHECK(ran.code == 1);
  CHECK(ran.out.find("only in the first file") != std::string::npos);
  CHECK(ran.out.find("512 and 511 words") == std::string::npos);
  CHECK(ran.out.find("128 and 127 words") != std::string::npos);
}

TEST_CASE("instructions: the shim keeps to what real hardware did") {
  const TemporaryDirectory folder;
  const std::string mine = write(folder, "shim.jsonl", results_of_shim());
  int recorded = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "tests/goldens/instructions")) {
    if (entry.path().extension() != ".jsonl") continue;
    ++recorded;
    CAPTURE(entry.path().string());
    const Ran ran = run_command("python3 " + script() + " compare " + mine + " " + entry.path().string());
    INFO(ran.out << ran.err);
    CHECK(ran.code == 0);
  }
  if (recorded == 0) skip("no recording of real hardware in tests/goldens/instructions yet");
}

}  // namespace signalbox::test
