#include "loaders/tokenizer/added_tokens.h"

#include <algorithm>

#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {

// --- Trie ------------------------------------------------------------------------------------------------------------

Trie::Trie() : values_(1, -1) { roots_.fill(-1); }

int32_t Trie::child(int32_t node, unsigned char byte) const {
  if (node == 0) return roots_[byte];
  const auto found = children_.find(static_cast<uint64_t>(node) << 8 | byte);
  return found == children_.end() ? -1 : found->second;
}

void Trie::add(std::string_view text, int32_t value) {
  int32_t node = 0;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    int32_t next = child(node, byte);
    if (next < 0) {
      next = n_nodes_++;
      values_.push_back(-1);
      if (node == 0)
        roots_[byte] = next;
      else
        children_[static_cast<uint64_t>(node) << 8 | byte] = next;
    }
    node = next;
  }
  int32_t& slot = values_[static_cast<size_t>(node)];
  if (slot < 0) slot = value;
}

int32_t Trie::longest(std::string_view text, size_t pos, size_t& length) const {
  int32_t node = 0, best = -1;
  for (size_t i = pos; i < text.size(); ++i) {
    node = child(node, static_cast<unsigned char>(text[i]));
    if (node < 0) break;
    if (values_[static_cast<size_t>(node)] >= 0) {
      best = values_[static_cast<size_t>(node)];
      length = i + 1 - pos;
    }
  }
  return best;
}

// --- AddedTokens -----------------------------------------------------------------------------------------------------

void AddedTokens::add(AddedToken token, const Vocabulary& vocabulary, const std::string& where) {
  const auto quoted = [](std::string_view text) { return "\"" + std::string(text) + "\""; };
  if (token.content.empty()) throw Error(where, "expected a content that is not empty");
  if (by_content_.count(token.content))
    throw Error(where, "expected each token once, found " + quoted(token.content) + " twice");
  if (by_id_.count(token.id))
    throw Error(where, "expected an id for each token, found " + std::to_string(token.id) + " for both " +
                           quoted(tokens_[by_id_[token.id]].content) + " and " + quoted(token.content));
  const auto known = vocabulary.token(token.id);
  if (known && *known != token.content)
    throw Error(where, "expected a free id, found " + std::to_string(token.id) + ", which the vocabulary has for " +
                           quoted(*known));
  by_content_[token.content] = by_id_[token.id] = tokens_.size();
  if (token.special) special_.insert(token.content);
  largest_id_ = std::max(largest_id_, token.id);
  tokens_.push_back(std::move(token));
}

void AddedTokens::prepare(const Normalizer* normalizer, const std::string& where) {
  // Where two normalized forms agree the first one holds, special tokens first.
  for (const bool special : {true, false}) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      AddedToken& token = tokens_[i];
      if (token.special != special) continue;
      token.spelling = token.content;
      if (!token.normalized) {
        plain_.add(token.content, static_cast<int32_t>(i));
        continue;
      }
      AlignedText text = AlignedText::original(token.content, {0, static_cast<uint32_t>(token.content.size())});
      if (normalizer) normalizer->apply(text, true);
      if (text.text.empty())
        throw Error(where, "expected a token that normalization leaves something of, found \"" + token.content + "\"");
      normalized_.add(text.text, static_cast<int32_t>(i));
      token.spelling = std::move(text.text);
    }
  }
}

std::vector<AddedPart> AddedTokens::find(std::string_view text, bool normalized,
                                         const std::function<bool(const AddedToken&, ByteRange)>& ignore) const {
  std::vector<AddedPart> parts;
  const Trie& trie = normalized ? normalized_ : plain_;
  size_t done = 0;  // behind the last part
  for (size_t pos = 0; !trie.empty() && pos < text.size();) {
    size_t length = 0;
    const int32_t index = trie.longest(text, pos, length);
    if (index < 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = pos, end = pos + length;
    pos = end;  // also when the token is passed over: nothing is looked for inside it
    if (ignore && ignore(token, {static_cast<uint32_t>(begin), static_cast<uint32_t>(end)})) continue;
    if (token.single_word) {
      size_t before = begin, after = end;
      if (begin > 0 && is_word(previous_code_point(text, before))) continue;
      if (end < text.size() && is_word(next_code_point(text, after))) continue;
    }
    if (token.lstrip) {
      for (size_t before = begin; before > 0;) {
        if (!is_whitespace(previous_code_point(text, before))) break;
        begin = before;
      }
      begin = std::max(begin, done);
    }
    if (token.rstrip) {
      for (size_t after = end; after < text.size();) {
        if (!is_whitespace(next_code_point(text, after))) break;
        end = after;
      }
    }
    if (done < begin) parts.push_back({{static_cast<uint32_t>(done), static_cast<uint32_t>(begin)}, nullptr});
    parts.push_back({{static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, &token});
    done = end;
  }
  if (done < text.size()) parts.push_back({{static_cast<uint32_t>(done), static_cast<uint32_t>(text.size())}, nullptr});
  return parts;
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::by_content(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

AddedTokens read_added_tokens(const json::Ref& spec, const Vocabulary& vocabulary, const Normalizer* normalizer) {
  AddedTokens tokens;
  const auto n_vocabulary = static_cast<int64_t>(vocabulary.size());
  int64_t largest = -1;
  for (const json::Ref& item : spec.items()) {
    item.reject_unknown({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token;
    token.content = item.at("content").string();
    token.single_word = item.at("single_word").boolean();
    token.lstrip = item.at("lstrip").boolean();
    token.rstrip = item.at("rstrip").boolean();
    token.normalized = item.at("normalized").boolean();
    token.special = item.at("special").boolean();
    const int64_t id = item.at("id").integer(0, 1 << 27);
    const auto known = vocabulary.find(token.content);
    const int64_t wanted = known ? *known : std::max(largest + 1, n_vocabulary);
    if (id != wanted)
      item.at("id").fail("expected " + std::to_string(wanted) +
                         (known ? " (the vocabulary's id of this token)" : " (the next free id)") + ", found " +
                         std::to_string(id));
    largest = std::max(largest, id);
    token.id = static_cast<int32_t>(id);
    tokens.add(std::move(token), vocabulary, item.where() + ": " + item.path());
  }
  tokens.prepare(normalizer, spec.where() + ": " + spec.path());
  return tokens;
}

}  // namespace signalbox::loaders::tokenizer
