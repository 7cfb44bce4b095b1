#include "loaders/tokenizer/pattern.h"

namespace signalbox::loaders::tokenizer {

void Pattern::find_all(std::string_view text, std::vector<ByteRange>& matches) const {
  if (const auto* regex = std::get_if<Regex>(&what_)) return regex->find_all(text, matches);
  const std::string& literal = std::get<std::string>(what_);
  for (size_t pos = 0; (pos = text.find(literal, pos)) != std::string_view::npos; pos += literal.size())
    matches.push_back({static_cast<uint32_t>(pos), static_cast<uint32_t>(pos + literal.size())});
}

Pattern read_pattern(const json::Ref& spec) {
  spec.reject_unknown({"String", "Regex"});
  const auto literal = spec.find("String"), regex = spec.find("Regex");
  if (literal.has_value() == regex.has_value()) spec.fail("expected one of String and Regex");
  if (regex) return Pattern(Regex(regex->string(), regex->where() + ": " + regex->path()));
  if (literal->string().empty()) literal->fail("expected a string that is not empty");
  return Pattern(literal->string());
}

}  // namespace signalbox::loaders::tokenizer
