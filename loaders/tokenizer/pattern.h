// What Replace and Split look for: {"String": text} or {"Regex": expression}.
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "loaders/tokenizer/regex.h"

namespace signalbox::loaders::tokenizer {

class Pattern {
 public:
  explicit Pattern(std::string literal) : what_(std::move(literal)) {}
  explicit Pattern(Regex regex) : what_(std::move(regex)) {}

  // Appends all matches from left to right, non-overlapping.
  void find_all(std::string_view text, std::vector<ByteRange>& matches) const;
  std::vector<ByteRange> find_all(std::string_view text) const {
    std::vector<ByteRange> matches;
    find_all(text, matches);
    return matches;
  }

 private:
  std::variant<std::string, Regex> what_;
};

// Reads {"String": ...} or {"Regex": ...}. An empty String is refused.
Pattern read_pattern(const json::Ref& spec);

}  // namespace signalbox::loaders::tokenizer
