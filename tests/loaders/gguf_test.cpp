#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "loaders/gguf/dense_model.h"
#include "loaders/gguf/gguf_file.h"
#include "loaders/gguf/tokenizer_files.h"
#include "loaders/tokenizer/tokenizer.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

// A GGUF file as it is put together.
struct Bytes {
  std::string text;
  template <class T>
  Bytes& put(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& word(const std::string& value) {
    put<uint64_t>(value.size());
    text += value;
    return *this;
  }
  Bytes& start(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    text += "GGUF";
    return put(version).put(tensors).put(keys);
  }
  Bytes& key(const std::string& name, uint32_t type) { return word(name).put(type); }
  Bytes& tensor(const std::string& name, std::vector<uint64_t> sizes, uint32_t type, uint64_t offset) {
    word(name).put(static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) put(size);
    return put(type).put(offset);
  }
  Bytes& data(size_t bytes) {
    text.resize((text.size() + 31) / 32 * 32);
    text.resize(text.size() + bytes, '\1');
    return *this;
  }
  std::shared_ptr<const gguf::File> open() const {
    return gguf::File::from_memory("x.gguf", std::as_bytes(std::span(text.data(), text.size())));
  }
};

std::string refusal(const Bytes& bytes) {
  try {
    bytes.open();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string unhex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2) out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

json::Value golden() { return json::parse_file(source_dir() / "tests/train/upcycle.json"); }

}  // namespace

TEST_CASE("gguf: keys of all types, arrays in arrays, both versions") {
  for (const uint32_t version : {2u, 3u}) {
    Bytes bytes;
    bytes.start(0, 14, version);
    bytes.key("u8", 0).put<uint8_t>(200).key("i8", 1).put<int8_t>(-5);
    bytes.key("u16", 2).put<uint16_t>(60000).key("i16", 3).put<int16_t>(-600);
    bytes.key("u32", 4).put<uint32_t>(4000000000u).key("i32", 5).put<int32_t>(-7);
    bytes.key("f32", 6).put(1.5f).key("yes", 7).put<uint8_t>(1).key("text", 8).word("déjà");
    bytes.key("list", 9).put<uint32_t>(8).put<uint64_t>(2).word("a").word("");
    bytes.key("deep", 9).put<uint32_t>(9).put<uint64_t>(1).put<uint32_t>(5).put<uint64_t>(2).put(1).put(-2);
    bytes.key("u64", 10).put<uint64_t>(UINT64_MAX).key("i64", 11).put<int64_t>(INT64_MIN).key("f64", 12).put(0.1);
    const auto file = bytes.open();
    CHECK(file->version() == version);
    CHECK(file->metadata().size() == 14);
    CHECK(file->integer("u8", 0, 255) == 200);
    CHECK(file->integer("i8", -128, 127) == -5);
    CHECK(file->integer("u16", 0, 65535) == 60000);
    CHECK(file->integer("i16", -1000, 0) == -600);
    CHECK(file->integer("u32", 0, INT64_MAX) == 4000000000);
    CHECK(file->integer("i32", -10, 10) == -7);
    CHECK(file->integer("i64", INT64_MIN, 0) == INT64_MIN);
    CHECK(std::get<uint64_t>(file->metadata().at("u64").of) == UINT64_MAX);
    CHECK(file->number("f32") == 1.5);
    CHECK(file->number("f64") == 0.1);
    CHECK(file->boolean("yes", false));
    CHECK(file->boolean("no", true));
    CHECK(file->string("text") == "déjà");
    CHECK(file->strings("list") == std::vector<std::string_view>{"a", ""});
    const auto& deep = std::get<std::vector<gguf::Value>>(file->metadata().at("deep").of);
    CHECK(std::get<int64_t>(std::get<std::vector<gguf::Value>>(deep.at(0).of).at(1).of) == -2);
    CHECK_THROWS_WITH_AS(file->integer("u64", 0, 5), doctest::Contains("found a larger one"), Error);
    CHECK_THROWS_WITH_AS(file->integer("u8", 0, 5), doctest::Contains("from 0 to 5, found 200"), Error);
    CHECK_THROWS_WITH_AS(file->integer("text", 0, 5), doctest::Contains("found a text"), Error);
    CHECK_THROWS_WITH_AS(file->string("none"), "x.gguf: expected the key \"none\", found none", Error);
    CHECK_THROWS_WITH_AS(file->strings("deep"), doctest::Contains("found an array in it"), Error);
  }
}

TEST_CASE("gguf: every stored type gives the values that the gguf package reads") {
  const json::Value root = golden();
  const std::pair<const char*, uint32_t> types[] = {{"Q4_0", 2}, {"Q4_1", 3}, {"Q8_0", 8}, {"F16", 1}, {"BF16", 30}};
  for (const auto& [name, type] : types) {
    const json::Value& block = *root.find("blocks")->find(name);
    const std::string stored = unhex(block.find("bytes")->string());
    Bytes bytes;
    bytes.start(1, 0).tensor("t", {64}, type, 0).data(0);
    bytes.text += stored;
    const auto file = bytes.open();
    const std::vector<float> values = file->dequantise(file->tensors().front());
    const auto& expected = block.find("values")->items();
    REQUIRE(values.size() == expected.size());
    for (size_t i = 0; i < values.size(); ++i) CHECK(values[i] == static_cast<float>(expected[i].real()));
    float half[32];
    file->dequantise(file->tensors().front(), 32, 32, half);
    CHECK(std::memcmp(half, values.data() + 32, sizeof half) == 0);
  }
}

TEST_CASE("gguf: what is wrong is told in one line") {
  CHECK(refusal(Bytes()) == "x.gguf: expected a GGUF file (it begins with \"GGUF\"), found other bytes");
  CHECK(refusal(Bytes().start(0, 0, 1)) == "x.gguf: expected version 2 or 3 of the format, found 1");
  CHECK(refusal(Bytes().start(0, 0, 0x03000000)).ends_with("found a big-endian file"));
  CHECK(refusal(Bytes().start(uint64_t{1} << 60, 0))
            .ends_with("expected at most 0 tensors, found a count of " + std::to_string(uint64_t{1} << 60)));
  CHECK(refusal(Bytes().start(0, 99)).ends_with("expected at most 0 keys, found a count of 99"));
  Bytes array;
  array.start(0, 1).key("a", 9).put<uint32_t>(4).put<uint64_t>(uint64_t{1} << 62);
  CHECK(refusal(array).starts_with("x.gguf: key \"a\": expected at most 0 items, found a count of"));
  Bytes texts;
  texts.start(0, 1).key("a", 8).put<uint64_t>(uint64_t{1} << 63);
  CHECK(refusal(texts).find("expected a text of at most 0 bytes") != std::string::npos);
  CHECK(refusal(Bytes().start(0, 1).key("a", 8).word("\xff")).ends_with("expected a text in UTF-8, found other bytes"));
  Bytes boolean;
  boolean.start(0, 1).key("a", 7).put<uint8_t>(2);
  CHECK(refusal(boolean).ends_with("expected a boolean of 0 or 1, found 2"));
  Bytes kind;
  kind.start(0, 1).key("a", 13).put(0);
  CHECK(refusal(kind).ends_with("expected a type of value from 0 to 12, found 13"));
  Bytes deep;
  deep.start(0, 1).key("a", 9);
  for (int i = 0; i < 6; ++i) deep.put<uint32_t>(9).put<uint64_t>(1);
  CHECK(refusal(deep).find("arrays in arrays to a depth of 4") != std::string::npos);
  Bytes twice;
  twice.start(0, 2).key("a", 0).put<uint8_t>(0).key("a", 0).put<uint8_t>(0);
  CHECK(refusal(twice) == "x.gguf: key \"a\": expected it once, found it twice");

  const auto tensors = [](std::vector<uint64_t> sizes, uint32_t type, uint64_t second, size_t data) {
    return Bytes().start(2, 0).tensor("t", std::move(sizes), type, 0).tensor("u", {8}, 0, second).data(data);
  };
  CHECK(refusal(tensors({16}, 0, 64, 96)) == "");
  CHECK(refusal(tensors({16}, 0, 64, 95)).starts_with("x.gguf: tensor \"u\": expected 32 bytes from 64 on"));
  CHECK(refusal(tensors({16}, 0, 32, 96)).ends_with("expected data behind those of \"t\", found that they overlap"));
  CHECK(refusal(tensors({16}, 0, 65, 200)).ends_with("expected an offset that is a multiple of 32, found 65"));
  CHECK(refusal(tensors({48}, 8, 64, 200)).ends_with("expected rows of a multiple of 32 values for Q8_0, found 48"));
  CHECK(refusal(tensors({0}, 0, 64, 200)).find("expected sizes from 1") != std::string::npos);
  CHECK(refusal(tensors({1, 1, 1, 1, 1}, 0, 64, 200)).ends_with("expected 1 to 4 dimensions, found 5"));
  CHECK(refusal(tensors({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 64, 200)).find("at most 2^48") != std::string::npos);
  const Bytes same = Bytes().start(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).data(64);
  CHECK(refusal(same) == "x.gguf: tensor \"t\": expected it once, found it twice");
  // A type that cannot be read is no fault of the file, until it is.
  const auto file = tensors({256}, 14, 64, 200).open();
  CHECK_THROWS_WITH_AS(
      file->dequantise(file->tensors().front()),
      "x.gguf: tensor \"t\": expected one of the types F32, F16, Q4_0, Q4_1, Q8_0, BF16, found type 14", Error);
}

TEST_CASE("gguf: no prefix of a file is taken for the whole") {
  const std::string whole = read_file(source_dir() / "tests/train/upcycle.gguf");
  Bytes bytes;
  bytes.text = whole;
  CHECK(refusal(bytes) == "");
  int refused = 0, tried = 0;
  for (size_t size = 0; size < whole.size(); size += size < 2000 ? 1 : 97, ++tried) {
    bytes.text = whole.substr(0, size);
    refused += !refusal(bytes).empty();
  }
  CHECK(refused == tried);
}

TEST_CASE("gguf: a dense model's sizes, what else it may hold, and its tokenizer") {
  const auto file = gguf::File::open(source_dir() / "tests/train/upcycle.gguf");
  const gguf::DenseModel model(file);
  CHECK(model.shape().n_layers == 2);
  CHECK(model.shape().n_kv_heads == 2);
  CHECK(model.shape().d_head == 8);
  CHECK(model.shape().n_vocab == 288);
  CHECK(model.shape().tied_embeddings);
  CHECK(model.shape().eos == 265);

  const gguf::TokenizerTexts texts = gguf::tokenizer_texts(*file, model.shape().n_vocab);
  TokenizerFiles files;
  files.tokenizer_json = texts.tokenizer_json;
  files.tokenizer_config_json = texts.tokenizer_config_json;
  const auto tokenizer = make_tokenizer(files);
  const json::Value root = golden();
  std::vector<int32_t> expected;
  for (const json::Value& id : root.find("text_ids")->items()) expected.push_back(static_cast<int32_t>(id.integer()));
  CHECK(tokenizer->encode(root.find("text")->string()).ids == expected);
  CHECK(tokenizer->encode("a<|end|><tool>").ids == std::vector<int32_t>{97, 265, 267});
  CHECK(tokenizer->is_special(265));
  CHECK(!tokenizer->is_special(267));
  CHECK(tokenizer->role("bos_token") == "<|start|>");

  CHECK_THROWS_WITH_AS(gguf::tokenizer_texts(*file, 5), doctest::Contains("expected 5 tokens (rows of the embedding)"),
                       Error);
  // One byte of a key changed, or of a tensor's name.
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string bytes = read_file(source_dir() / "tests/train/upcycle.gguf");
    const size_t at = bytes.find(from);
    REQUIRE(at != std::string::npos);
    bytes.replace(at, to.size(), to);
    std::string said;
    try {
      gguf::DenseModel(gguf::File::from_memory("y.gguf", std::as_bytes(std::span(bytes.data(), bytes.size()))));
    } catch (const Error& error) {
      said = error.what();
    }
    return said;
  };
  CHECK(changed("llama.rope.freq_base", "llama.rope.freq_bask").find("freq_bask\": expected none of this name") !=
        std::string::npos);
  CHECK(changed("blk.1.ffn_up.weight", "blk.1.ffn_un.weight") ==
        "y.gguf: expected the tensor \"blk.1.ffn_up.weight\", found none of that name");
  CHECK(changed("output_norm.weight", "output_nork.weight").find("\"output_norm.weight\"") != std::string::npos);
}
