// From the source of a template to tokens.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "loaders/template/value.h"

namespace signalbox::loaders::jinja {

// What is wrong with a template's source.
struct SyntaxFailure {
  int line;
  std::string message;
};

enum class TokenType { data, variable_begin, variable_end, block_begin, block_end, name, string, number, op, end };

struct Token {
  TokenType type;
  int line;
  std::string text;  // data, name, string (unescaped), operator
  Value number;      // of a number
};

// Newlines become "\n", one final newline is dropped, white space is trimmed as {%- -%}, trim_blocks and lstrip_blocks
// ask. The last token is `end`. Throws SyntaxFailure.
std::vector<Token> tokenize(std::string_view source);

}  // namespace signalbox::loaders::jinja
