#include <algorithm>

#include "base/text.h"
#include "loaders/tokenizer/kinds.h"
#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

// A token is a string or an object that describes an added token.
std::string token_content(const json::Ref& spec) {
  if (spec.value().type() == json::Type::object) return spec.at("content").string();
  return spec.string();
}

bool flag(const json::Ref& spec, const char* key, bool otherwise) {
  const auto member = spec.find(key);
  return member ? member->boolean() : otherwise;
}

bool is_role(std::string_view key) {
  return key.size() > 6 && key.substr(key.size() - 6) == "_token" && key.substr(0, 4) != "add_";
}

void read_roles(const json::Ref& root, Config& config) {
  for (const auto& [key, member] : root.value().members()) {
    if (!is_role(key) || member.is_null() || config.roles.count(key)) continue;
    if (!member.is_string() && member.type() != json::Type::object) continue;  // e.g. a flag with such a name
    config.roles[key] = token_content(root.at(key));
  }
}

// The classes of transformers 4 and 5 that build their post-processor from add_bos_token and add_eos_token. Others
// (PreTrainedTokenizerFast, GPT2TokenizerFast, ...) leave both alone. No class named: read.
bool reads_flags(std::string_view name) {
  if (name.ends_with("Fast")) name.remove_suffix(4);
  for (const char* known :
       {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "GPTNeoXTokenizer", "CohereTokenizer"})
    if (name == known) return true;
  return false;
}

void add_token(Config& config, AddedToken token) {
  for (const AddedToken& other : config.added)
    if (other.id == token.id || other.content == token.content) return;
  config.added.push_back(std::move(token));
}

}  // namespace

Config read_config(const TokenizerFiles& files) {
  Config config;
  config.where = files.where + "tokenizer_config.json";
  if (files.tokenizer_config_json) {
    const json::Value document = json::parse(*files.tokenizer_config_json, config.where);
    const json::Ref root(document, config.where);
    root.expect_object();
    read_roles(root, config);
    if (const auto add = root.find("add_bos_token")) config.add_bos = add->boolean();
    if (const auto add = root.find("add_eos_token")) config.add_eos = add->boolean();
    if (const auto name = root.find("tokenizer_class")) config.class_reads_flags = reads_flags(name->string());
    if (const auto added = root.find("added_tokens_decoder")) {
      added->expect_object();
      for (const auto& [key, spec] : added->members()) {
        AddedToken token;
        if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos)
          spec.fail("expected an id as the key, found \"" + key + "\"");
        token.id = std::stoi(key);
        token.content = spec.at("content").string();
        token.special = flag(spec, "special", false);
        token.lstrip = flag(spec, "lstrip", false);
        token.rstrip = flag(spec, "rstrip", false);
        token.single_word = flag(spec, "single_word", false);
        token.normalized = flag(spec, "normalized", !token.special);
        add_token(config, std::move(token));
      }
    }
  }
  if (files.special_tokens_map_json) {
    const std::string where = files.where + "special_tokens_map.json";
    const json::Value document = json::parse(*files.special_tokens_map_json, where);
    const json::Ref root(document, where);
    root.expect_object();
    read_roles(root, config);
  }
  if (files.added_tokens_json) {
    const std::string where = files.where + "added_tokens.json";
    const json::Value document = json::parse(*files.added_tokens_json, where);
    const json::Ref root(document, where);
    root.expect_object();
    for (const auto& [content, id] : root.members()) {
      AddedToken token;
      token.content = content;
      token.id = static_cast<int32_t>(id.integer(0, 1 << 27));
      token.normalized = true;
      add_token(config, std::move(token));
    }
  }
  std::sort(config.added.begin(), config.added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return config;
}

int32_t id_of_role(const Tokenizer& tokenizer, const Config& config, const std::string& role) {
  const auto found = config.roles.find(role);
  if (found == config.roles.end())
    throw Error(config.where + ": " + role, "expected a token, as add_" + role + " is true, found none");
  const auto id = tokenizer.id_of(found->second);
  if (!id)
    throw Error(config.where + ": " + role, "expected a token of the vocabulary, found \"" + found->second + "\"");
  return *id;
}

std::string hash_of(const TokenizerFiles& files) {
  uint64_t h = 0xCBF29CE484222325ull;
  for (const auto* file : {&files.tokenizer_json, &files.tokenizer_model, &files.tokenizer_config_json,
                           &files.special_tokens_map_json, &files.added_tokens_json}) {
    const std::string size = *file ? std::to_string((*file)->size()) + ":" : "-";
    for (char c : size) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
    if (*file)
      for (char c : **file) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  }
  return hex64(h);
}

// --- ranges ----------------------------------------------------------------------------------------------------------

CodePoints::CodePoints(std::string_view text) : text_(text) {
  if (std::none_of(text.begin(), text.end(), [](char c) { return c & 0x80; })) return;
  index_.reserve(text.size());
  for (size_t pos = 0; pos < text.size(); ++pos) {
    if ((static_cast<unsigned char>(text[pos]) & 0xC0) != 0x80) begin_.push_back(static_cast<uint32_t>(pos));
    index_.push_back(static_cast<uint32_t>(begin_.size() - 1));
  }
}

CharRange CodePoints::chars(ByteRange bytes) const {
  if (index_.empty()) return {bytes.begin, bytes.end};
  const auto at = [&](uint32_t byte) {
    return byte < index_.size() ? index_[byte] : static_cast<uint32_t>(begin_.size());
  };
  return {at(bytes.begin), at(bytes.end)};
}

ByteRange CodePoints::bytes(CharRange chars) const {
  const auto at = [&](uint32_t c) {
    const auto size = static_cast<uint32_t>(text_.size());
    if (index_.empty()) return std::min(c, size);
    return c < begin_.size() ? begin_[c] : size;
  };
  return {at(chars.begin), at(chars.end)};
}

ByteRanges::ByteRanges(std::span<const CharRange> chars, const CodePoints& points) {
  for (const CharRange& range : chars) {
    const ByteRange bytes = points.bytes(range);
    if (bytes.end > bytes.begin) ranges_.push_back(bytes);
  }
  std::sort(ranges_.begin(), ranges_.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  size_t n = 0;
  for (const ByteRange& range : ranges_) {
    if (n > 0 && range.begin <= ranges_[n - 1].end)
      ranges_[n - 1].end = std::max(ranges_[n - 1].end, range.end);
    else
      ranges_[n++] = range;
  }
  ranges_.resize(n);
}

bool ByteRanges::touches(ByteRange range) const {
  const auto first = std::upper_bound(ranges_.begin(), ranges_.end(), range.begin,
                                      [](uint32_t begin, const ByteRange& other) { return begin < other.end; });
  return first != ranges_.end() && first->begin < range.end;
}

void check_text(std::string_view text) {
  if (text.size() >= size_t{1} << 31)
    throw Error("text", "expected less than 2 GiB, found " + std::to_string(text.size()) + " bytes");
  const size_t bad = first_invalid_utf8(text);
  if (bad != std::string_view::npos)
    throw Error("text", "expected valid UTF-8, found byte " + std::to_string(static_cast<unsigned char>(text[bad])) +
                            " at offset " + std::to_string(bad));
}

// --- streams ---------------------------------------------------------------------------------------------------------

namespace {

class Stream : public TokenStream {
 public:
  Stream(const Decoder& decoder, Spelling spelling) : decoding_(decoder.start()), spelling_(std::move(spelling)) {}

  std::string push(int32_t id) override {
    std::string out;
    if (const auto token = spelling_(id)) decoding_->push(*token, out);
    return out;
  }
  std::string finish() override {
    std::string out;
    decoding_->finish(out);
    return out;
  }

 private:
  std::unique_ptr<Decoding> decoding_;
  Spelling spelling_;
};

}  // namespace

std::string decode_all(std::span<const int32_t> ids, const Decoder& decoder, const Spelling& spelling) {
  const auto decoding = decoder.start();
  std::string text;
  for (int32_t id : ids)
    if (const auto token = spelling(id)) decoding->push(*token, text);
  decoding->finish(text);
  return text;
}

std::unique_ptr<TokenStream> make_stream(const Decoder& decoder, Spelling spelling) {
  return std::make_unique<Stream>(decoder, std::move(spelling));
}

}  // namespace signalbox::loaders::tokenizer
