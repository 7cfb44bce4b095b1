// Byte pair encoding: a piece of text to ids by ranked merges.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::loaders::tokenizer {

// A token of a text, begin and end in bytes of that text.
struct Token {
  int32_t id;
  uint32_t begin, end;
};

// Strings with ids, both ways. The strings live in one block.
class Vocabulary {
 public:
  // Throws Error naming `where` when the token or the id is there already.
  void add(std::string_view token, int32_t id, const std::string& where);
  void reserve(size_t n_tokens, size_t n_bytes);
  std::optional<int32_t> find(std::string_view token) const;
  // nullopt for an id without a token.
  std::optional<std::string_view> token(int32_t id) const;
  size_t size() const { return n_tokens_; }
  int32_t largest_id() const { return static_cast<int32_t>(by_id_.size()) - 1; }

 private:
  struct Entry {
    uint32_t begin = 0, size = 0;
    int32_t id = -1;
  };
  void grow(size_t slots);
  std::string_view text_of(const Entry& entry) const {
    return std::string_view(bytes_).substr(entry.begin, entry.size);
  }
  std::string bytes_;
  std::vector<Entry> slots_;  // open addressing, a power of two; id -1: empty
  std::vector<Entry> by_id_;  // id -1: no token
  size_t n_tokens_ = 0;
};

class Bpe {
 public:
  // Reads the `model` of a tokenizer.json. Anything but BPE, and dropout, is refused by name.
  explicit Bpe(const json::Ref& spec);

  // Appends the tokens of `piece`, their positions moved by `base`. O(n log n).
  void encode(std::string_view piece, uint32_t base, std::vector<Token>& out) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  size_t n_merges() const { return n_merges_; }
  bool has_byte_fallback() const { return byte_fallback_; }

 private:
  struct Merge {
    uint64_t pair = UINT64_MAX;  // left id << 32 | right id
    uint32_t rank = 0;
    int32_t id = 0;
  };
  struct Symbol;
  const Merge* find_merge(int32_t left, int32_t right) const;
  void add_merge(int32_t left, int32_t right, uint32_t rank, int32_t id);
  void read_merges(const json::Ref& merges);
  void first_symbols(std::string_view piece, std::vector<Symbol>& symbols) const;
  template <class Queue>
  void merge_all(std::vector<Symbol>& symbols, Queue& queue) const;

  Vocabulary vocabulary_;
  std::vector<Merge> merges_;  // open addressing, a power of two
  std::vector<int32_t> id_by_rank_;
  size_t n_merges_ = 0;
  std::string where_, prefix_, suffix_;
  std::optional<int32_t> unknown_;
  std::optional<int32_t> byte_ids_[256];
  std::vector<int32_t> character_ids_;  // of the code points below 0x180, -1: not in the vocabulary
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
};

}  // namespace signalbox::loaders::tokenizer
