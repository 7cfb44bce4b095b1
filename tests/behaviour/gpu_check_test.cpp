// tools/gpu-check with packed binaries, as far as a machine without a GPU gets.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "base/json.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using test::Ran;

void write_script(const std::filesystem::path& path, const std::string& text) {
  test::write_file(path, text);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
}

// A pack whose programs are scripts: `works` false: they do not start. `kit`: what gpu_kit does.
void make_pack(const test::TemporaryDirectory& folder, bool works, const std::string& kit = "") {
  for (const char* name : {"signalbox", "gpu_tests", "gpu_kit"})
    write_script(folder / name, works ? "#!/bin/sh\necho '{\"version\": \"0\"}'\n" : "#!/nowhere/sh\n");
  if (!kit.empty()) write_script(folder / "gpu_kit", "#!/bin/sh\n" + kit);
  const Ran ran = test::run_command("cd " + folder.path().string() +
                                    " && tar cJf gpu-pack.tar.xz signalbox gpu_tests gpu_kit && printf "
                                    "'{\"commit\": \"0123456789abcdef\", \"archive_sha256\": \"%s\"}' "
                                    "\"$(sha256sum gpu-pack.tar.xz | cut -d' ' -f1)\" > manifest.json");
  REQUIRE(ran.code == 0);
}

// No machine has a device of this number.
Ran rehearse(const test::TemporaryDirectory& folder) {
  return test::run_command((test::source_dir() / "tools/gpu-check").string() + " --rehearse --device 99 --packed " +
                           folder.path().string() + " --out " + (folder / "out").string());
}

TEST_CASE("gpu-check: a packed run is rehearsed up to the first call of the device") {
  const test::TemporaryDirectory folder;
  make_pack(folder, true);
  const Ran ran = rehearse(folder);
  INFO(ran.out << ran.err);
  CHECK(ran.code == 0);
  const json::Value document = json::parse_file(folder / "out/gpu-check.json");
  CHECK(document.find("packed")->find("status")->string() == "passed");
  CHECK(document.find("device")->is_null());
  CHECK(!document.find("parts")->find("build"));
  for (const char* part : {"instructions", "hopper", "tests", "sanitizers", "micro", "kernels", "profile", "sweep"}) {
    CAPTURE(part);
    CHECK(document.find("parts")->find(part));
  }
  // The part that the others rest on is the first.
  CHECK(document.find("parts")->members().front().first == "instructions");
  REQUIRE(!document.find("predictions")->items().empty());
  for (const json::Value& prediction : document.find("predictions")->items())
    CHECK(prediction.find("found")->is_null());
  for (const auto& part : document.find("parts")->members()) CHECK(part.second.find("status")->string() == "no device");
}

TEST_CASE("gpu-check: binaries that do not start, and an archive that has changed") {
  const test::TemporaryDirectory folder;
  make_pack(folder, false);
  Ran ran = rehearse(folder);
  CHECK(ran.code == 1);
  CHECK(ran.err.find("expected binaries that start on this machine") != std::string::npos);
  test::write_file(folder / "gpu-pack.tar.xz", "something else");
  ran = rehearse(folder);
  CHECK(ran.code == 1);
  CHECK(ran.err.find("expected sha256") != std::string::npos);
}

TEST_CASE("gpu-check: a case of gpu_kit that fails takes no other along, and results are judged") {
  const test::TemporaryDirectory folder;
  const std::string
      answers = "echo '{\"instruction\":\"mbarrier\",\"operands\":\"answers\",\"seed\":0,\"n\":1,\"words\":\"",
      right = "000000010000000000000000000000010000000000000001000000000000000000000000000000010000000000000001\"}'",
      wrong = "000000000000000000000000000000010000000000000001000000000000000000000000000000010000000000000001\"}'";
  make_pack(folder, true,
            "case \"$1 $2\" in\n"
            "list*) echo '{\"hopper\": [\"fault\", \"mbarrier\"], \"micro\": [\"chain\"]}' ;;\n"
            "instr*) " +
                answers + right +
                " ;;\n"
                "*fault) echo 'error: an illegal address' >&2; exit 1 ;;\n"
                "*mbarrier) " +
                answers + wrong +
                " ;;\n"
                "*chain) echo '{\"micro\":\"empty_node\",\"method\":\"graph\",\"blocks\":1,\"microseconds\":1.5}'; "
                "printf '{\"micro\"' ;;\n"
                "esac\n");
  std::filesystem::create_directory(folder / "bin");
  write_script(
      folder / "bin/nvidia-smi",
      "#!/bin/sh\ncase \"$*\" in *compute_cap*) echo 'A GPU, 9.0, 143771, 580.1' ;; *) echo '1, 2, 3, 4, 5' ;; esac\n");
  const Ran ran = test::run_command(
      "PATH=" + (folder / "bin").string() + ":$PATH " + (test::source_dir() / "tools/gpu-check").string() +
      " --only instructions,hopper,micro --packed " + folder.path().string() + " --out " + (folder / "out").string());
  INFO(ran.out << ran.err);
  CHECK(ran.code == 1);
  const json::Value document = json::parse_file(folder / "out/gpu-check.json");
  const json::Value& parts = *document.find("parts");
  CHECK(parts.find("instructions")->find("status")->string() == "passed");
  CHECK(parts.find("hopper")->find("status")->string() == "failed");
  CHECK(parts.find("hopper")->find("cases")->find("fault")->string() == "failed: error: an illegal address");
  CHECK(parts.find("hopper")->find("cases")->find("mbarrier")->string() == "passed");
  REQUIRE(parts.find("micro")->find("status")->string() == "passed");
  CHECK(parts.find("micro")->find("results")->items().size() == 1);  // a line that was cut off is none
  const json::Value& verdicts = *document.find("verdicts");
  CHECK(verdicts.find("instructions")->find("wrong")->items().empty());
  REQUIRE(verdicts.find("hopper")->find("wrong")->items().size() == 1);
  CHECK(verdicts.find("hopper")->find("wrong")->items()[0].string() ==
        "mbarrier answers: 1 wrong: word 0: expected 00000001, found 00000000");
  const json::Value& empty_node = document.find("predictions")->items()[0];
  CHECK(empty_node.find("found")->real() == 1.5);
  CHECK(empty_node.find("ratio")->real() == 1.25);
}

}  // namespace
