// The instruction kit under the shim, judged by tools/bench/instructions.py, whose arithmetic shares nothing with the
// shim's; and the shim beside every recording of real hardware that there is.
// clang-format off
#include "tests/device/shim_run.h"  // before everything of kernels/cuda
// clang-format on
#include "kernels/cuda/kit/instructions.h"

#include <algorithm>
#include <filesystem>

#include "base/json.h"
#include "kernels/cuda/kit/operands.h"
#include "kernels/cuda/kit/tiles.h"
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

TEST_CASE("instructions: a wrong bit of any result is found" *
          doctest::test_suite("repeats: the same comparison for every bit")) {
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

// Where element (row, k) of a step lies, counted in addresses as the hardware does: strides first, then the swizzle as
// an exclusive or of address bits, whose pattern is anchored at multiples of 1024.
uint32_t address_of(const shim::Laid& laid, int step, int row, int k, bool along_rows) {
  const auto field = [&](int shift) { return static_cast<uint32_t>(laid.bits >> shift & 0x3fff) * 16; };
  const uint32_t leading = field(16), stride = field(32), mode = static_cast<uint32_t>(laid.bits >> 62);
  const auto r = static_cast<uint32_t>(row), c = static_cast<uint32_t>(k);
  uint32_t at = laid.starts[step];
  if (along_rows)
    at += r / 64 * leading + c / 8 * stride + c % 8 * 128 + r % 64 * 2;
  else if (mode == 0)
    at += c / 8 * leading + r / 8 * stride + r % 8 * 16 + c % 8 * 2;
  else
    at += r / 8 * stride + r % 8 * (256u >> mode) + c * 2;
  const uint32_t moved = mode == 1 ? 7 : mode == 2 ? 3 : mode == 3 ? 1 : 0;  // bits that are changed, from bit 4 on
  return at ^ (at >> 7 & moved) << 4;
}

TEST_CASE("instructions: tiles of wgmma lie where their descriptors' addresses say") {
  using shim::Swizzle;
  for (const int rows : {8, 64, 96, 256}) {
    const std::vector<uint16_t> values = shim::bf16_operand(shim::Values::ordinary, 7, rows, shim::n_k);
    const auto check = [&](const shim::Laid& laid, bool along_rows) {
      int wrong = 0;
      for (int k = 0; k < shim::n_k; ++k)
        for (int r = 0; r < rows; ++r) {
          const uint32_t at = address_of(laid, k / shim::k_step, r, k % shim::k_step, along_rows);
          uint16_t found = 0;
          REQUIRE(at + 2 <= laid.bytes.size());
          std::memcpy(&found, &laid.bytes[at], 2);
          wrong += found != values[static_cast<size_t>(r * shim::n_k + k)];
        }
      CHECK(wrong == 0);
    };
    CAPTURE(rows);
    for (const Swizzle swizzle : {Swizzle::none, Swizzle::bytes_32, Swizzle::bytes_64, Swizzle::bytes_128})
      check(shim::along_k(values, rows, swizzle, true), false);
    if (rows % 64 == 0) check(shim::along_rows(values, rows, true), true);
  }
}

}  // namespace signalbox::test
