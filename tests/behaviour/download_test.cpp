// signalbox download with tools of our own in place of the hub's. Nothing here opens a connection.
#include <doctest/doctest.h>

#include <filesystem>

#include "tests/support.h"

using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

// A PATH of one folder, in which a tool of that name prints its arguments and exits with 7.
struct Tools {
  TemporaryDirectory directory;
  void add(const std::string& name, const std::string& help) {
    const fs::path file = directory / name;
    write_file(file, "#!/bin/sh\nif [ \"$2\" = --help ]; then printf '%s\\n' '" + help +
                         "'; exit 0; fi\nfor word in \"$@\"; do printf '[%s]' \"$word\"; done\nexit 7\n");
    fs::permissions(file, fs::perms::owner_all);
  }
  Ran download(const std::string& arguments) const {
    return run_command("PATH=" + directory.path().string() + " " + binary() + " download " + arguments);
  }
};

const std::string new_help = "--include TEXT  Glob patterns\n--dry-run", old_help = "[--include [INCLUDE ...]]";

}  // namespace

TEST_CASE("download: runs the hub's tool for the files that are read, says so, and passes its exit code on") {
  Tools tools;
  tools.add("hf", new_help);
  tools.add("huggingface-cli", old_help);
  const Ran ran = tools.download("allenai/OLMoE-1B-7B-0924-Instruct --revision refs/pr/1");
  CHECK(ran.code == 7);
  CHECK(
      ran.out.starts_with("[download][allenai/OLMoE-1B-7B-0924-Instruct][--revision][refs/pr/1][--include][config.json]"
                          "[--include][generation_config.json]"));
  CHECK(ran.out.find("[--include][model-*.safetensors]") != std::string::npos);
  CHECK(ran.out.find("--dry-run") == std::string::npos);
  CHECK(ran.err.find("signalbox: runs hf download allenai/OLMoE-1B-7B-0924-Instruct --revision refs/pr/1 --include "
                     "config.json --include generation_config.json") == 0);
  CHECK(ran.err.find("'model-*.safetensors'") != std::string::npos);
  CHECK(ran.err.find("size about 13.84 GB") != std::string::npos);  // 6,919,161,856 parameters of 2 bytes
  const Ran dry = tools.download("org/name@v1 --dry-run --quiet");
  CHECK(dry.out.starts_with("[download][org/name][--revision][v1]"));
  CHECK(dry.out.ends_with("[--dry-run]"));
  CHECK(dry.err.empty());
}

TEST_CASE("download: the older tool takes one list, and sizes are told where they are known") {
  Tools tools;
  tools.add("huggingface-cli", old_help);
  const Ran ran = tools.download("openai/gpt-oss-20b");
  CHECK(ran.out.starts_with("[download][openai/gpt-oss-20b][--include][config.json][generation_config.json]"));
  CHECK(ran.err.find("runs huggingface-cli download openai/gpt-oss-20b --include config.json") != std::string::npos);
  CHECK(ran.err.find("size about 13.7") != std::string::npos);
  CHECK(tools.download("Qwen/Qwen3-30B-A3B-FP8").err.find("size not known") != std::string::npos);
  CHECK(tools.download("org/name").err.find("size not known") != std::string::npos);
  const Ran dry = tools.download("org/name --dry-run");
  CHECK(dry.code == 1);
  CHECK(dry.err.find("--dry-run: expected a tool that knows it, found ") != std::string::npos);
}

TEST_CASE("download: without a tool, or with one that is too old or gone, one line that says what to install") {
  Tools tools;
  const Ran none = tools.download("org/name");
  CHECK(none.code == 1);
  CHECK(none.out.empty());
  CHECK(none.err ==
        "signalbox: error: download: expected hf or huggingface-cli on PATH, found neither; pip install -U "
        "huggingface_hub brings it\n");
  tools.add("huggingface-cli", "is deprecated and no longer works. Use hf instead");
  CHECK(tools.download("org/name").err.find("huggingface-cli, whose download command has no --include; pip install") !=
        std::string::npos);
  for (const char* bad : {"name", "../x", "org/name/more", "'org/na me'", "org/name@v1 --revision v2", "'org/name@'"}) {
    CAPTURE(bad);
    CHECK(tools.download(bad).code == 2);
  }
}

TEST_CASE("download: a model that is not in the cache is refused with the command that gets it") {
  const TemporaryDirectory empty;
  const auto refusal = [&](const std::string& model) {
    return run_command("HF_HUB_CACHE=" + empty.path().string() + " " + binary() + " generate " + model + " --prompt x")
        .err;
  };
  CHECK(refusal("org/name@v1").find("found neither; signalbox download org/name --revision v1 gets it") !=
        std::string::npos);
  CHECK(refusal("org/name").find("found neither; signalbox download org/name gets it") != std::string::npos);
  CHECK(refusal("builtn").find("download") == std::string::npos);
}
