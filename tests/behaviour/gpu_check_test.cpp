// tools/gpu-check with packed binaries, as far as a machine without a GPU gets.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "base/json.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using test::Ran;

// A pack whose programs are scripts: `works` false: they do not start.
void make_pack(const test::TemporaryDirectory& folder, bool works) {
  for (const char* name : {"signalbox", "gpu_tests"}) {
    test::write_file(folder / name, works ? "#!/bin/sh\necho '{\"version\": \"0\"}'\n" : "#!/nowhere/sh\n");
    std::filesystem::permissions(folder / name, std::filesystem::perms::owner_all);
  }
  const Ran ran = test::run_command("cd " + folder.path().string() +
                                    " && tar cJf gpu-pack.tar.xz signalbox gpu_tests && printf "
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
  REQUIRE(document.find("parts")->find("tests"));
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

}  // namespace
