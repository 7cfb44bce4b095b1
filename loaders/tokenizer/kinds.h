// The two kinds of tokenizer and what they share. For the files of this folder only.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/text.h"
#include "loaders/tokenizer/added_tokens.h"
#include "loaders/tokenizer/aligned_text.h"
#include "loaders/tokenizer/decoder.h"
#include "loaders/tokenizer/tokenizer.h"

namespace signalbox::loaders::tokenizer {

// What tokenizer_config.json and special_tokens_map.json say.
struct Config {
  std::map<std::string, std::string, std::less<>> roles;  // "bos_token" -> "<s>"
  std::optional<bool> add_bos, add_eos;
  // Whether the class named there makes a template of the two for a tokenizer.json that has none: see shared.cpp.
  bool class_reads_flags = true;
  std::vector<AddedToken> added;  // added_tokens_decoder and added_tokens.json, by id
  std::string where;              // file name for messages
};
Config read_config(const TokenizerFiles& files);

// The id of the token with a role that has to be there. Throws Error when the config or the vocabulary lacks it.
int32_t id_of_role(const Tokenizer& tokenizer, const Config& config, const std::string& role);

// FNV-1a over all files, 16 hex digits.
std::string hash_of(const TokenizerFiles& files);

// Code points by bytes of a text.
class CodePoints {
 public:
  explicit CodePoints(std::string_view text);
  // The code points of a byte range. An end within a code point does not count it.
  CharRange chars(ByteRange bytes) const;
  // The bytes of a range of code points, cut to the text.
  ByteRange bytes(CharRange chars) const;

 private:
  std::string_view text_;
  std::vector<uint32_t> index_;  // of the code point that a byte belongs to; empty when all is ASCII
  std::vector<uint32_t> begin_;  // of each code point
};

// A set of byte ranges that can be asked whether it touches another.
class ByteRanges {
 public:
  ByteRanges(std::span<const CharRange> chars, const CodePoints& points);
  bool touches(ByteRange range) const;

 private:
  std::vector<ByteRange> ranges_;  // sorted, disjoint
};

// Throws Error unless the text is valid UTF-8 of less than 2 GiB.
void check_text(std::string_view text);

// The spelling of a token that decode() takes in; nullopt for one that it leaves out. Stays valid as long as its
// tokenizer.
using Spelling = std::function<std::optional<std::string_view>(int32_t)>;

// Decodes at once and token by token: the same code, so that both agree.
std::string decode_all(std::span<const int32_t> ids, const Decoder& decoder, const Spelling& spelling);
std::unique_ptr<TokenStream> make_stream(const Decoder& decoder, Spelling spelling);

std::unique_ptr<Tokenizer> make_hub_tokenizer(const TokenizerFiles& files, Config config);  // tokenizer.json
std::unique_ptr<Tokenizer> make_sentencepiece(const TokenizerFiles& files, Config config);  // tokenizer.model

}  // namespace signalbox::loaders::tokenizer
