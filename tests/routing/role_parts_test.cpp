// Kinds of tokens and groups of experts, where the answer can be told by hand.
#include <doctest/doctest.h>

#include <cmath>

#include "eval/routing/communities.h"
#include "eval/routing/domain_ratio.h"
#include "eval/routing/token_classes.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

// The classes of pieces that stand in this order, a name each between blanks.
std::vector<std::string> named_classes(const std::vector<std::string>& pieces) {
  std::map<int32_t, std::string> spelt;
  std::vector<int32_t> tokens;
  for (const std::string& piece : pieces) {
    tokens.push_back(static_cast<int32_t>(tokens.size()));
    spelt[tokens.back()] = piece;
  }
  std::vector<std::string> out;
  for (const uint32_t mine : TokenSpelling(spelt).classes(tokens)) {
    std::string names;
    for (size_t one = 1; one < n_token_classes; ++one)
      if (mine >> one & 1)
        names += (names.empty() ? "" : " ") + std::string(token_class_name(static_cast<TokenClass>(one)));
    out.push_back(names);
  }
  return out;
}

}  // namespace

TEST_CASE("kinds of tokens: SentencePiece") {
  const std::vector<std::string> found =
      named_classes({"<s>", "▁The", "▁U",    "ng", "are", "▁saw", "▁J",  "ules", ".",  "▁He",        "<0x0A>", "▁",
                     "42",  "▁get", "Value", "(",  ")",   ";",    "▁東", "京",   "▁+", "<|im_end|>", "▁I"});
  const std::vector<std::string> expected = {"special",
                                             "word_start latin",
                                             "word_start name latin",
                                             "word_continuation name latin",
                                             "word_continuation name latin",
                                             "word_start latin",
                                             "word_start name latin",
                                             "word_continuation name latin",
                                             "punctuation",
                                             "word_start latin",
                                             "newline",
                                             "space",
                                             "digits",
                                             "word_start code latin",
                                             "word_continuation code latin",
                                             "punctuation",
                                             "punctuation",
                                             "punctuation code",
                                             "word_start han",
                                             "word_continuation han",
                                             "symbol",
                                             "special",
                                             "word_start latin"};
  CHECK(found == expected);
}

TEST_CASE("kinds of tokens: byte-level, characters in parts, plain text, unknown tokens") {
  // U+00EF as two tokens of a byte each.
  const std::vector<std::string> found = named_classes({"Ġna", "Ã", "¯", "ve", "ĊĊ", "ĠÐ´Ð°"});
  CHECK(found == std::vector<std::string>{"word_start latin", "partial word_continuation latin",
                                          "partial word_continuation latin", "word_continuation latin", "newline",
                                          "word_start cyrillic"});
  CHECK(named_classes({"a b", "-"}) == std::vector<std::string>{"word_start latin", "punctuation"});
  const TokenSpelling one({{5, "x"}});
  CHECK(one.classes(std::vector<int32_t>{5, 6}) ==
        std::vector<uint32_t>{
            class_bit(TokenClass::first) | class_bit(TokenClass::word_start) | class_bit(TokenClass::latin),
            unknown_token});
  CHECK(is_special_piece("<|endoftext|>"));
  CHECK(is_special_piece("<｜begin▁of▁sentence｜>"));
  CHECK(is_special_piece("[INST]"));
  CHECK_FALSE(is_special_piece("<div>"));
  CHECK_FALSE(is_special_piece("[0]"));
}

TEST_CASE("rate ratios: nothing on one side, on both") {
  CHECK(rate_ratio(4, 8, 2, 8) == 2);
  CHECK(rate_ratio(4, 8, 0, 8) == 8);
  CHECK(rate_ratio(0, 8, 3, 8) == 0);
  CHECK(std::isnan(rate_ratio(0, 8, 0, 8)));
  CHECK(std::isnan(rate_ratio(4, 8, 0, 0)));
}

TEST_CASE("groups: two triangles joined by an edge, and a star") {
  PairGraph graph{6, std::vector<double>(36)};
  const auto join = [&](size_t a, size_t b, double n) { graph.counts[a * 6 + b] = graph.counts[b * 6 + a] = n; };
  for (const auto& [a, b] : {std::pair<size_t, size_t>{0, 1}, {0, 4}, {1, 4}, {2, 3}, {2, 5}, {3, 5}}) join(a, b, 10);
  join(4, 5, 1);
  std::vector<double> degrees(6);
  for (size_t i = 0; i < 36; ++i) degrees[i / 6] += graph.counts[i];
  const std::vector<double> x = pair_weights(degrees);
  double sum = 0;
  for (const double one : x) sum += one;
  for (size_t a = 0; a < 6; ++a) CHECK(x[a] * (sum - x[a]) == doctest::Approx(degrees[a]));
  const std::vector<int32_t> found = louvain(graph, x);
  CHECK(found == std::vector<int32_t>{0, 0, 1, 1, 0, 1});
  CHECK(modularity(graph, x, found) > modularity(graph, x, {0, 0, 0, 1, 1, 1}));
  // All in one: exactly what is expected.
  CHECK(modularity(graph, x, {0, 0, 0, 0, 0, 0}) == doctest::Approx(0));
  // One expert that is in every pair explains all of them; experts without pairs have no group.
  PairGraph star{4, std::vector<double>(16)};
  star.counts[1] = star.counts[4] = star.counts[2] = star.counts[8] = 5;
  const std::vector<double> rays = pair_weights({10, 5, 5, 0});
  CHECK(rays[0] * rays[1] == doctest::Approx(5).epsilon(0.01));
  CHECK(louvain(star, rays)[3] == -1);
}
