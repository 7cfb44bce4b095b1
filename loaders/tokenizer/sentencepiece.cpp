// A tokenizer.model, read by the sentencepiece library. Added tokens are cut out first, and each text between them is
// encoded by itself, prefix included.
#include <sentencepiece_processor.h>

#include <algorithm>

#include "loaders/tokenizer/kinds.h"
#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

// normalizer_spec { add_dummy_prefix: false } of a serialized ModelProto: appended to a model it overrides the model's
// own value, as protocol buffers merge.
constexpr std::string_view no_dummy_prefix("\x1A\x02\x18\x00", 4);

class SentencePiece : public Tokenizer {
 public:
  SentencePiece(const TokenizerFiles& files, Config config)
      : where_(files.where + "tokenizer.model"),
        config_(std::move(config)),
        hash_(hash_of(files)),
        decoder_(make_piece_decoder()) {
    load(prefixed_, *files.tokenizer_model);
    load(bare_, *files.tokenizer_model + std::string(no_dummy_prefix));
    n_pieces_ = prefixed_.GetPieceSize();
    for (int32_t id = 0; id < n_pieces_; ++id) vocabulary_.add(prefixed_.IdToPiece(id), id, where_);
    default_role("bos_token", prefixed_.bos_id());
    default_role("eos_token", prefixed_.eos_id());
    default_role("unk_token", prefixed_.unk_id());
    default_role("pad_token", prefixed_.pad_id());
    read_added();
    if (config_.add_bos.value_or(true)) begin_ = id_of_role(*this, config_, "bos_token");
    if (config_.add_eos.value_or(false)) end_ = id_of_role(*this, config_, "eos_token");
  }

  Encoding encode(std::string_view text, const EncodeOptions& options) const override {
    Encoding encoding;
    const auto around = [&](const std::optional<int32_t>& id) {
      if (!options.add_special || !id) return;
      encoding.ids.push_back(*id);
      encoding.offsets.push_back({});
    };
    around(begin_);
    encode(text, options, prefixed_, encoding);
    around(end_);
    return encoding;
  }

  Encoding encode_target(std::string_view text, SpecialTokens special) const override {
    Encoding encoding;
    EncodeOptions options;
    options.special = special;
    encode(text, options, bare_, encoding);
    return encoding;
  }

  std::string decode(std::span<const int32_t> ids, bool skip_special) const override {
    return decode_all(ids, *decoder_, decoded_spelling(skip_special));
  }
  std::unique_ptr<TokenStream> stream(bool skip_special) const override {
    return make_stream(*decoder_, decoded_spelling(skip_special));
  }
  std::string piece(int32_t id) const override { return std::string(spelling(id).value_or("")); }
  std::optional<int32_t> id_of(std::string_view piece) const override {
    if (const AddedToken* token = added_.by_content(piece)) return token->id;
    return vocabulary_.find(piece);
  }
  int64_t vocab_size() const override { return int64_t{1} + std::max(n_pieces_ - 1, added_.largest_id()); }
  bool is_special(int32_t id) const override {
    const AddedToken* token = added_.by_id(id);
    return token && token->special;
  }
  std::optional<std::string> role(std::string_view name) const override {
    const auto found = config_.roles.find(name);
    return found == config_.roles.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<int32_t> begin_id() const override { return begin_; }
  std::string description() const override {
    return "SentencePiece, " + std::to_string(n_pieces_) + " tokens, " + std::to_string(added_.tokens().size()) +
           " added tokens";
  }
  std::string hash() const override { return hash_; }

 private:
  void load(sentencepiece::SentencePieceProcessor& processor, const std::string& model) const {
    const auto status = processor.LoadFromSerializedProto(model);
    if (!status.ok() || processor.GetPieceSize() <= 0)
      throw Error(where_, "expected a SentencePiece model, found " + status.ToString());
  }

  void default_role(const std::string& role, int id) {
    if (id >= 0 && !config_.roles.count(role)) config_.roles[role] = prefixed_.IdToPiece(id);
  }

  // Added tokens are those of the config files and, as special ones, the tokens with a role.
  void read_added() {
    for (const AddedToken& token : config_.added) added_.add(token, vocabulary_, config_.where);
    for (const auto& [role, content] : config_.roles) {
      if (added_.by_content(content)) continue;
      const auto id = vocabulary_.find(content);
      if (!id)
        throw Error(config_.where + ": " + role,
                    "expected a token of the model or an added token, found \"" + content + "\"");
      AddedToken token;
      token.content = content;
      token.id = *id;
      token.special = true;
      added_.add(std::move(token), vocabulary_, config_.where + ": " + role);
    }
    added_.prepare(nullptr, config_.where);
  }

  void encode(std::string_view text, const EncodeOptions& options,
              const sentencepiece::SentencePieceProcessor& processor, Encoding& encoding) const {
    check_text(text);
    const CodePoints points(text);
    const ByteRanges literal(options.literal, points);
    const auto ignore = [&](const AddedToken& token, ByteRange range) {
      return token.special && (options.special == SpecialTokens::as_text || literal.touches(range));
    };
    const auto part_text = [&](ByteRange range) { return text.substr(range.begin, range.end - range.begin); };
    // There is no normalizer here that added tokens could know of: both kinds are looked for in the text as it is.
    for (const AddedPart& outer : added_.find(text, false, ignore)) {
      if (outer.token) {
        add(encoding, outer.token->id, points.chars(outer.range));
        continue;
      }
      const uint32_t base = outer.range.begin;
      const auto inner_parts = added_.find(part_text(outer.range), true, [&](const AddedToken& token, ByteRange range) {
        return ignore(token, {base + range.begin, base + range.end});
      });
      for (const AddedPart& inner : inner_parts) {
        const ByteRange range{base + inner.range.begin, base + inner.range.end};
        if (inner.token)
          add(encoding, inner.token->id, points.chars(range));
        else
          encode_plain(part_text(range), range.begin, points, processor, encoding);
      }
    }
  }

  static void add(Encoding& encoding, int32_t id, CharRange offset) {
    encoding.ids.push_back(id);
    encoding.offsets.push_back(offset);
  }

  void encode_plain(std::string_view text, uint32_t base, const CodePoints& points,
                    const sentencepiece::SentencePieceProcessor& processor, Encoding& encoding) const {
    sentencepiece::ImmutableSentencePieceText result;
    const auto status = processor.Encode(absl::string_view(text.data(), text.size()), result.mutable_proto());
    if (!status.ok()) throw Error(where_, "cannot encode a text: " + status.ToString());
    const size_t first = encoding.ids.size();
    const auto size = static_cast<uint32_t>(text.size());
    for (const auto& piece : result.pieces()) {
      const ByteRange bytes{std::min(piece.begin(), size), std::min(piece.end(), size)};
      const auto id = static_cast<int32_t>(piece.id());
      add(encoding, id, points.chars({base + bytes.begin, base + bytes.end}));
    }
    // The library gives a character that is spelt in bytes to the last of them, and nothing to a prefix that it made
    // up; both stand for the character that follows.
    for (size_t i = encoding.ids.size(); i-- > first;) {
      CharRange& offset = encoding.offsets[i];
      if (offset.end > offset.begin) continue;
      if (i + 1 < encoding.ids.size() && processor.IsByte(encoding.ids[i]))
        offset = encoding.offsets[i + 1];
      else if (offset.begin < points.chars({base + size, base + size}).begin)
        offset.end = offset.begin + 1;
    }
  }

  std::optional<std::string_view> spelling(int32_t id) const {
    if (const AddedToken* token = added_.by_id(id)) return token->content;
    return vocabulary_.token(id);
  }
  Spelling decoded_spelling(bool skip_special) const {
    return [this, skip_special](int32_t id) { return skip_special && is_special(id) ? std::nullopt : spelling(id); };
  }

  std::string where_;
  Config config_;
  std::string hash_;
  std::unique_ptr<Decoder> decoder_;
  sentencepiece::SentencePieceProcessor prefixed_, bare_;
  Vocabulary vocabulary_;
  AddedTokens added_;
  int32_t n_pieces_ = 0;
  std::optional<int32_t> begin_, end_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece(const TokenizerFiles& files, Config config) {
  return std::make_unique<SentencePiece>(files, std::move(config));
}

}  // namespace signalbox::loaders::tokenizer
