// The committed tokenizers against what Hugging Face `tokenizers` made of their strings (make_tokenizers.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "base/utf8.h"
#include "loaders/tokenizer/tokenizer.h"
#include "tests/support.h"

namespace signalbox::test {
namespace {

std::vector<std::filesystem::path> vocabularies() {
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(test::source_dir() / "tests/tokenizer/vocabularies"))
    folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  return folders;
}

std::vector<int32_t> integers(const json::Value& array) {
  std::vector<int32_t> out;
  for (const json::Value& item : array.items()) out.push_back(static_cast<int32_t>(item.integer()));
  return out;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  const auto stream = tokenizer.stream(skip_special);
  std::string text;
  for (int32_t id : ids) {
    const std::string part = stream->push(id);
    CHECK(first_invalid_utf8(part) == std::string::npos);
    text += part;
  }
  return text + stream->finish();
}

TEST_CASE("tokenizer: ids, offsets and text are those of Hugging Face") {
  size_t n = 0;
  for (const auto& folder : vocabularies()) {
    CAPTURE(folder.filename().string());
    const auto tokenizer = load_tokenizer(folder);
    std::ifstream lines(folder / "expected.jsonl");
    std::string line;
    while (std::getline(lines, line)) {
      const json::Value record = json::parse(line, "expected.jsonl");
      const std::string& text = record.find("text")->string();
      CAPTURE(text);
      EncodeOptions options;
      if (record.find("as_text")->boolean()) options.special = SpecialTokens::as_text;
      const Encoding encoding = tokenizer->encode(text, options);
      CHECK(encoding.ids == integers(*record.find("ids")));
      std::vector<int32_t> offsets;
      for (const CharRange& offset : encoding.offsets) {
        offsets.push_back(static_cast<int32_t>(offset.begin));
        offsets.push_back(static_cast<int32_t>(offset.end));
      }
      CHECK(offsets == integers(*record.find("offsets")));
      const std::vector<int32_t> tokens = integers(*record.find("tokens"));
      const bool skip = record.find("skip")->boolean();
      CHECK(tokenizer->decode(tokens, skip) == record.find("decoded")->string());
      CHECK(streamed(*tokenizer, tokens, skip) == record.find("decoded")->string());
      CHECK(tokenizer->decode(encoding.ids, false) == record.find("round")->string());
      CHECK(streamed(*tokenizer, encoding.ids, false) == record.find("round")->string());
      // Text in which nothing may be a special token is text without special tokens.
      const CharRange everything[] = {{0, static_cast<uint32_t>(text.size())}};
      EncodeOptions literal;
      literal.literal = everything;
      EncodeOptions as_text;
      as_text.special = SpecialTokens::as_text;
      CHECK(tokenizer->encode(text, literal).ids == tokenizer->encode(text, as_text).ids);
      ++n;
    }
  }
  CHECK(n > 2000);
}

}  // namespace
}  // namespace signalbox::test
