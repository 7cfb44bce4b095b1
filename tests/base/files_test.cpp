// Whole files: old or new but never in pieces, nothing left behind, one rule for what a killed writer leaves.
#include "base/files.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/safetensors.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

int n_entries(const fs::path& dir) {
  int n = 0;
  for (const auto& entry : fs::directory_iterator(dir)) n += entry.exists() ? 1 : 0;
  return n;
}

}  // namespace

TEST_CASE("an atomic file is the old one until it is committed") {
  const TemporaryDirectory dir;
  write_file(dir / "a.txt", "old");
  {
    AtomicFile file(dir / "a.txt");
    file.write("new ");
    file.write(std::string(size_t{3} << 20, 'x'));  // more than the buffer
    file.write(" end");
    CHECK(read_file(dir / "a.txt") == "old");
    CHECK(n_entries(dir.path()) == 2);
    file.sync();
    CHECK(read_file(dir / "a.txt") == "old");
    file.commit();
  }
  CHECK(read_file(dir / "a.txt") == "new " + std::string(size_t{3} << 20, 'x') + " end");
  CHECK(n_entries(dir.path()) == 1);
  {
    AtomicFile file(dir / "a.txt");
    file.write("lost");
  }
  CHECK(read_file(dir / "a.txt").starts_with("new "));
  CHECK(n_entries(dir.path()) == 1);
}

TEST_CASE("an atomic file takes bytes at offsets, in any order") {
  const TemporaryDirectory dir;
  {
    AtomicFile file(dir / "b");
    file.write_at(4, "cd", 2);
    file.write_at(0, "abAB", 4);
    file.commit();
  }
  CHECK(read_file(dir / "b") == "abABcd");
}

TEST_CASE("an atomic file that cannot be made or renamed says which and leaves nothing") {
  const TemporaryDirectory dir;
  const std::string absent = (dir / "absent/c").string();
  CHECK_THROWS_WITH_AS(AtomicFile{absent}, (absent + ": cannot create the file: No such file or directory").c_str(),
                       Error);
  fs::create_directory(dir / "d");
  write_file(dir / "d/inside", "x");
  const std::string taken = (dir / "d").string();
  CHECK_THROWS_WITH_AS(write_file_atomically(taken, "text"),
                       (taken + ": cannot rename the finished file: Is a directory").c_str(), Error);
  CHECK(n_entries(dir.path()) == 1);
  // A file without a directory in its name lies in the current one.
  const Ran ran = run_command("cd " + dir.path().string() + " && " + binary() +
                              " data structural --n 1 --steps 2 --seed 1 --out e.jsonl && ls");
  CHECK(ran.out == "d\ne.jsonl\n");
}

TEST_CASE("an unfinished safetensors file leaves the old one") {
  const TemporaryDirectory dir;
  const std::vector<safetensors::TensorHeader> headers = {{"x", "U8", {3}}};
  write_file(dir / "x.safetensors", "old");
  {
    safetensors::Writer writer(dir / "x.safetensors", headers);
    writer.write("ab", 2);
    CHECK_THROWS_WITH_AS(writer.finish(), doctest::Contains("expected 1 more bytes of data, found the end"), Error);
  }
  CHECK(read_file(dir / "x.safetensors") == "old");
  CHECK(n_entries(dir.path()) == 1);
}

TEST_CASE("names of temporary files") {
  for (const char* name : {"a.tmp-1", "manifest.json.tmp-12345", ".trace-spool-9", "x.tmp-a.tmp-7"}) {
    CAPTURE(name);
    CHECK(is_temporary_name(name));
  }
  for (const char* name : {"a.tmp-", "a.tmp-1x", "a.tmp", "tmp-1", "a.partial", ".trace-spool-", "trace-spool-1"}) {
    CAPTURE(name);
    CHECK(!is_temporary_name(name));
  }
}

TEST_CASE("bytes at an offset, and the end of a file") {
  const TemporaryDirectory dir;
  const int file = open_unnamed(dir.path(), "spool");
  CHECK(n_entries(dir.path()) == 0);
  write_at(file, 2, "cdef", 4, "spool");
  write_at(file, 0, "ab", 2, "spool");
  char found[4] = {};
  read_at(file, 1, found, 4, "spool");
  CHECK(std::string(found, 4) == "bcde");
  CHECK_THROWS_WITH_AS(read_at(file, 4, found, 4, "spool"), "spool: expected 2 more bytes, found the end", Error);
  ::close(file);
}
