// Rules of tokenizers one by one: what is refused, and with which words; targets, spans, streams, hard texts.
#include "loaders/tokenizer/tokenizer.h"

#include <doctest/doctest.h>

#include <ctime>

#include "base/error.h"
#include "loaders/tokenizer/regex.h"

namespace signalbox::test {
namespace {

// A tokenizer.json with parts replaced.
struct Spec {
  std::string added = "[]", normalizer = "null", pre = "null", post = "null", decoder = "null";
  std::string vocab = R"({"a":0,"b":1,"ab":2,"▁":3,"▁a":4,"<0x0A>":5,"é":6})", merges = R"(["a b","▁ a"])";
  std::string flags = "";  // of the model: "\"byte_fallback\":true,"
  std::string extra = "";  // of the document

  std::string text() const {
    return R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":)" + added + R"(,"normalizer":)" +
           normalizer + R"(,"pre_tokenizer":)" + pre + R"(,"post_processor":)" + post + R"(,"decoder":)" + decoder +
           extra + R"(,"model":{"type":"BPE",)" + flags + R"("vocab":)" + vocab + R"(,"merges":)" + merges + "}}";
  }
  std::unique_ptr<Tokenizer> make(std::optional<std::string> config = {}) const {
    TokenizerFiles files;
    files.tokenizer_json = text();
    files.tokenizer_config_json = std::move(config);
    return make_tokenizer(files);
  }
  std::string refusal(std::optional<std::string> config = {}) const {
    try {
      make(std::move(config));
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
};

std::string token(int id, const std::string& content,
                  const std::string& more = R"("normalized":false,"special":true)") {
  return R"({"id":)" + std::to_string(id) + R"(,"content":")" + content +
         R"(","single_word":false,"lstrip":false,"rstrip":false,)" + more + "}";
}

using Ids = std::vector<int32_t>;

TEST_CASE("tokenizer: what is refused is named") {
  struct Case {
    Spec spec;
    const char* message;
  };
  const Case cases[] = {
      {{.vocab = R"({"a":0,"b":0})", .merges = "[]"},
       "tokenizer.json: model.vocab: expected an id for each token, found id 0 for both \"a\" and \"b\""},
      {{.vocab = R"({"a":-1})", .merges = "[]"},
       "tokenizer.json: model.vocab: expected an id of 0 to 134217728 for \"a\", found -1"},
      {{.vocab = R"({"a":1.5})", .merges = "[]"},
       "tokenizer.json: model.vocab: expected an id of 0 to 134217728 for \"a\", found 1.5"},
      {{.merges = R"(["a c"])"}, "tokenizer.json: model.merges[0]: expected tokens of the vocabulary, found \"c\""},
      {{.merges = R"(["b a"])"}, "tokenizer.json: model.merges[0]: expected tokens of the vocabulary, found \"ba\""},
      {{.merges = R"(["a b","ab"])"},
       "tokenizer.json: model.merges[1]: expected two tokens with a space between them, found \"ab\""},
      {{.merges = R"([["a","b","c"]])"},
       "tokenizer.json: model.merges[0]: expected two tokens, found [\"a\",\"b\",\"c\"]"},
      {{.flags = R"("dropout":0.1,)"},
       "tokenizer.json: model.dropout: expected null or 0: random merges are not supported"},
      {{.flags = R"("unk_token":"<unk>",)"},
       "tokenizer.json: model.unk_token: expected a token of the vocabulary, found \"<unk>\""},
      {{.added = "[" + token(9, "<s>") + "]"},
       "tokenizer.json: added_tokens[0].id: expected 7 (the next free id), found 9"},
      {{.added = "[" + token(3, "a") + "]"},
       "tokenizer.json: added_tokens[0].id: expected 0 (the vocabulary's id of this token), found 3"},
      {{.added = "[" + token(7, "") + "]"}, "tokenizer.json: added_tokens[0]: expected a content that is not empty"},
      {{.added = "[" + token(7, "<s>") + "," + token(8, "<s>") + "]"},
       "tokenizer.json: added_tokens[1]: expected each token once, found \"<s>\" twice"},
      {{.pre = R"({"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated","invert":false})"},
       "tokenizer.json: pre_tokenizer.pattern.Regex: expected a regular expression, found \"(\": end pattern with "
       "unmatched parenthesis"},
      {{.pre = R"({"type":"Split","pattern":{"Regex":"\\p{Klingon}"},"behavior":"Isolated","invert":false})"},
       "tokenizer.json: pre_tokenizer.pattern.Regex: expected classes of characters that are known here, found "
       "\\p{Klingon}"},
      {{.pre = R"({"type":"Split","pattern":{"String":""},"behavior":"Isolated","invert":false})"},
       "tokenizer.json: pre_tokenizer.pattern.String: expected a string that is not empty"},
  };
  for (const Case& c : cases) CHECK(c.spec.refusal() == c.message);

  TokenizerFiles unigram;
  unigram.tokenizer_json = R"({"model":{"type":"Unigram","vocab":[]}})";
  CHECK_THROWS_WITH_AS(make_tokenizer(unigram), "tokenizer.json: model.type: expected BPE, found \"Unigram\"", Error);
  CHECK(Spec{.normalizer = R"({"type":"Nmt"})"}.refusal().find("found \"Nmt\"") != std::string::npos);
  CHECK(Spec{.pre = R"({"type":"UnicodeScripts"})"}.refusal().find("found \"UnicodeScripts\"") != std::string::npos);
  CHECK(Spec{.post = R"({"type":"Odd"})"}.refusal().find("found \"Odd\"") != std::string::npos);
  CHECK(Spec{.decoder = R"({"type":"CTC"})"}.refusal().find("found \"CTC\"") != std::string::npos);
  CHECK(Spec{.extra = R"(,"novel":1)"}.refusal().find("novel") != std::string::npos);
  CHECK(Spec{}.refusal(R"({"add_bos_token":true})") ==
        "tokenizer_config.json: bos_token: expected a token, as add_bos_token is true, found none");
  CHECK(Spec{}.refusal(R"({"add_bos_token":true,"bos_token":"<s>"})") ==
        "tokenizer_config.json: bos_token: expected a token of the vocabulary, found \"<s>\"");
  CHECK_THROWS_WITH_AS(Spec{}.make()->encode("a\xFF"), "text: expected valid UTF-8, found byte 255 at offset 1", Error);
}

TEST_CASE("tokenizer: the begin token comes from the template, else from the config") {
  const std::string config =
      R"({"add_bos_token":true,"bos_token":{"__type":"AddedToken","content":"<s>"},"eos_token":null})";
  Spec spec{.added = "[" + token(7, "<s>") + "," + token(8, "<t>") + "]"};
  const auto by_config = spec.make(config);
  CHECK(by_config->encode("ab").ids == Ids{7, 2});
  CHECK(by_config->begin_id() == 7);
  CHECK(by_config->role("bos_token") == "<s>");
  CHECK(by_config->role("eos_token") == std::nullopt);
  CHECK(by_config->encode("ab", {.add_special = false}).ids == Ids{2});
  spec.post =
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<t>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<t>":{"id":"<t>","ids":[8],"tokens":["<t>"]}}})";
  CHECK(spec.make(config)->encode("ab").ids == Ids{8, 2});
  CHECK(spec.make(config)->begin_id() == 8);
}

TEST_CASE("tokenizer: flags of the config act by its class") {
  const Spec spec{.added = "[" + token(7, "<s>") + "]"};
  const auto ids = [&](const std::string& name) {
    return spec
        .make(R"({"add_bos_token":true,"add_eos_token":true,"bos_token":"<s>","eos_token":"<s>","tokenizer_class":)" +
              name + "}")
        ->encode("ab")
        .ids;
  };
  for (const char* reads : {"\"LlamaTokenizer\"", "\"LlamaTokenizerFast\"", "\"GPTNeoXTokenizerFast\"",
                            "\"CodeLlamaTokenizer\"", "\"GemmaTokenizerFast\"", "\"CohereTokenizer\"", "null"})
    CHECK(ids(reads) == Ids{7, 2, 7});
  for (const char* leaves : {"\"Qwen2Tokenizer\"", "\"Qwen2TokenizerFast\"", "\"PreTrainedTokenizerFast\"",
                             "\"PreTrainedTokenizer\"", "\"GPT2Tokenizer\"", "\"TokenizersBackend\""})
    CHECK(ids(leaves) == Ids{2});
  // Where the flags do not act, their tokens need not be there.
  CHECK(Spec{}.make(R"({"add_bos_token":true,"tokenizer_class":"Qwen2Tokenizer"})")->encode("ab").ids == Ids{2});
}

TEST_CASE("tokenizer: truncation and padding of the last use are no part of a tokenizer") {
  TokenizerFiles files;
  files.tokenizer_json = Spec{}.text();
  for (const auto& [from, to] :
       {std::pair<std::string, std::string>{
            R"("truncation":null)",
            R"("truncation":{"direction":"Right","max_length":1,"strategy":"LongestFirst","stride":0})"},
        {R"("padding":null)",
         R"("padding":{"strategy":{"Fixed":8},"direction":"Left","pad_id":0,"pad_type_id":0,"pad_token":"a"})"}})
    files.tokenizer_json->replace(files.tokenizer_json->find(from), from.size(), to);
  CHECK(make_tokenizer(files)->encode("abb").ids == Ids{2, 1});
}

TEST_CASE("tokenizer: a target has neither begin token nor prefix") {
  Spec spec{
      .added = "[" + token(7, "<s>") + "]",
      .normalizer =
          R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]})"};
  const auto tokenizer = spec.make(R"({"add_bos_token":true,"bos_token":"<s>"})");
  CHECK(tokenizer->encode("ab").ids == Ids{7, 3, 2});
  CHECK(tokenizer->encode_target("ab").ids == Ids{2});
  CHECK(tokenizer->encode_target(" ab").ids == Ids{3, 2});
  CHECK(tokenizer->encode_target("").ids.empty());
}

TEST_CASE("tokenizer: special tokens are text inside literal ranges") {
  const Spec spec{.added = "[" + token(7, "<a>") + "," + token(8, "<b>", R"("normalized":false,"special":false)") + "]",
                  .vocab = R"({"a":0,"b":1,"<":2,">":3,"é":4,"x":5,"y":6})",
                  .merges = "[]"};
  const auto tokenizer = spec.make();
  const std::string text = "é<a><a><b>";
  CHECK(tokenizer->encode(text).ids == Ids{4, 7, 7, 8});
  const CharRange second[] = {{4, 10}};
  EncodeOptions options;
  options.literal = second;
  CHECK(tokenizer->encode(text, options).ids == Ids{4, 7, 2, 0, 3, 8});
  const CharRange touching[] = {{3, 5}};
  options.literal = touching;
  CHECK(tokenizer->encode(text, options).ids == Ids{4, 2, 0, 3, 2, 0, 3, 8});
  const CharRange between[] = {{4, 4}};
  options.literal = between;
  CHECK(tokenizer->encode(text, options).ids == Ids{4, 7, 7, 8});
  const Encoding encoding = tokenizer->encode(text);
  CHECK(encoding.offsets == std::vector<CharRange>{{0, 1}, {1, 4}, {4, 7}, {7, 10}});
  CHECK(encoding.covers(1, {3, 9}));
  CHECK_FALSE(encoding.covers(1, {4, 9}));
}

TEST_CASE("tokenizer: a stream holds back what is not final") {
  Spec spec{.decoder = R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})",
            .vocab = R"({"a":0,"Ã":1,"©":2,"Ġ":3})",
            .merges = "[]"};
  const auto bytes = spec.make();
  const auto stream = bytes->stream(false);
  CHECK(stream->push(0) == "a");
  CHECK(stream->push(1) == "");
  CHECK(stream->push(2) == "é");
  CHECK(stream->push(1) == "");
  CHECK(stream->push(3) == "\uFFFD ");
  CHECK(stream->push(1) == "");
  CHECK(stream->push(99) == "");  // no such token
  CHECK(stream->finish() == "\uFFFD");
  CHECK(stream->push(0) == "a");  // at its beginning again

  spec.vocab = R"({"▁":0,"<0xC3>":1,"<0xA9>":2,"▁a":3,"<0x-1>":4})";
  spec.decoder =
      R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})";
  const auto pieces = spec.make();
  const auto second = pieces->stream(false);
  CHECK(second->push(3) == "a");
  CHECK(second->push(3) == " a");
  CHECK(second->push(1) == "");
  CHECK(second->push(2) == "");
  CHECK(second->push(3) == "é a");
  CHECK(second->push(1) == "");
  CHECK(second->push(1) == "");
  CHECK(second->push(4) == "\uFFFD\uFFFD<0x-1>");
  CHECK(second->finish() == "");
  CHECK(pieces->decode(Ids{3, 1, 2}, false) == "aé");
}

TEST_CASE("tokenizer: the rewrite of X+$ finds what the expression finds") {
  // Against the definition: at each place from the last match on, the longest run of white space with a line end or the
  // end of the text behind it.
  const tokenizer::Regex fast("\\s+$", "test"), plain("(?:\\s+)$", "test");
  std::string text;
  const char alphabet[] = {' ', '\n', 'a', '\t'};
  for (int n = 0; n < 4 * 4 * 4 * 4 * 4 * 4 * 4; ++n) {
    text.clear();
    for (int k = 0, rest = n; k < 7; ++k, rest /= 4) text += alphabet[rest % 4];
    std::vector<tokenizer::ByteRange> a, b;
    fast.find_all(text, a);
    plain.find_all(text, b);
    CHECK(a == b);
  }
}

TEST_CASE("tokenizer: hard texts of a megabyte take linear time" * doctest::test_suite("repeats: texts at length")) {
  const Spec spec{
      .pre =
          R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s+$"},"behavior":"Isolated","invert":false},{"type":"Split","pattern":{"Regex":"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false}]})",
      .vocab = R"({"a":0,"aa":1,"aaaa":2," ":3,"  ":4,"1":5,"\n":6,"a1":7})",
      .merges = R"(["a a","aa aa",[" "," "],["a","1"]])"};
  const auto tokenizer = spec.make();
  const size_t n = 1 << 20;
  const std::string spaces(n, ' ');
  std::string mixed, breaks;
  for (size_t i = 0; i < n / 2; ++i) mixed += "a1";
  for (size_t i = 0; i < n / 2; ++i) breaks += " \n";
  for (const std::string& text :
       {std::string(n, 'a'), spaces, spaces + "1", std::string(n, '\n'), std::string(n, '1'), mixed, breaks}) {
    const std::clock_t start = std::clock();
    CHECK(tokenizer->encode(text).ids.size() > 1);
    // Generous, for sanitizers and busy machines; anything quadratic takes hours.
    CHECK(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC < 30);
  }
}

}  // namespace
}  // namespace signalbox::test
