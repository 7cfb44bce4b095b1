// Text on its way out: what may still become a stop string, or the mark of another part, waits.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "tools/serve/token_texts.h"

namespace signalbox::tools {

// Bytes at the end of `text` that may be the beginning of one of `words`, the longest such.
size_t open_end(std::string_view text, const std::vector<std::string>& words);

// Which parts of an answer are its content, which its reasoning, and which are marks between them.
class AnswerParts {
 public:
  enum class Kind : uint8_t { content, reasoning, mark };
  enum class Form : uint8_t {
    plain,     // all is content
    think,     // <think> ... </think>
    channels,  // <|channel|>NAME<|message|> ..., where "final" is the content
  };
  // `inside`: the answer begins within its reasoning.
  AnswerParts(Form form, bool inside);

  void push(const TokenTexts& texts, int32_t id, const std::string& fresh);
  void finish(const std::string& rest);
  size_t decided() const { return decided_; }  // bytes whose part is known
  // Bytes [begin, end) of the text by part: content, reasoning.
  std::pair<std::string, std::string> split(std::string_view text, size_t begin, size_t end) const;

 private:
  void mark(size_t at, Kind kind);
  void scan(bool last);
  Form form_;
  Kind now_ = Kind::content;
  std::string text_, header_;
  bool in_header_ = false;
  size_t decided_ = 0;
  std::vector<std::pair<size_t, Kind>> marks_;  // from this byte on
};

}  // namespace signalbox::tools
