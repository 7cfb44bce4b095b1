// Hashes of files: those of the bytes, remembered while the file is the same, and never after it changed.
#include "base/file_hash.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/sha256.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

constexpr HashCache::Keep everything{0, 0};

// Bytes that were read, not remembered: a file that the cache knows is done in one call.
struct Counted {
  std::string hash;
  int calls = 0;
  uint64_t bytes = 0;
};
Counted hash_counted(const fs::path& file, const HashCache& cache) {
  Counted counted;
  counted.hash = hash_file(file, cache, [&](uint64_t n) {
    ++counted.calls;
    counted.bytes += n;
  });
  return counted;
}

// So long that a clock of the file system ticks.
void wait() { std::this_thread::sleep_for(std::chrono::milliseconds(40)); }

fs::path only_entry(const fs::path& dir) {
  fs::path found;
  int n = 0;
  for (const auto& entry : fs::directory_iterator(dir)) found = entry.path(), ++n;
  REQUIRE(n == 1);
  return found;
}

}  // namespace

TEST_CASE("the hash of a file of several blocks is that of its bytes") {
  const TemporaryDirectory dir;
  std::string text(size_t{20} << 20, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 11);
  write_file(dir / "a", text);
  const Counted counted = hash_counted(dir / "a", HashCache(""));
  CHECK(counted.hash == sha256_hex(text));
  CHECK(counted.calls == 3);
  CHECK(counted.bytes == text.size());
  write_file(dir / "b", "");
  CHECK(hash_file(dir / "b", HashCache("")) == sha256_hex(""));
}

TEST_CASE("a remembered hash serves while the file is the same") {
  const TemporaryDirectory dir;
  const HashCache cache(dir / "cache/hashes", everything);
  const std::string text(size_t{9} << 20, 'x');
  write_file(dir / "a", text);
  CHECK(hash_counted(dir / "a", cache).calls == 2);
  CHECK(hash_counted(dir / "a", cache).calls == 1);
  CHECK(hash_counted(dir / "a", cache).hash == sha256_hex(text));
  // Through a link it is the same file; a copy is another.
  fs::create_symlink(dir / "a", dir / "link");
  CHECK(hash_counted(dir / "link", cache).calls == 1);
  fs::copy_file(dir / "a", dir / "copy");
  CHECK(hash_counted(dir / "copy", cache).calls == 2);
}

TEST_CASE("a changed file is seen, with its size and mtime restored too") {
  const TemporaryDirectory dir;
  const HashCache cache(dir / "cache", everything);
  write_file(dir / "a", std::string(1000, 'x'));
  CHECK(hash_file(dir / "a", cache) == sha256_hex(std::string(1000, 'x')));
  wait();
  write_file(dir / "a", std::string(1001, 'x'));  // another size
  CHECK(hash_file(dir / "a", cache) == sha256_hex(std::string(1001, 'x')));
  struct stat before {};
  REQUIRE(::stat((dir / "a").c_str(), &before) == 0);
  wait();
  write_file(dir / "a", std::string(1001, 'y'));  // the same size
  const timespec times[2] = {before.st_atim, before.st_mtim};
  REQUIRE(::utimensat(AT_FDCWD, (dir / "a").c_str(), times, 0) == 0);
  struct stat after {};
  REQUIRE(::stat((dir / "a").c_str(), &after) == 0);
  CHECK(after.st_mtim.tv_sec == before.st_mtim.tv_sec);
  CHECK(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
  CHECK(after.st_ino == before.st_ino);
  CHECK(hash_file(dir / "a", cache) == sha256_hex(std::string(1001, 'y')));
  // Another file put in its place.
  wait();
  write_file(dir / "b", std::string(1001, 'z'));
  REQUIRE(::utimensat(AT_FDCWD, (dir / "b").c_str(), times, 0) == 0);
  fs::rename(dir / "b", dir / "a");
  CHECK(hash_file(dir / "a", cache) == sha256_hex(std::string(1001, 'z')));
}

TEST_CASE("a file that has just changed is not remembered, nor a small one") {
  const TemporaryDirectory dir;
  write_file(dir / "a", "text");
  CHECK(hash_file(dir / "a", HashCache(dir / "cache", {0, 2'000'000'000})) == sha256_hex("text"));
  CHECK(hash_file(dir / "a", HashCache(dir / "cache", {5, 0})) == sha256_hex("text"));
  CHECK(!fs::exists(dir / "cache"));
}

TEST_CASE("a damaged cache does no harm") {
  const TemporaryDirectory dir;
  const HashCache cache(dir / "cache", everything);
  write_file(dir / "a", "text");
  CHECK(hash_file(dir / "a", cache) == sha256_hex("text"));
  const fs::path entry = only_entry(dir / "cache");
  const std::string good = read_file(entry);
  std::string other = good;
  other.replace(other.find(sha256_hex("text")), 64, std::string(64, 'G'));
  for (const std::string& bad : {std::string(), std::string("{"), std::string("[1]"), std::string(100, '\0'),
                                 good.substr(0, good.size() / 2), other}) {
    CAPTURE(bad);
    write_file(entry, bad);
    CHECK(hash_file(dir / "a", cache) == sha256_hex("text"));
    CHECK(read_file(entry) == good);  // mended
  }
}

TEST_CASE("without a cache directory that can be written files are hashed all the same") {
  const TemporaryDirectory dir;
  write_file(dir / "a", "text");
  write_file(dir / "file", "in the way");
  CHECK(hash_file(dir / "a", HashCache(dir / "file/cache", everything)) == sha256_hex("text"));
  CHECK(hash_file(dir / "a", HashCache("/proc/cache", everything)) == sha256_hex("text"));
  CHECK(hash_file(dir / "a", HashCache("", everything)) == sha256_hex("text"));
  CHECK_THROWS_WITH_AS(hash_file(dir / "none", HashCache("")), doctest::Contains("cannot open the file: No such"),
                       Error);
  CHECK_THROWS_WITH_AS(hash_file(dir.path(), HashCache("")), doctest::Contains("expected a regular file"), Error);
}
