#include "tests/causal/resume.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <map>

#include "base/json.h"
#include "tests/kills.h"
#include "tests/support.h"

namespace signalbox::test {

namespace fs = std::filesystem;

namespace {

// Name and bytes of all files of the end.
std::map<std::string, std::string> files_of(const fs::path& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name != "manifest.json" && name != "log.txt") files[name] = read_file(entry.path());
  }
  return files;
}

void check_same(const fs::path& dir, const std::map<std::string, std::string>& expected) {
  const std::map<std::string, std::string> found = files_of(dir);
  CHECK(found.size() == expected.size());
  for (const auto& [file, bytes] : expected) {
    const std::string name = file;  // clang captures no structured binding
    const auto same = found.find(name);
    CHECK_MESSAGE((same != found.end() && same->second == bytes), name);
  }
}

std::string quoted(const std::vector<std::string>& words) {
  std::string text = binary();
  for (const std::string& word : words) text += " '" + word + "'";
  return text;
}

}  // namespace

void check_goes_on(const std::vector<std::string>& words, const std::string& stage, const std::string& summary_file) {
  const TemporaryDirectory scratch;
  const auto command = [&](const char* dir) { return quoted(words) + " --out " + (scratch / dir).string(); };
  const Ran whole = run_command(command("whole"));
  REQUIRE_MESSAGE(whole.code == 0, whole.err);
  const auto expected = files_of(scratch / "whole");
  CHECK(expected.size() >= 2);
  // Every table says of what it is, or that there is none.
  const json::Value summary = json::parse(expected.at(summary_file), summary_file);
  for (const char* key : {"metric", "ablation", "reference", "split", "seed"}) CHECK_MESSAGE(summary.find(key), key);
  const std::vector<std::string> lines = lines_of(read_file(scratch / "whole" / stage));
  REQUIRE(lines.size() >= 2);
  const size_t known = lines.size() / 2;
  std::string text;
  for (size_t i = 0; i < known; ++i) text += lines[i] + "\n";
  fs::create_directories((scratch / "killed" / stage).parent_path());
  write_file(scratch / "killed" / stage, text + lines[known].substr(0, lines[known].size() / 2));
  std::string manifest = read_file(scratch / "whole/manifest.json");
  const std::string complete = "\"status\": \"complete\"", running = "\"status\": \"running\"";
  const size_t at = manifest.find(complete);
  REQUIRE(at != std::string::npos);
  write_file(scratch / "killed/manifest.json", manifest.replace(at, complete.size(), running));
  const Ran ran = run_command(command("killed"));
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  // Where it is known how much there is to do: "2 of 5 pairs".
  const bool all_known = ran.err.find(" results of runs") == std::string::npos;
  const std::string told =
      "kept: " + std::to_string(known) + (all_known ? " of " + std::to_string(lines.size()) : "") + " ";
  CHECK_MESSAGE(ran.err.find(told) != std::string::npos, ran.err);
  std::string out = ran.out;  // but for the name of its directory
  for (size_t at = out.find("/killed"); at != std::string::npos; at = out.find("/killed")) out.replace(at, 7, "/whole");
  CHECK(out == whole.out);
  check_same(scratch / "killed", expected);
}

void check_kills(const std::vector<std::string>& words, const std::string& dir, uint64_t seed) {
  fs::remove_all(dir);
  const double seconds = seconds_of(words);
  const auto expected = files_of(dir);
  CHECK(expected.size() >= 2);
  fs::remove_all(dir);
  run_with_kills(words, seconds, seed);
  check_same(dir, expected);
}

}  // namespace signalbox::test
