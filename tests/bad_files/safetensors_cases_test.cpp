// Bad safetensors files: each rule of the format, at its boundary and beyond.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "base/safetensors.h"
#include "tests/bad_files/files.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

struct Case {
  std::string name, bytes, expected;  // expected "": must open
};

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets, size_t data) {
  return safetensors_bytes("{\"a\":" + entry(dtype, shape, offsets) + "}", data);
}

std::string two(const std::string& a, const std::string& b, size_t data) {
  return safetensors_bytes("{\"a\":" + a + ",\"b\":" + b + "}", data);
}

std::string header(const std::string& text, size_t data = 0) { return safetensors_bytes(text, data); }

std::vector<Case> cases() {
  const std::string f32 = entry("F32", "[2]", "[0,8]");
  return {
      {"empty file", "", "at least 8 bytes, found 0"},
      {"one byte", "x", "at least 8 bytes, found 1"},
      {"seven bytes", std::string(7, '\0'), "at least 8 bytes, found 7"},
      {"length only, zero", std::string(8, '\0'), "JSON"},
      {"length beyond the file by one", safetensors_bytes("{}", 0, 3), "a header of 3 bytes, found 2"},
      {"length beyond the file", safetensors_bytes("{}", 0, 1000), "a header of 1000 bytes"},
      {"length at the limit", safetensors_bytes("{}", 0, 100'000'000), "a header of 100000000 bytes, found 2"},
      {"length above the limit", safetensors_bytes("{}", 0, 100'000'001), "at most 100000000"},
      {"length of 2^63", safetensors_bytes("{}", 0, INT64_MAX), "at most 100000000"},
      {"length of 2^64 - 1", std::string(8, '\xff') + "{}", "at most 100000000"},
      {"length that would wrap", std::string(1, '\xf8') + std::string(7, '\xff') + "{}", "at most 100000000"},
      {"no tensors", header("{}"), ""},
      {"leading white space", header(" \n\t{}"), ""},
      {"trailing white space", header("{} \n "), ""},
      {"trailing text", header("{}x"), "JSON"},
      {"two documents", header("{}{}"), "JSON"},
      {"trailing zero byte", header(std::string("{}\0", 3)), "a zero byte"},
      {"text after a zero byte", header(std::string("{}\0{", 4)), "a zero byte"},
      {"array header", header("[]"), "expected a JSON object as header, found an array"},
      {"number header", header("1"), "expected a JSON object"},
      {"null header", header("null"), "expected a JSON object"},
      {"truncated JSON", header("{\"a\":{"), "JSON"},
      {"comment", header("{/*x*/}"), "JSON"},
      {"invalid UTF-8", header("{\"\xff\":1}"), "JSON"},
      {"overlong UTF-8", header("{\"\xc0\xaf\":1}"), "JSON"},
      {"lone surrogate", header("{\"\\ud800\":1}"), "JSON"},
      {"deep nesting", header(std::string(5000, '[')), "128 levels"},
      {"data without tensors", header("{}", 1), "expected 0 bytes of data as the tensors say, found 1"},
      {"duplicate tensor", header("{\"a\":" + f32 + ",\"a\":" + f32 + "}", 8), "duplicate key \"a\""},
      {"duplicate dtype",
       header("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
       "duplicate key \"dtype\""},
      {"duplicate metadata", header("{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}}"), "duplicate key"},
      {"metadata number", header("{\"__metadata__\":{\"x\":1}}"), "__metadata__.x: expected a string, found 1"},
      {"metadata object", header("{\"__metadata__\":{\"x\":{}}}"), "__metadata__.x: expected a string"},
      {"metadata string", header("{\"__metadata__\":\"x\"}"), "__metadata__: expected an object"},
      {"metadata", header("{\"__metadata__\":{\"x\":\"1\"}}"), ""},
      {"tensor that is a number", header("{\"a\":1}"), "tensor \"a\": expected an object, found 1"},
      {"tensor that is null", header("{\"a\":null}"), "tensor \"a\""},
      {"no dtype", header("{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8), "the key \"dtype\", found none"},
      {"no shape", header("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8), "the key \"shape\", found none"},
      {"no offsets", header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8), "the key \"data_offsets\", found none"},
      {"unknown key", header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8),
       "unknown key \"x\""},
      {"dtype number", header("{\"a\":{\"dtype\":1,\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
       "dtype: expected a string"},
      {"dtype unknown", one("F33", "[2]", "[0,8]", 8), "dtype: expected a dtype of the format, found \"F33\""},
      {"dtype lower case", one("f32", "[2]", "[0,8]", 8), "found \"f32\""},
      {"dtype empty", one("", "[2]", "[0,8]", 8), "dtype: expected a dtype"},
      {"good", one("F32", "[2]", "[0,8]", 8), ""},
      {"scalar", one("F32", "[]", "[0,4]", 4), ""},
      {"empty tensor", one("F32", "[0]", "[0,0]", 0), ""},
      {"empty tensor of a huge other size", one("F32", "[0,9223372036854775807]", "[0,0]", 0), ""},
      {"rank 8", one("U8", "[1,1,1,1,1,1,1,1]", "[0,1]", 1), ""},
      {"rank 9", one("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]", 1), "at most 8 dimensions, found 9"},
      {"negative size", one("F32", "[-2]", "[0,8]", 8), "shape[0]: expected an integer from 0"},
      {"fractional size", one("F32", "[2.0]", "[0,8]", 8), "shape[0]: expected an integer, found 2.0"},
      {"exponent size", one("F32", "[2e0]", "[0,8]", 8), "shape[0]: expected an integer"},
      {"string size", one("F32", "[\"2\"]", "[0,8]", 8), "shape[0]: expected an integer"},
      {"null size", one("F32", "[null]", "[0,8]", 8), "shape[0]: expected an integer"},
      {"boolean size", one("F32", "[true]", "[0,8]", 8), "shape[0]: expected an integer"},
      {"size of 2^63", one("U8", "[9223372036854775808]", "[0,8]", 8), "shape[0]"},
      {"size of 2^64", one("U8", "[18446744073709551616]", "[0,8]", 8), "shape[0]: expected an integer"},
      {"product that overflows", one("F32", "[4294967296,4294967296]", "[0,8]", 8),
       "shape: expected a size of 64 bits"},
      {"product that wraps to 8", one("F32", "[2305843009213693952,8]", "[0,8]", 8),
       "shape: expected a size of 64 bits"},
      {"bits that overflow", one("F64", "[1152921504606846976]", "[0,8]", 8), "shape: expected a size of 64 bits"},
      {"shape object", one("F32", "{}", "[0,8]", 8), "shape: expected an array"},
      {"size too small by one", one("F32", "[1]", "[0,8]", 8), "expected 4 bytes for F32 [1], found 8"},
      {"size too large by one", one("F32", "[3]", "[0,8]", 8), "expected 12 bytes for F32 [3], found 8"},
      {"half a byte", one("F4", "[1]", "[0,1]", 1), "expected whole bytes, found 4 bits"},
      {"two halves", one("F4", "[2]", "[0,1]", 1), ""},
      {"six bits", one("F6_E2M3", "[2]", "[0,2]", 2), "expected whole bytes, found 12 bits"},
      {"offsets of one", one("F32", "[2]", "[0]", 8), "expected [begin, end], found 1 items"},
      {"offsets of three", one("F32", "[2]", "[0,8,8]", 8), "expected [begin, end], found 3 items"},
      {"offsets reversed", one("F32", "[2]", "[8,0]", 8), "expected begin <= end, found 8 > 0"},
      {"offsets negative", one("F32", "[2]", "[-8,0]", 8), "data_offsets[0]"},
      {"offsets fractional", one("F32", "[2]", "[0,8.0]", 8), "data_offsets[1]: expected an integer"},
      {"offsets of 2^64 - 1", one("F32", "[2]", "[0,18446744073709551615]", 8), "data_offsets[1]"},
      {"end beyond the data by one", one("U8", "[9]", "[0,9]", 8), "an end of at most 8"},
      {"end of 2^62", one("U8", "[4611686018427387904]", "[0,4611686018427387904]", 8), "an end of at most 8"},
      {"begin above 0", one("F32", "[2]", "[1,9]", 9), "expected a begin of 0"},
      {"byte after the tensors", one("F32", "[2]", "[0,8]", 9), "expected 8 bytes of data as the tensors say, found 9"},
      {"byte missing", one("F32", "[2]", "[0,8]", 7), "an end of at most 7"},
      {"two in order", two(f32, entry("F32", "[1]", "[8,12]"), 12), ""},
      {"two in the other order", two(entry("F32", "[2]", "[4,12]"), entry("F32", "[1]", "[0,4]"), 12), ""},
      {"a hole of one", two(f32, entry("U8", "[3]", "[9,12]"), 12), "expected a begin of 8"},
      {"an overlap of one", two(f32, entry("U8", "[5]", "[7,12]"), 12), "expected a begin of 8"},
      {"the same bytes twice", two(f32, f32, 8), "expected a begin of 8"},
      {"one inside the other", two(entry("U8", "[12]", "[0,12]"), entry("U8", "[2]", "[4,6]"), 12),
       "expected a begin of 12"},
      {"empty between", two(f32, entry("U8", "[0]", "[8,8]"), 8), ""},
      {"empty inside another", two(f32, entry("U8", "[0]", "[4,4]"), 8), "expected a begin of 8"},
      {"control character in a name", header("{\"a\\u0001\":" + f32 + "}", 8), "without control characters"},
      {"name of 1024 bytes", header("{\"" + std::string(1024, 'n') + "\":" + f32 + "}", 8), ""},
      {"name of 1025 bytes", header("{\"" + std::string(1025, 'n') + "\":" + f32 + "}", 8),
       "at most 1024 bytes, found 1025"},
      {"NaN in JSON", header("{\"a\":NaN}"), "JSON"},
      {"single quotes", header("{'a':1}"), "JSON"},
      {"trailing comma", header("{\"a\":" + f32 + ",}", 8), "JSON"},
      {"too many items", header("{\"a\":[" + std::string(8'000'002, ',') + "]}"), "at most 4000000 items"},
  };
}

}  // namespace

TEST_CASE("bad safetensors files are refused with the error they deserve") {
  TemporaryDirectory directory;
  for (const Case& test : cases()) {
    CAPTURE(test.name);
    std::string message[2];
    write_file(directory / "file.safetensors", test.bytes);
    for (int from_disk = 0; from_disk < 2; ++from_disk) {
      try {
        if (from_disk) {
          safetensors::File::open(directory / "file.safetensors");
        } else {
          safetensors::File::from_memory("file", std::as_bytes(std::span(test.bytes)));
        }
        message[from_disk] = "opened";
      } catch (const Error& error) {
        message[from_disk] = error.what();
      }
      CAPTURE(message[from_disk]);
      if (test.expected.empty()) {
        CHECK(message[from_disk] == "opened");
      } else {
        CHECK(good_message(message[from_disk], test.expected));
      }
    }
  }
}

TEST_CASE("every prefix and every flipped bit of the header is refused or opens as the same tensors") {
  const Files files = made_model(R"({"family":"mixtral","dtype":"f32","config":{"hidden_size":8,"num_hidden_layers":1,
    "num_attention_heads":2,"num_key_value_heads":2,"intermediate_size":4,"num_local_experts":2,"num_experts_per_tok":1,
    "vocab_size":8}})");
  const std::string& whole = files.at("model.safetensors");
  const auto original = safetensors::File::from_memory("whole", std::as_bytes(std::span(whole)));
  const auto opens = [](const std::string& bytes) -> std::shared_ptr<const safetensors::File> {
    try {
      return safetensors::File::from_memory("file", std::as_bytes(std::span(bytes)));
    } catch (const Error&) {
      return nullptr;
    }
  };
  int opened = 0;
  const size_t header_bytes = whole.size() - original->data_bytes();
  for (size_t n = 0; n < whole.size(); n += n < header_bytes + 64 ? 1 : 97)
    if (opens(whole.substr(0, n))) ++opened;
  CHECK(opened == 0);  // no prefix is a whole file
  int equal = 0, renamed = 0;
  for (size_t at = 0; at < header_bytes; ++at) {
    const int bit = static_cast<int>(at % 8);
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
    const auto file = opens(bytes);
    if (!file) continue;
    // What opens still tiles the data: sizes and offsets are as they were, only a name or a dtype of the same size
    // moved.
    REQUIRE(file->tensors().size() == original->tensors().size());
    bool same = true;
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      CHECK(file->tensors()[i].begin == original->tensors()[i].begin);
      CHECK(file->tensors()[i].bytes == original->tensors()[i].bytes);
      same = same && file->tensors()[i].name == original->tensors()[i].name;
    }
    (same ? equal : renamed) += 1;
  }
  CHECK(equal + renamed > 0);
}
