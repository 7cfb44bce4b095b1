#include "base/safetensors.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("a written file reads back: names, shapes, bytes, metadata, alignment") {
  TemporaryDirectory directory;
  const std::vector<safetensors::TensorHeader> headers = {
      {"b", "F32", {2, 3}}, {"empty", "BF16", {0, 5}}, {"a", "U8", {5}}, {"scalar", "I64", {}}};
  const float b[6] = {1, 2, 3, 4, 5, 6};
  const uint8_t a[5] = {9, 8, 7, 6, 5};
  const int64_t scalar = -3;
  {
    safetensors::Writer writer(directory / "x.safetensors", headers, {{"key", "value \"quoted\""}});
    writer.write(b, 4);  // pieces of any size
    writer.write(b + 1, 20);
    writer.write(a, 5);
    writer.write(&scalar, 8);
    CHECK(writer.bytes_left() == 0);
    CHECK(!std::filesystem::exists(directory / "x.safetensors"));  // not under its name before it is whole
    writer.finish();
  }
  const auto file = safetensors::File::open(directory / "x.safetensors");
  REQUIRE(file->tensors().size() == 4);
  CHECK(file->metadata().at("key") == "value \"quoted\"");
  CHECK(std::memcmp(file->data(file->at("b")), b, sizeof b) == 0);
  CHECK(std::memcmp(file->data(file->at("a")), a, sizeof a) == 0);
  CHECK(std::memcmp(file->data(file->at("scalar")), &scalar, 8) == 0);
  CHECK(file->at("empty").elements() == 0);
  CHECK(file->at("scalar").elements() == 1);
  CHECK(file->at("b").shape == std::vector<int64_t>{2, 3});
  CHECK(file->at("b").type == DType::f32);
  CHECK((file->file_bytes() - file->data_bytes()) % 64 == 0);
  CHECK(file->aligned(file->at("b")));
  CHECK(!file->aligned(file->at("scalar")));  // after 29 bytes
  CHECK(file->find("c") == nullptr);
  CHECK_THROWS_WITH_AS(file->at("c"), doctest::Contains("expected the tensor \"c\""), Error);
}

TEST_CASE("a writer that is given up or given too much leaves nothing") {
  TemporaryDirectory directory;
  const std::vector<safetensors::TensorHeader> headers = {{"a", "U8", {4}}};
  {
    safetensors::Writer writer(directory / "x", headers);
    writer.write("ab", 2);
    CHECK_THROWS_AS(writer.finish(), Error);
    CHECK_THROWS_AS(writer.write("abc", 3), Error);
  }
  CHECK(std::filesystem::is_empty(directory.path()));
  CHECK_THROWS_AS(
      safetensors::make_header(std::vector<safetensors::TensorHeader>{{"a", "F32", {1}}, {"a", "F32", {1}}}), Error);
  CHECK_THROWS_AS(safetensors::make_header(std::vector<safetensors::TensorHeader>{{"a", "F99", {1}}}), Error);
  CHECK_THROWS_AS(safetensors::make_header(std::vector<safetensors::TensorHeader>{{"a", "F32", {-1}}}), Error);
  CHECK_THROWS_AS(safetensors::make_header(std::vector<safetensors::TensorHeader>{{"a", "F32", {INT64_MAX}}}), Error);
  CHECK_THROWS_AS(safetensors::make_header(std::vector<safetensors::TensorHeader>{{"__metadata__", "F32", {1}}}),
                  Error);
}

TEST_CASE("links to files open, links to nothing, directories and devices do not") {
  TemporaryDirectory directory;
  safetensors::Writer writer(directory / "real", {});
  writer.finish();
  std::filesystem::create_symlink("real", directory / "link");
  std::filesystem::create_symlink("link", directory / "chain");
  CHECK(safetensors::File::open(directory / "chain")->tensors().empty());
  std::filesystem::create_symlink("nothing", directory / "dangling");
  CHECK_THROWS_AS(safetensors::File::open(directory / "dangling"), Error);
  CHECK_THROWS_AS(safetensors::File::open(directory.path()), Error);
  CHECK_THROWS_AS(safetensors::File::open("/dev/null"), Error);
}

TEST_CASE("a file that shrinks after it was opened is noticed") {
  TemporaryDirectory directory;
  {
    safetensors::Writer writer(directory / "x", std::vector<safetensors::TensorHeader>{{"a", "U8", {4}}});
    writer.write("abcd", 4);
    writer.finish();
  }
  const auto file = safetensors::File::open(directory / "x");
  file->check_unchanged();
  REQUIRE(truncate((directory / "x").c_str(), 10) == 0);
  CHECK_THROWS_WITH_AS(file->check_unchanged(), doctest::Contains("as when it was opened, found 10"), Error);
}
