#include "tools/serve/held_text.h"

#include <algorithm>

#include "base/text.h"

namespace signalbox::tools {

namespace {

const std::string think_begin = "<think>", think_end = "</think>";

}  // namespace

size_t open_end(std::string_view text, const std::vector<std::string>& words) {
  size_t longest = 0;
  for (const std::string& word : words)
    for (size_t n = std::min(text.size(), word.size() - 1); n > longest; --n)
      if (text.ends_with(std::string_view(word).substr(0, n))) {
        longest = n;
        break;
      }
  return longest;
}

AnswerParts::AnswerParts(Form form, bool inside) : form_(form) {
  now_ = form == Form::plain ? Kind::content : inside ? Kind::reasoning : Kind::content;
  if (form == Form::channels) now_ = Kind::mark;
  in_header_ = form == Form::channels;
  marks_.emplace_back(0, now_);
}

void AnswerParts::mark(size_t at, Kind kind) {
  now_ = kind;
  marks_.emplace_back(at, kind);
}

void AnswerParts::push(const TokenTexts& texts, int32_t id, const std::string& fresh) {
  text_ += fresh;
  if (form_ == Form::think) return scan(false);
  decided_ = text_.size();
  if (form_ == Form::plain) return;
  if (!texts.is_special(id)) {
    if (in_header_) header_ += fresh;
    return;
  }
  const std::string& name = texts.bytes(id);
  if (name == "<|channel|>") {
    in_header_ = true;
    header_.clear();
    mark(text_.size(), Kind::mark);
  } else if (name == "<|message|>") {
    in_header_ = false;
    mark(text_.size(), trimmed(header_).starts_with("final") ? Kind::content : Kind::reasoning);
  } else if (name == "<|start|>") {
    in_header_ = true;
    header_.clear();
    mark(text_.size(), Kind::mark);
  }
}

void AnswerParts::scan(bool last) {
  while (true) {
    const std::string& word = now_ == Kind::reasoning ? think_end : think_begin;
    // An answer thinks once, at its beginning.
    const bool may_think = now_ == Kind::reasoning || (marks_.size() == 1 && trimmed(text_).substr(0, 1) == "<");
    const size_t at = may_think ? text_.find(word, decided_) : std::string::npos;
    if (at == std::string::npos) {
      decided_ = text_.size() - (last || !may_think ? 0 : open_end(std::string_view(text_).substr(decided_), {word}));
      return;
    }
    const bool begins = now_ != Kind::reasoning;
    mark(at, Kind::mark);
    mark(at + word.size(), begins ? Kind::reasoning : Kind::content);
    decided_ = at + word.size();
  }
}

void AnswerParts::finish(const std::string& rest) {
  text_ += rest;
  if (form_ == Form::think) return scan(true);
  decided_ = text_.size();
}

std::pair<std::string, std::string> AnswerParts::split(std::string_view text, size_t begin, size_t end) const {
  std::pair<std::string, std::string> out;
  for (size_t i = 0; i < marks_.size(); ++i) {
    const size_t from = std::max(begin, marks_[i].first);
    const size_t to = std::min({end, text.size(), i + 1 < marks_.size() ? marks_[i + 1].first : end});
    if (from >= to || marks_[i].second == Kind::mark) continue;
    (marks_[i].second == Kind::content ? out.first : out.second) += text.substr(from, to - from);
  }
  return out;
}

}  // namespace signalbox::tools
