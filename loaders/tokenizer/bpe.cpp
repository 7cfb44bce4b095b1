#include "loaders/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/text.h"
#include "loaders/tokenizer/merge_queue.h"
#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

constexpr int64_t max_id = 1 << 27;  // of a token: keeps the tables by id small
constexpr char32_t n_direct = 0x180;

uint64_t slot_hash(std::string_view text) {
  uint64_t h = 0xCBF29CE484222325ull;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return h ^ h >> 29;
}

uint64_t slot_hash(uint64_t x) {
  x = (x ^ x >> 31) * 0x7FB5D329728EA185ull;
  x = (x ^ x >> 27) * 0x81DADEF4BC2DD44Dull;
  return x ^ x >> 33;
}

}  // namespace

// --- vocabulary ------------------------------------------------------------------------------------------------------

void Vocabulary::reserve(size_t n_tokens, size_t n_bytes) {
  bytes_.reserve(n_bytes);
  by_id_.reserve(n_tokens);
  grow(std::bit_ceil(n_tokens * 2 + 16));
}

void Vocabulary::grow(size_t slots) {
  std::vector<Entry> old = std::move(slots_);
  slots_.assign(slots, Entry{});
  for (const Entry& entry : old) {
    if (entry.id < 0) continue;
    size_t slot = slot_hash(text_of(entry)) & (slots - 1);
    while (slots_[slot].id >= 0) slot = (slot + 1) & (slots - 1);
    slots_[slot] = entry;
  }
}

void Vocabulary::add(std::string_view token, int32_t id, const std::string& where) {
  if (slots_.size() < (n_tokens_ + 1) * 2) grow(std::max<size_t>(64, slots_.size() * 2));
  if (bytes_.size() + token.size() > std::numeric_limits<uint32_t>::max())
    throw Error(where, "expected a vocabulary of less than 4 GiB");
  const auto index = static_cast<size_t>(id);
  if (index < by_id_.size() && by_id_[index].id >= 0)
    throw Error(where, "expected an id for each token, found id " + std::to_string(id) + " for both " +
                           in_quotes(text_of(by_id_[index])) + " and " + in_quotes(token));
  size_t slot = slot_hash(token) & (slots_.size() - 1);
  for (; slots_[slot].id >= 0; slot = (slot + 1) & (slots_.size() - 1))
    if (text_of(slots_[slot]) == token)
      throw Error(where, "expected each token once, found " + in_quotes(token) + " twice");
  const Entry entry{static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(token.size()), id};
  bytes_ += token;
  slots_[slot] = entry;
  if (index >= by_id_.size()) by_id_.resize(index + 1);
  by_id_[index] = entry;
  ++n_tokens_;
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return std::nullopt;
  for (size_t slot = slot_hash(token) & (slots_.size() - 1); slots_[slot].id >= 0;
       slot = (slot + 1) & (slots_.size() - 1))
    if (text_of(slots_[slot]) == token) return slots_[slot].id;
  return std::nullopt;
}

std::optional<std::string_view> Vocabulary::token(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= by_id_.size() || by_id_[static_cast<size_t>(id)].id < 0) return std::nullopt;
  return text_of(by_id_[static_cast<size_t>(id)]);
}

// --- reading ---------------------------------------------------------------------------------------------------------

Bpe::Bpe(const json::Ref& spec) : where_(spec.where()) {
  spec.expect_object();
  if (const auto type = spec.find("type"); type && type->string() != "BPE")
    type->fail("expected BPE, found \"" + type->string() + "\"");
  spec.reject_unknown({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                       "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const auto dropout = spec.find("dropout"); dropout && dropout->number() != 0)
    dropout->fail("expected null or 0: random merges are not supported");
  const auto text = [&](const char* key) {
    const auto member = spec.find(key);
    return member ? member->string() : std::string();
  };
  const auto flag = [&](const char* key) {
    const auto member = spec.find(key);
    return member && member->boolean();
  };
  prefix_ = text("continuing_subword_prefix");
  suffix_ = text("end_of_word_suffix");
  fuse_unknown_ = flag("fuse_unk");
  byte_fallback_ = flag("byte_fallback");
  ignore_merges_ = flag("ignore_merges");

  const json::Ref vocab = spec.at("vocab");
  vocab.expect_object();
  const std::string vocab_where = vocab.where() + ": " + vocab.path();
  const auto& members = vocab.value().members();
  size_t n_bytes = 0;
  for (const auto& [token, id] : members) n_bytes += token.size();
  vocabulary_.reserve(members.size(), n_bytes);
  for (const auto& [token, id] : members) {
    if (id.type() != json::Type::integer || id.is_unsigned() || id.integer() < 0 || id.integer() > max_id)
      throw Error(vocab_where, "expected an id of 0 to " + std::to_string(max_id) + " for " + in_quotes(token) +
                                   ", found " + json::dump(id));
    vocabulary_.add(token, static_cast<int32_t>(id.integer()), vocab_where);
  }
  if (const auto unknown = spec.find("unk_token")) {
    unknown_ = vocabulary_.find(unknown->string());
    if (!unknown_) unknown->fail("expected a token of the vocabulary, found " + in_quotes(unknown->string()));
  }
  for (int b = 0; b < 256; ++b) {
    const char* digits = "0123456789ABCDEF";
    byte_ids_[b] = vocabulary_.find(std::string("<0x") + digits[b >> 4] + digits[b & 15] + ">");
  }
  character_ids_.assign(n_direct, -1);
  for (char32_t c = 0; c < n_direct; ++c) {
    std::string one;
    append_utf8(one, c);
    character_ids_[c] = vocabulary_.find(one).value_or(-1);
  }
  read_merges(spec.at("merges"));
}

void Bpe::read_merges(const json::Ref& merges) {
  merges.expect_array();
  const auto& items = merges.value().items();
  merges_.assign(std::bit_ceil(items.size() * 2 + 16), Merge{});
  id_by_rank_.reserve(items.size());
  std::string joined;
  for (size_t i = 0; i < items.size(); ++i) {
    const json::Value& item = items[i];
    const auto fail = [&](const std::string& what) { merges[i].fail(what); };
    std::string_view left, right;
    if (item.is_string()) {
      const std::string_view line = item.string();
      const size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
        fail("expected two tokens with a space between them, found " + in_quotes(line));
      left = line.substr(0, space);
      right = line.substr(space + 1);
    } else {
      if (item.type() != json::Type::array || item.items().size() != 2 || !item.items()[0].is_string() ||
          !item.items()[1].is_string())
        fail("expected two tokens, found " + json::dump(item));
      left = item.items()[0].string();
      right = item.items()[1].string();
    }
    if (right.size() < prefix_.size())
      fail("expected a right token that begins with " + in_quotes(prefix_) + ", found " + in_quotes(right));
    joined.assign(left);
    joined += right.substr(prefix_.size());
    std::optional<int32_t> ids[3];
    const std::string_view tokens[3] = {left, right, joined};
    for (int k = 0; k < 3; ++k)
      if (!(ids[k] = vocabulary_.find(tokens[k])))
        fail("expected tokens of the vocabulary, found " + in_quotes(tokens[k]));
    add_merge(*ids[0], *ids[1], static_cast<uint32_t>(i), *ids[2]);
    id_by_rank_.push_back(*ids[2]);
  }
}

void Bpe::add_merge(int32_t left, int32_t right, uint32_t rank, int32_t id) {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  size_t slot = slot_hash(pair) & (merges_.size() - 1);
  while (merges_[slot].pair != UINT64_MAX && merges_[slot].pair != pair) slot = (slot + 1) & (merges_.size() - 1);
  if (merges_[slot].pair == UINT64_MAX) ++n_merges_;
  merges_[slot] = {pair, rank, id};  // of a pair that is listed twice, the later rank holds
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  for (size_t slot = slot_hash(pair) & (merges_.size() - 1);; slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == UINT64_MAX) return nullptr;
  }
}

// --- encoding --------------------------------------------------------------------------------------------------------

struct Bpe::Symbol {
  int32_t id;
  int32_t previous, next;  // indices, -1: none
  uint32_t size;           // in bytes; 0: merged into the one before
};

// One symbol a character, or a byte, or one unknown token for a run of characters.
void Bpe::first_symbols(std::string_view piece, std::vector<Symbol>& symbols) const {
  uint32_t unknown_size = 0;  // of an unknown token that is not written yet
  const auto add = [&](int32_t id, uint32_t size) {
    const auto index = static_cast<int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, index - 1, -1, size});
  };
  const auto flush = [&] {
    if (unknown_size > 0) add(*unknown_, unknown_size);
    unknown_size = 0;
  };
  std::string spelt;
  for (size_t pos = 0; pos < piece.size();) {
    const size_t begin = pos;
    const char32_t c = next_code_point(piece, pos);
    const auto size = static_cast<uint32_t>(pos - begin);
    std::string_view text = piece.substr(begin, size);
    const bool with_prefix = begin > 0 && !prefix_.empty(), with_suffix = pos == piece.size() && !suffix_.empty();
    std::optional<int32_t> id;
    if (with_prefix || with_suffix) {
      spelt = (with_prefix ? prefix_ : "") + std::string(text) + (with_suffix ? suffix_ : "");
      text = spelt;
      id = vocabulary_.find(text);
    } else if (c < n_direct) {
      if (character_ids_[c] >= 0) id = character_ids_[c];
    } else {
      id = vocabulary_.find(text);
    }
    if (id) {
      flush();
      add(*id, size);
      continue;
    }
    if (byte_fallback_ && std::all_of(text.begin(), text.end(),
                                      [&](char b) { return byte_ids_[static_cast<unsigned char>(b)].has_value(); })) {
      // An unknown token in front stays pending and comes after these bytes: so does the reference.
      for (char b : text) add(*byte_ids_[static_cast<unsigned char>(b)], 1);
      continue;
    }
    if (!unknown_) continue;  // dropped: so does the reference
    if (!fuse_unknown_) flush();
    unknown_size += size;
  }
  flush();
}

// Applies the merge of the lowest rank, leftmost first, until none is left. A candidate that waits in the queue is
// carried out when the pair at its place still merges into the same token, even if by another merge than the one it was
// queued for: so does the reference.
template <class Queue>
void Bpe::merge_all(std::vector<Symbol>& symbols, Queue& queue) const {
  queue.clear();
  const auto consider = [&](int32_t left, int32_t right) {
    const Merge* merge = find_merge(symbols[static_cast<size_t>(left)].id, symbols[static_cast<size_t>(right)].id);
    if (merge) queue.push({merge->rank, left});
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<int32_t>(i), static_cast<int32_t>(i + 1));
  while (!queue.empty()) {
    const Candidate top = queue.pop();
    Symbol& symbol = symbols[static_cast<size_t>(top.at)];
    if (symbol.size == 0 || symbol.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(symbol.next)];
    const Merge* merge = find_merge(symbol.id, right.id);
    if (!merge || merge->id != id_by_rank_[top.rank]) continue;
    symbol.id = merge->id;
    symbol.size += right.size;
    symbol.next = right.next;
    right.size = 0;
    if (symbol.next >= 0) symbols[static_cast<size_t>(symbol.next)].previous = top.at;
    if (symbol.previous >= 0) consider(symbol.previous, top.at);
    if (symbol.next >= 0) consider(top.at, symbol.next);
  }
}

void Bpe::encode(std::string_view piece, uint32_t base, std::vector<Token>& out) const {
  if (piece.empty()) return;
  if (ignore_merges_) {
    if (const auto id = vocabulary_.find(piece)) {
      out.push_back({*id, base, base + static_cast<uint32_t>(piece.size())});
      return;
    }
  }
  static thread_local std::vector<Symbol> symbols;
  symbols.clear();
  first_symbols(piece, symbols);
  if (symbols.size() <= 256) {
    static thread_local SmallMergeQueue queue;
    merge_all(symbols, queue);
  } else {
    BucketMergeQueue queue;
    merge_all(symbols, queue);
  }
  uint32_t at = base;
  for (const Symbol& symbol : symbols) {
    if (symbol.size == 0) continue;
    out.push_back({symbol.id, at, at + symbol.size});
    at += symbol.size;
  }
  if (symbols.capacity() > 1 << 20) symbols = {};
}

}  // namespace signalbox::loaders::tokenizer
