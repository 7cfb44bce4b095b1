// Files that replace others together: whenever a process is killed, what stands is the old set or the new one.
#include "eval/store/staged_files.h"

#include <doctest/doctest.h>

#include <map>
#include <string>

#include "base/error.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

const std::vector<std::string> names = {"a.csv", "b.csv", "c.json"};

std::map<std::string, std::string> files_of(const fs::path& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(dir))
    if (entry.is_regular_file()) files[entry.path().lexically_relative(dir)] = read_file(entry.path());
  return files;
}

using Files = std::map<std::string, std::string>;
const Files before = {{"a.csv", "old a"}, {"b.csv", "old b"}, {"mine.txt", "mine"}};
const Files after = {{"a.csv", "new a"}, {"c.json", "new c"}, {"mine.txt", "mine"}};

void write_before(const fs::path& dir) {
  for (const auto& [name, text] : before) write_file(dir / name, text);
}

std::string complaint_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("staged files: all of them or none, and those that the new set lacks go") {
  TemporaryDirectory dir;
  write_before(dir.path());
  {
    StagedFiles files(dir.path(), names);
    write_file(files.path() / "a.csv", "new a");
    // Left without commit(): an Error is on its way.
  }
  CHECK(files_of(dir.path()) == before);
  {
    StagedFiles files(dir.path(), names);
    write_file(files.path() / "a.csv", "new a");
    write_file(files.path() / "c.json", "new c");
    CHECK(complaint_of([&] { StagedFiles(dir.path(), names); }).find("in use by process") != std::string::npos);
    files.commit();
  }
  CHECK(files_of(dir.path()) == after);
  StagedFiles files(dir / "made", names);
  write_file(files.path() / "other", "x");
  CHECK(complaint_of([&] { files.commit(); }).find("expected a file of the set, found another") != std::string::npos);
}

// What a process that is killed at any step leaves, made by hand.
TEST_CASE("staged files: a replacement that was cut short comes to its end, one that was not yet whole to nothing") {
  const auto list = R"({"files":["a.csv","c.json"],"gone":["b.csv"]})";
  for (int moved = 0; moved <= 3; ++moved) {
    CAPTURE(moved);
    TemporaryDirectory dir;
    write_before(dir.path());
    const fs::path whole = dir / "new-files";
    fs::create_directory(whole);
    write_file(whole / "new-files.json", list);
    write_file((moved > 0 ? dir.path() : whole) / "a.csv", "new a");
    write_file((moved > 1 ? dir.path() : whole) / "c.json", "new c");
    if (moved > 2) fs::remove(dir / "b.csv");
    { const StagedFiles files(dir.path(), {"a.csv"}); }  // one that knows of other names
    CHECK(files_of(dir.path()) == after);
  }
  TemporaryDirectory dir;
  write_before(dir.path());
  fs::create_directory(dir / "new-files.part");
  write_file(dir / "new-files.part/a.csv", "half of a");
  write_file(dir / "new-files.part/new-files.json", list);
  { const StagedFiles files(dir.path(), names); }
  CHECK(files_of(dir.path()) == before);

  fs::create_directory(dir / "new-files");
  write_file(dir / "new-files/new-files.json", R"({"files":["../a"],"gone":[]})");
  CHECK(complaint_of([&] { StagedFiles(dir.path(), names); }).find("files[0]: expected the name of a file") !=
        std::string::npos);
}
