// Regular expressions as the tokenizer files use them: Oniguruma's syntax and meaning.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "loaders/tokenizer/aligned_text.h"

namespace signalbox::loaders::tokenizer {

class Regex {
 public:
  // Throws Error starting with `where` on a bad expression.
  Regex(const std::string& pattern, const std::string& where);

  // Appends all matches from left to right, non-overlapping; an empty match right behind another one is not counted.
  // Safe to call from several threads. Throws Error when a search backtracks beyond 10 million steps and 64 a byte of
  // the text, never gives a wrong result.
  void find_all(std::string_view text, std::vector<ByteRange>& matches) const;

 private:
  void search(std::string_view text, std::vector<ByteRange>& matches) const;

  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
  std::string pattern_, where_;
};

// The expression that finds `text` itself.
std::string escape_regex(std::string_view text);

}  // namespace signalbox::loaders::tokenizer
