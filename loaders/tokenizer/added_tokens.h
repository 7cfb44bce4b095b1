// Added tokens: strings that are tokens as a whole, looked for before anything else happens to a text.
#pragma once
#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "loaders/tokenizer/aligned_text.h"
#include "loaders/tokenizer/bpe.h"
#include "loaders/tokenizer/normalizer.h"

namespace signalbox::loaders::tokenizer {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only between characters that are no word characters
  bool lstrip = false;       // takes the white space in front with it
  bool rstrip = false;       // ... and behind
  bool normalized = false;   // looked for in the normalized text, in its own normalized form
  bool special = false;
  std::string spelling;  // what it decodes to: the content, in normalized form if it is looked for so
};

// A part of a text: an added token, or what lies between (token == nullptr).
struct AddedPart {
  ByteRange range;
  const AddedToken* token = nullptr;
};

// Strings to be found leftmost and longest.
class Trie {
 public:
  Trie();
  void add(std::string_view text, int32_t value);  // the first value of a text holds
  // The value of the longest entry that `text` has at `pos`, and its length; -1 when there is none.
  int32_t longest(std::string_view text, size_t pos, size_t& length) const;
  bool empty() const { return n_nodes_ == 1; }

 private:
  int32_t child(int32_t node, unsigned char byte) const;
  std::array<int32_t, 256> roots_;
  std::unordered_map<uint64_t, int32_t> children_;  // node << 8 | byte
  std::vector<int32_t> values_;                     // by node
  int32_t n_nodes_ = 1;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Adds a token; throws Error (where) on an empty or repeated content or an id that is taken.
  void add(AddedToken token, const Vocabulary& vocabulary, const std::string& where);
  // Builds what find() needs; `normalizer` may be null.
  void prepare(const Normalizer* normalizer, const std::string& where);

  // Cuts `text` at the tokens that are looked for in the text as given (normalized = false) or in the normalized one.
  // A token for which `ignore` says so (it gets the range in `text`) is ordinary text.
  std::vector<AddedPart> find(std::string_view text, bool normalized,
                              const std::function<bool(const AddedToken&, ByteRange)>& ignore) const;

  const AddedToken* by_id(int32_t id) const;
  const AddedToken* by_content(std::string_view content) const;
  bool is_special(std::string_view content) const { return special_.count(std::string(content)) > 0; }
  const std::vector<AddedToken>& tokens() const { return tokens_; }
  int32_t largest_id() const { return largest_id_; }

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, size_t> by_content_;
  std::unordered_set<std::string> special_;
  Trie plain_, normalized_;
  int32_t largest_id_ = -1;
};

// Reads `added_tokens` of a tokenizer.json. Ids must be those that the library assigns: of the vocabulary, else the
// next free one in the order of the file.
AddedTokens read_added_tokens(const json::Ref& spec, const Vocabulary& vocabulary, const Normalizer* normalizer);

}  // namespace signalbox::loaders::tokenizer
