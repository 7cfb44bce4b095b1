#include "tools/serve/token_texts.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/utf8.h"
#include "loaders/tokenizer/byte_level.h"

namespace signalbox::tools {

namespace {

// "<0x0A>": a byte of a SentencePiece vocabulary.
bool is_byte_piece(std::string_view piece) {
  return piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>';
}

constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581

}  // namespace

std::string token_name(const std::string& bytes) {
  if (first_invalid_utf8(bytes) == std::string::npos) return bytes;
  std::string out = "bytes:";
  for (const char c : bytes) {
    char text[8];
    std::snprintf(text, sizeof text, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += text;
  }
  return out;
}

TokenTexts::TokenTexts(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {
  if (!tokenizer_) return;
  // A byte-level vocabulary spells the space as another character.
  const std::string space(tokenizer::byte_character(' '));
  for (const std::string& piece : {space, space + "a", space + "t", space + "e"}) {
    const auto id = tokenizer_->id_of(piece);
    if (!id || byte_level_) continue;
    const int32_t ids[] = {*id};
    byte_level_ = tokenizer_->decode(ids, false).find(space) == std::string::npos;
  }
}

const std::string& TokenTexts::bytes(int32_t id) const {
  const auto [found, fresh] = known_.emplace(id, "");
  std::string& out = found->second;
  if (!fresh || !tokenizer_) return out;
  const std::string piece = tokenizer_->piece(id);
  const int32_t ids[] = {id};
  if (tokenizer_->is_special(id)) {
    out = piece;
  } else if (is_byte_piece(piece)) {
    unsigned value = 0;
    std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
    out = static_cast<char>(value);
  } else if (byte_level_) {
    for (size_t at = 0; at < piece.size();) {
      const int byte = tokenizer::character_byte(next_code_point(piece, at));
      if (byte < 0) {  // an added token, spelled as it is
        out = piece;
        break;
      }
      out += static_cast<char>(byte);
    }
  } else if (piece.starts_with(space_mark)) {
    for (size_t at = 0; at < piece.size();) {
      const bool mark = std::string_view(piece).substr(at).starts_with(space_mark);
      out += mark ? ' ' : piece[at];
      at += mark ? space_mark.size() : 1;
    }
  } else {
    out = tokenizer_->decode(ids, false);
  }
  return out;
}

std::string TokenTexts::name(int32_t id) const {
  const std::string& text = bytes(id);
  return text.empty() ? "token_id:" + std::to_string(id) : token_name(text);
}

std::vector<PlacedToken> place_prompt_tokens(const TokenTexts& texts, const EncodedText& prompt) {
  const std::u32string points = code_points(prompt.text);
  std::vector<PlacedToken> placed;
  int64_t last = 0;
  for (size_t t = 0; t < prompt.tokens.size(); ++t) {
    const CharRange range = prompt.offsets[t];
    PlacedToken token;
    token.offset = std::max<int64_t>(last, range.begin);
    token.end = std::max<int64_t>(token.offset, range.end);
    const std::string& bytes = texts.bytes(prompt.tokens[t]);
    if (token.end > token.offset && first_invalid_utf8(bytes) != std::string::npos)
      token.text = token_name(bytes);
    else
      token.text = to_utf8(std::u32string_view(points).substr(static_cast<size_t>(token.offset),
                                                              static_cast<size_t>(token.end - token.offset)));
    last = token.offset;
    placed.push_back(std::move(token));
  }
  return placed;
}

TokenPlacer::TokenPlacer(const TokenTexts& texts, bool skip_special, int64_t offset)
    : texts_(texts),
      skip_special_(skip_special),
      stream_(texts.tokenizer() ? texts.tokenizer()->stream(skip_special) : nullptr),
      n_points_(offset) {}

PlacedToken TokenPlacer::push(int32_t id) {
  PlacedToken token;
  token.offset = token.end = n_points_;
  if (!stream_) {
    token.text = texts_.name(id);
    return token;
  }
  const std::string fresh = stream_->push(id);
  const std::string& bytes = texts_.bytes(id);
  const bool whole = first_invalid_utf8(bytes) == std::string::npos;
  n_points_ += static_cast<int64_t>(count_code_points(fresh));
  if (skip_special_ && texts_.is_special(id)) {
    token.end = n_points_;
  } else if (!whole) {
    token.text = token_name(bytes);
    token.end = n_points_;
  } else if (pending_.empty()) {
    token.text = fresh;
    token.end = n_points_;
  } else {
    // What was pending has become replacement characters, before this token's text.
    token.text = bytes;
    token.offset = std::max(token.offset, n_points_ - static_cast<int64_t>(count_code_points(bytes)));
    token.end = n_points_;
  }
  pending_ += whole ? "" : bytes;
  if (whole) pending_.clear();
  std::string made;
  pending_.erase(0, append_lossy(made, pending_, true));
  return token;
}

}  // namespace signalbox::tools
