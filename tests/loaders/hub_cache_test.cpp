// org/name[@revision] in a cache laid out as huggingface_hub does.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>

#include "loaders/model/load.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

const std::string commit(40, 'a'), other(40, 'b');

// A cache of one repository, whose snapshot links into blobs/ as the hub's does.
struct Cache {
  TemporaryDirectory root;
  fs::path repository = root.path() / "hub" / "models--org--name";
  fs::path snapshot = repository / "snapshots" / commit;

  Cache() {
    TemporaryDirectory made;
    synthetic::make_model(json::parse(R"({"family":"mixtral"})", "spec"), "spec", made.path());
    fs::create_directories(snapshot);
    fs::create_directories(repository / "blobs");
    fs::create_directories(repository / "refs" / "pr");
    int blob = 0;
    for (const auto& entry : fs::directory_iterator(made.path())) {
      const std::string hash = "blob" + std::to_string(blob++);
      fs::copy_file(entry.path(), repository / "blobs" / hash);
      fs::create_symlink("../../blobs/" + hash, snapshot / entry.path().filename());
    }
    write_file(repository / "refs" / "main", commit);
    write_file(repository / "refs" / "v1.0", commit + "\n");
    write_file(repository / "refs" / "pr" / "1", commit);
    setenv("HF_HUB_CACHE", (root.path() / "hub").c_str(), 1);
  }
  ~Cache() { unsetenv("HF_HUB_CACHE"); }
};

std::string message(const std::string& model) {
  try {
    load_config(model);
  } catch (const Error& error) {
    return error.what();
  }
  return "loaded";
}

}  // namespace

TEST_CASE("names, revisions and commits are found in the cache") {
  Cache cache;
  for (const std::string revision : {"", "@main", "@v1.0", "@pr/1"}) {
    CAPTURE(revision);
    const ResolvedModel resolved = resolve_model("org/name" + revision);
    CHECK(resolved.commit == commit);
    CHECK(resolved.path == cache.snapshot.string());
  }
  CHECK(resolve_model("org/name@" + commit).commit == commit);
  CHECK(load_model("org/name").family == "mixtral");
  // $HF_HOME/hub comes after $HF_HUB_CACHE.
  unsetenv("HF_HUB_CACHE");
  setenv("HF_HOME", cache.root.path().c_str(), 1);
  CHECK(message("org/name") == "loaded");
  unsetenv("HF_HOME");
}

TEST_CASE("what the cache lacks is said") {
  Cache cache;
  CHECK(message("org/other").find("found neither") != std::string::npos);
  CHECK(message("org/name@v2").find("refs/v2, found none") != std::string::npos);
  CHECK(message("org/name@" + other).find("expected the snapshot") != std::string::npos);
  CHECK(message("org/name@../main").find("found none of them") != std::string::npos);
  write_file(cache.repository / "refs" / "bad", "../../../etc");
  CHECK(message("org/name@bad").find("expected a commit of 40 hex digits") != std::string::npos);
}

TEST_CASE("an incomplete snapshot is refused") {
  SUBCASE("a link whose blob is gone") {
    Cache cache;
    fs::remove(fs::canonical(cache.snapshot / "model.safetensors"));
    CHECK(message("org/name").find("model.safetensors: expected a file, found a link to nothing") != std::string::npos);
  }
  SUBCASE("a file that the commit's list has") {
    Cache cache;
    fs::create_directories(cache.repository / "trees");
    write_file(
        cache.repository / "trees" / (commit + ".json"),
        R"({"format_version":1,"files":{"tokenizer.json":{"size":3,"blob_id":"x"},"picture.png":{"size":1,"blob_id":"y"}}})");
    CHECK(message("org/name").find("tokenizer.json: expected a file that the commit has") != std::string::npos);
    write_file(cache.snapshot / "tokenizer.json", "{}");
    CHECK(message("org/name").find("tokenizer.json: expected 3 bytes as the commit has, found 2") != std::string::npos);
    write_file(cache.snapshot / "tokenizer.json", "{ }");
    CHECK(message("org/name") == "loaded");
  }
}
