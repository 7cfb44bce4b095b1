#include "eval/data/prompt_hash.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>

#include "base/sha256.h"
#include "base/text.h"
#include "base/unicode.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

std::string composed(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  utf8proc_uint8_t* out = nullptr;
  const utf8proc_ssize_t n =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &out, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owned(out, std::free);
  if (n < 0) throw Error("prompt", std::string("expected UTF-8, found text that is not (") + utf8proc_errmsg(n) + ")");
  return {reinterpret_cast<const char*>(out), static_cast<size_t>(n)};
}

// Members of objects in the order of their keys and texts as they are compared, so that equal messages have equal text.
json::Value normal_json(const json::Value& value) {
  if (value.is_string()) return normal_prompt(value.string());
  if (value.type() == json::Type::array) {
    json::Value out = json::Value::array();
    for (const json::Value& item : value.items()) out.push_back(normal_json(item));
    return out;
  }
  if (value.type() != json::Type::object) return value;
  std::map<std::string, const json::Value*> members;
  for (const auto& [key, member] : value.members()) members.emplace(key, &member);
  json::Value out = json::Value::object();
  for (const auto& [key, member] : members) out.append_member(key, normal_json(*member));
  return out;
}

void add_new(std::vector<std::string>& hashes, std::string hash) {
  if (!hash.empty() && std::find(hashes.begin(), hashes.end(), hash) == hashes.end()) hashes.push_back(std::move(hash));
}

}  // namespace

std::string normal_prompt(std::string_view text) { return to_utf8(single_spaces(code_points(composed(text)))); }

std::string prompt_hash(std::string_view text) { return sha256_hex(normal_prompt(text)); }

std::string line_prompt_hash(const json::Value& record) {
  if (const json::Value* prompt = record.find("prompt"); prompt && prompt->is_string())
    return prompt_hash(prompt->string());
  if (const json::Value* messages = record.find("messages"); messages && messages->type() == json::Type::array)
    return sha256_hex("messages " + json::dump(normal_json(*messages)));
  if (const json::Value* tokens = record.find("tokens"); tokens && tokens->type() == json::Type::array)
    return sha256_hex("tokens " + joined(tokens->items(), " ", [](const json::Value& id) { return json::dump(id); }));
  return "";
}

void refuse_common_prompts(const std::vector<Record>& a, const std::string& a_is, const std::vector<Record>& b,
                           const std::string& b_is) {
  std::map<std::string, const Record*> known;
  for (const Record& record : a) known.emplace(line_prompt_hash(record.source), &record);
  for (const Record& record : b)
    if (const auto found = known.find(line_prompt_hash(record.source)); found != known.end())
      throw Error(record.where, "expected prompts to " + b_is + " that are none of those to " + a_is +
                                    ", found the prompt of " + found->second->where);
}

std::vector<std::string> prompt_hashes(const Record& record, const EncodedRecord& encoded, const EncodeSetup& setup) {
  const std::string line = line_prompt_hash(record.source);
  std::string decoded, without_begin;
  if (setup.tokenizer) {
    const std::span<const int32_t> ids(encoded.prompt->tokens);
    decoded = prompt_hash(setup.tokenizer->decode(ids, false));
    const std::vector<int32_t> begin = setup.tokenizer->encode("").ids;
    if (!begin.empty() && !ids.empty() && ids[0] == begin[0])
      without_begin = prompt_hash(setup.tokenizer->decode(ids.subspan(1), false));
  }
  std::vector<std::string> hashes;
  if (record.kind == Record::Kind::messages) add_new(hashes, prompt_hash(encoded.text));
  if (record.kind == Record::Kind::tokens) add_new(hashes, decoded);
  add_new(hashes, line);
  add_new(hashes, decoded);
  add_new(hashes, without_begin);
  if (const json::Value* base = record.source.find("base_prompt"); base && base->is_string())
    add_new(hashes, base->string());
  return hashes;
}

void PromptList::add(std::span<const std::string> hashes) {
  known_ = known_ && !hashes.empty();
  if (hashes.empty()) return;
  prompts_.push_back(hashes[0]);
  aliases_.insert(aliases_.end(), hashes.begin() + 1, hashes.end());
}

void PromptList::add_summary(const json::Value& summary) {
  const json::Value* prompts = summary.find("prompts");
  known_ = known_ && prompts;
  if (prompts)
    for (const json::Value& hash : prompts->items()) prompts_.push_back(hash.string());
  if (const json::Value* aliases = summary.find("prompt_aliases"))
    for (const json::Value& hash : aliases->items()) aliases_.push_back(hash.string());
}

void PromptList::put(json::Value& summary) const {
  if (!known_) return;
  std::set<std::string> seen;
  const auto distinct = [&](const std::vector<std::string>& hashes) {
    json::Value list = json::Value::array();
    for (const std::string& hash : hashes)
      if (seen.insert(hash).second) list.push_back(hash);
    return list;
  };
  summary.set("prompts", distinct(prompts_));
  if (json::Value aliases = distinct(aliases_); !aliases.items().empty())
    summary.set("prompt_aliases", std::move(aliases));
}

}  // namespace signalbox::eval
