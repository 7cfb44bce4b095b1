// A tokenizer.json: added tokens are cut out, the rest is normalized, cut into pieces and encoded piece by piece.
#include <algorithm>
#include <deque>

#include "loaders/tokenizer/bpe.h"
#include "loaders/tokenizer/kinds.h"
#include "loaders/tokenizer/normalizer.h"
#include "loaders/tokenizer/post_processor.h"
#include "loaders/tokenizer/pre_tokenizer.h"

namespace signalbox::loaders::tokenizer {
namespace {

class HubTokenizer : public Tokenizer {
 public:
  HubTokenizer(const json::Ref& root, Config config, std::string hash)
      : model_(root.at("model")), config_(std::move(config)), hash_(std::move(hash)) {
    root.reject_unknown({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                         "post_processor", "decoder", "model"});
    // "truncation" and "padding" are settings of the last call that was saved, not of the tokenizer: texts are encoded
    // whole, as transformers does.
    if (const auto version = root.find("version"); version && version->string() != "1.0")
      version->fail("expected 1.0, found \"" + version->string() + "\"");
    if (const auto spec = root.find("normalizer")) normalizer_ = read_normalizer(*spec);
    if (const auto spec = root.find("pre_tokenizer")) pre_tokenizer_ = read_pre_tokenizer(*spec);
    if (const auto spec = root.find("post_processor")) post_processor_ = read_post_processor(*spec);
    const json::Value null;
    const auto decoder = root.find("decoder");
    decoder_ = read_decoder(decoder ? *decoder : json::Ref(null, root.where(), "decoder"));
    if (const auto spec = root.find("added_tokens"))
      added_ = read_added_tokens(*spec, model_.vocabulary(), normalizer_.get());

    if (post_processor_ && post_processor_->adds_tokens()) return;
    std::vector<int32_t> in_front, behind;
    if (!config_.class_reads_flags) return;
    if (config_.add_bos.value_or(false)) in_front.push_back(id_of_role(*this, config_, "bos_token"));
    if (config_.add_eos.value_or(false)) behind.push_back(id_of_role(*this, config_, "eos_token"));
    if (!in_front.empty() || !behind.empty()) config_template_ = make_template(in_front, behind);
  }

  Encoding encode(std::string_view text, const EncodeOptions& options) const override {
    return encode(text, options, true);
  }

  Encoding encode_target(std::string_view text, SpecialTokens special) const override {
    EncodeOptions options;
    options.add_special = false;
    options.special = special;
    return encode(text, options, false);
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
    return model_.vocabulary().find(piece);
  }

  int64_t vocab_size() const override {
    return int64_t{1} + std::max(model_.vocabulary().largest_id(), added_.largest_id());
  }

  bool is_special(int32_t id) const override {
    const auto token = spelling(id);
    return token && added_.is_special(*token);
  }

  std::optional<std::string> role(std::string_view name) const override {
    const auto found = config_.roles.find(name);
    return found == config_.roles.end() ? std::nullopt : std::optional(found->second);
  }

  std::optional<int32_t> begin_id() const override {
    if (config_template_) return config_template_->begin_id();
    return post_processor_ ? post_processor_->begin_id() : std::nullopt;
  }

  std::string description() const override {
    return std::string("BPE") + (model_.has_byte_fallback() ? " with byte fallback" : "") + ", " +
           std::to_string(model_.vocabulary().size()) + " tokens, " + std::to_string(model_.n_merges()) + " merges, " +
           std::to_string(added_.tokens().size()) + " added tokens";
  }
  std::string hash() const override { return hash_; }

 private:
  // One text on its way through.
  struct Work {
    std::string_view text;
    const CodePoints& points;
    const ByteRanges& literal;
    const EncodeOptions& options;
    bool prefix;
    Draft draft;
    std::deque<std::string> found;  // texts that added tokens were found as

    bool ignores(const AddedToken& token, ByteRange bytes) const {
      return token.special && (options.special == SpecialTokens::as_text || literal.touches(bytes));
    }
    void add(int32_t id, std::string_view spelling, CharRange offset) {
      draft.encoding.ids.push_back(id);
      draft.encoding.offsets.push_back(offset);
      draft.spellings.push_back(spelling);
    }
  };

  Encoding encode(std::string_view text, const EncodeOptions& options, bool prefix) const {
    check_text(text);
    const CodePoints points(text);
    const ByteRanges literal(options.literal, points);
    Work work{text, points, literal, options, prefix, {}, {}};
    const auto parts =
        added_.find(text, false, [&](const AddedToken& token, ByteRange range) { return work.ignores(token, range); });
    for (const AddedPart& part : parts) {
      if (part.token)
        add_found(work, *part.token, std::string(text.substr(part.range.begin, part.range.end - part.range.begin)),
                  part.range);
      else
        encode_plain(work, AlignedText::original(text, part.range));
    }
    if (post_processor_) post_processor_->apply(work.draft, options.add_special);
    if (config_template_) config_template_->apply(work.draft, options.add_special);
    return std::move(work.draft.encoding);
  }

  // Text without any of the tokens that are looked for before normalization.
  void encode_plain(Work& work, AlignedText text) const {
    if (normalizer_) normalizer_->apply(text, work.prefix);
    if (text.text.empty()) return;
    const auto parts = added_.find(text.text, true, [&](const AddedToken& token, ByteRange range) {
      return work.ignores(token, text.source_of(range.begin, range.end));
    });
    if (parts.size() == 1 && !parts[0].token) {
      encode_pieces(work, std::move(text));
      return;
    }
    for (const AddedPart& part : parts) {
      if (part.token)
        add_found(work, *part.token, text.text.substr(part.range.begin, part.range.end - part.range.begin),
                  text.source_of(part.range.begin, part.range.end));
      else
        encode_pieces(work, text.slice(part.range));
    }
  }

  void add_found(Work& work, const AddedToken& token, std::string as, ByteRange bytes) const {
    work.found.push_back(std::move(as));
    work.add(token.id, work.found.back(), work.points.chars(bytes));
  }

  void encode_pieces(Work& work, AlignedText text) const {
    Pieces pieces;
    pieces.text = std::move(text);
    pieces.ranges = {{0, static_cast<uint32_t>(pieces.text.text.size())}};
    if (pre_tokenizer_) pre_tokenizer_->apply(pieces, work.prefix);
    std::vector<Token> tokens;
    for (const ByteRange& range : pieces.ranges) {
      tokens.clear();
      const std::string_view piece = std::string_view(pieces.text.text).substr(range.begin, range.end - range.begin);
      model_.encode(piece, range.begin, tokens);
      for (const Token& token : tokens) {
        // A suffix spelt as bytes can make more tokens than there are bytes.
        const uint32_t begin = std::min(token.begin, range.end - 1), end = std::min(token.end, range.end);
        work.add(token.id, model_.vocabulary().token(token.id).value_or(""),
                 work.points.chars(pieces.text.source_of(begin, std::max(end, begin + 1))));
      }
    }
  }

  std::optional<std::string_view> spelling(int32_t id) const {
    if (const AddedToken* token = added_.by_id(id)) return token->content;
    return model_.vocabulary().token(id);
  }

  Spelling decoded_spelling(bool skip_special) const {
    return [this, skip_special](int32_t id) -> std::optional<std::string_view> {
      if (skip_special && is_special(id)) return std::nullopt;
      if (const AddedToken* token = added_.by_id(id)) return token->spelling;
      return model_.vocabulary().token(id);
    };
  }

  Bpe model_;
  Config config_;
  std::string hash_;
  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<PostProcessor> post_processor_, config_template_;
  std::unique_ptr<Decoder> decoder_;
  AddedTokens added_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_hub_tokenizer(const TokenizerFiles& files, Config config) {
  const std::string where = files.where + "tokenizer.json";
  const json::Value document = json::parse(*files.tokenizer_json, where);
  const json::Ref root(document, where);
  root.expect_object();
  return std::make_unique<HubTokenizer>(root, std::move(config), hash_of(files));
}

}  // namespace signalbox::loaders::tokenizer
