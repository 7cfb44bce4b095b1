#include "loaders/gguf/tokenizer_files.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"

namespace signalbox::loaders::gguf {

namespace {

// How texts are split before merges, by tokenizer.ggml.pre, as the pre_tokenizer of tokenizer.json has it.
struct Splitting {
  const char* name;
  const char* pattern;             // of a Split in front of the bytes; null: GPT-2's own
  bool digits = false;             // every digit alone
  bool whole_words_first = false;  // a piece that is a token is not merged together from its bytes
};

constexpr Splitting splittings[] = {
    {"gpt-2", nullptr},
    {"smollm", nullptr, true},
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     false, true},
};

constexpr const char *model_key = "tokenizer.ggml.model", *pre_key = "tokenizer.ggml.pre",
                     *tokens_key = "tokenizer.ggml.tokens", *types_key = "tokenizer.ggml.token_type",
                     *merges_key = "tokenizer.ggml.merges";
// Of token_type: what stands for no text of its own, and what is cut out of texts all the same.
constexpr int64_t control = 3, user_defined = 4;

json::Value object(std::initializer_list<std::pair<const char*, json::Value>> members) {
  json::Value out = json::Value::object();
  for (const auto& [key, value] : members) out.append_member(key, value);
  return out;
}

json::Value byte_level(bool words) {
  return object({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", words}});
}

json::Value pre_tokenizer(const Splitting& splitting) {
  json::Value steps = json::Value::array();
  if (splitting.digits) steps.push_back(object({{"type", "Digits"}, {"individual_digits", true}}));
  if (splitting.pattern)
    steps.push_back(object({{"type", "Split"},
                            {"pattern", object({{"Regex", splitting.pattern}})},
                            {"behavior", "Isolated"},
                            {"invert", false}}));
  steps.push_back(byte_level(!splitting.pattern));
  if (steps.items().size() == 1) return steps.items().front();
  return object({{"type", "Sequence"}, {"pretokenizers", std::move(steps)}});
}

// What stands in front of every text and behind it.
json::Value post_processor(const std::optional<std::pair<std::string, int64_t>>& begin,
                           const std::optional<std::pair<std::string, int64_t>>& end) {
  if (!begin && !end) return {};
  json::Value single = json::Value::array(), pair = json::Value::array(), specials = json::Value::object();
  const auto special = [&](const std::pair<std::string, int64_t>& token) {
    specials.set(token.first, object({{"id", token.first},
                                      {"ids", json::Value::array().push_back(token.second)},
                                      {"tokens", json::Value::array().push_back(token.first)}}));
    return object({{"SpecialToken", object({{"id", token.first}, {"type_id", 0}})}});
  };
  const auto add = [&](json::Value& to, const char* sequence) {
    if (begin) to.push_back(special(*begin));
    to.push_back(object({{"Sequence", object({{"id", sequence}, {"type_id", 0}})}}));
    if (end) to.push_back(special(*end));
  };
  add(single, "A");
  add(pair, "A");
  add(pair, "B");
  return object({{"type", "TemplateProcessing"},
                 {"single", std::move(single)},
                 {"pair", std::move(pair)},
                 {"special_tokens", std::move(specials)}});
}

const Splitting& splitting_of(const File& file) {
  if (const std::string& kind = file.string(model_key); kind != "gpt2")
    file.fail(model_key, "expected \"gpt2\" (byte-level BPE), found \"" + kind + "\"");
  const std::string& pre = file.string(pre_key);
  const auto* found =
      std::find_if(std::begin(splittings), std::end(splittings), [&](const auto& one) { return pre == one.name; });
  if (found == std::end(splittings))
    file.fail(pre_key, "expected one of " + joined(splittings, ", ", &Splitting::name) + ", found \"" + pre + "\"");
  return *found;
}

}  // namespace

TokenizerTexts tokenizer_texts(const File& file, int64_t n_vocab) {
  const Splitting& splitting = splitting_of(file);
  if (file.boolean("tokenizer.ggml.add_space_prefix", false))
    file.fail("tokenizer.ggml.add_space_prefix", "expected false for byte-level BPE, found true");
  const std::vector<std::string_view> tokens = file.strings(tokens_key), merges = file.strings(merges_key);
  if (static_cast<int64_t>(tokens.size()) != n_vocab)
    file.fail(tokens_key, "expected " + std::to_string(n_vocab) + " tokens (rows of the embedding), found " +
                              std::to_string(tokens.size()));
  std::vector<int64_t> types(tokens.size(), 1);
  if (file.has(types_key)) types = file.integers(types_key);
  if (types.size() != tokens.size())
    file.fail(types_key, "expected " + std::to_string(tokens.size()) + " items, found " + std::to_string(types.size()));

  json::Value vocabulary = json::Value::object(), added = json::Value::array(), pairs = json::Value::array();
  std::unordered_set<std::string_view> known;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!known.insert(tokens[i]).second)
      file.fail(tokens_key, "expected different tokens, found " + in_quotes(tokens[i]) + " twice");
    vocabulary.append_member(std::string(tokens[i]), json::Value(static_cast<int64_t>(i)));
    if (types[i] == control || types[i] == user_defined)
      added.push_back(object({{"id", static_cast<int64_t>(i)},
                              {"content", tokens[i]},
                              {"single_word", false},
                              {"lstrip", false},
                              {"rstrip", false},
                              {"normalized", false},
                              {"special", types[i] == control}}));
  }
  for (const std::string_view merge : merges) {
    const size_t space = merge.find(' ');
    const std::string_view left = merge.substr(0, space),
                           right = space == std::string_view::npos ? "" : merge.substr(space + 1);
    if (!known.contains(left) || !known.contains(right) || !known.contains(std::string(left) + std::string(right)))
      file.fail(merges_key, "expected two tokens that make a third, found " + in_quotes(merge));
    pairs.push_back(json::Value::array().push_back(left).push_back(right));
  }

  const auto role = [&](const char* name) -> std::optional<std::pair<std::string, int64_t>> {
    const std::string full = std::string("tokenizer.ggml.") + name + "_token_id";
    if (!file.has(full)) return std::nullopt;
    const int64_t id = file.integer(full, 0, n_vocab - 1);
    return std::pair(std::string(tokens[static_cast<size_t>(id)]), id);
  };
  const auto bos = role("bos"), eos = role("eos");
  const bool add_bos = file.boolean("tokenizer.ggml.add_bos_token", false),
             add_eos = file.boolean("tokenizer.ggml.add_eos_token", false);
  if (add_bos && !bos) file.fail("tokenizer.ggml.add_bos_token", "expected bos_token_id beside it, found none");
  if (add_eos && !eos) file.fail("tokenizer.ggml.add_eos_token", "expected eos_token_id beside it, found none");

  const json::Value null;
  const json::Value tokenizer =
      object({{"version", "1.0"},
              {"truncation", null},
              {"padding", null},
              {"added_tokens", std::move(added)},
              {"normalizer", null},
              {"pre_tokenizer", pre_tokenizer(splitting)},
              {"post_processor", post_processor(add_bos ? bos : std::nullopt, add_eos ? eos : std::nullopt)},
              {"decoder", byte_level(true)},
              {"model", object({{"type", "BPE"},
                                {"dropout", null},
                                {"unk_token", null},
                                {"continuing_subword_prefix", null},
                                {"end_of_word_suffix", null},
                                {"fuse_unk", false},
                                {"byte_fallback", false},
                                {"ignore_merges", splitting.whole_words_first},
                                {"vocab", std::move(vocabulary)},
                                {"merges", std::move(pairs)}})}});

  json::Value config =
      object({{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}});
  json::Value generation = json::Value::object();
  for (const auto& [name, key] :
       {std::pair("bos", "bos_token"), {"eos", "eos_token"}, {"unknown", "unk_token"}, {"padding", "pad_token"}})
    if (const auto token = role(name)) {
      config.set(key, token->first);
      if (std::string_view(name) != "unknown") generation.set(std::string(key) + "_id", token->second);
    }
  if (file.has("tokenizer.chat_template")) config.set("chat_template", file.string("tokenizer.chat_template"));
  return {json::dump(tokenizer, 1) + "\n", json::dump(config, 2) + "\n", json::dump(generation, 2) + "\n"};
}

}  // namespace signalbox::loaders::gguf
