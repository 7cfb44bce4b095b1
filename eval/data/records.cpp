#include "eval/data/records.h"

#include <algorithm>
#include <unordered_map>

#include "base/utf8.h"
#include "eval/data/csv_records.h"
#include "eval/data/hints.h"

namespace signalbox::eval {

namespace {

// Reads an optional string; empty when absent.
std::string optional_string(const json::Ref& object, std::string_view key) {
  auto found = object.find(key);
  return found ? found->string() : std::string();
}

}  // namespace

Record parse_record(const json::Value& object, const std::string& where) {
  json::Ref root(object, where);
  root.expect_object();
  Record record;
  record.where = where;
  record.source = object;
  record.id = root.at("id").string();

  const auto prompt = root.find("prompt"), messages = root.find("messages"), tokens = root.find("tokens");
  const int given = prompt.has_value() + messages.has_value() + tokens.has_value();
  if (given != 1)
    root.fail("expected exactly one of \"prompt\", \"messages\" and \"tokens\", found " + std::to_string(given));
  int64_t limit = -1;
  if (prompt) {
    record.kind = Record::Kind::prompt;
    record.prompt = prompt->string();
    limit = count_code_points(record.prompt);
  } else if (messages) {
    record.kind = Record::Kind::messages;
    for (const json::Ref& message : messages->items()) {
      message.expect_object();
      message.at("role").string();
      if (!message.value().find("content") && !message.value().find("tool_calls"))
        message.fail("expected the key \"content\", found none");
    }
    if (messages->length() == 0) messages->fail("expected at least one message, found none");
    record.messages = messages->value();
  } else {
    record.kind = Record::Kind::tokens;
    for (const json::Ref& token : tokens->items())
      record.tokens.push_back(static_cast<int32_t>(token.integer(0, INT32_MAX)));
    limit = static_cast<int64_t>(record.tokens.size());
  }
  if (auto target = root.find("target")) record.target = target->string();
  if (auto answers = root.find("answers"))
    for (const json::Ref& answer : answers->items()) record.answers.push_back(answer.string());
  if (auto spans = root.find("spans")) {
    for (const auto& [name, range] : spans->members()) {
      if (range.length() != 2) range.fail("expected [start, end), found " + std::to_string(range.length()) + " items");
      const int64_t begin = range[0].size(), end = range[1].size();
      if (end < begin)
        range.fail("expected a start that is not after the end, found [" + std::to_string(begin) + "," +
                   std::to_string(end) + ")");
      if (limit >= 0 && end > limit)
        range.fail("expected a range within the " + std::to_string(limit) +
                   (tokens ? " tokens" : " code points of the prompt") + ", found [" + std::to_string(begin) + "," +
                   std::to_string(end) + ")");
      if (name == "target" && record.target) range.fail("\"target\" is the name of the target's own span");
      if (name.empty()) range.fail("expected a name, found an empty one");
      record.spans[name] = {begin, end};
    }
  }
  record.condition = optional_string(root, "condition");
  record.pair = optional_string(root, "pair");
  record.domain = optional_string(root, "domain");
  record.split = optional_string(root, "split");
  return record;
}

namespace {

// Keeps the records of a file and refuses an id that comes again.
class RecordList {
 public:
  void add(const json::Value& object, const std::string& where) {
    records.push_back(parse_record(object, where));
    auto [earlier, fresh] = seen_.emplace(records.back().id, where);
    if (!fresh)
      throw Error(where, "id: expected a unique id, found \"" + records.back().id + "\" again (first at " +
                             earlier->second + ")");
  }
  std::vector<Record> records;

 private:
  std::unordered_map<std::string, std::string> seen_;
};

}  // namespace

std::vector<Record> read_records(const std::string& file) {
  RecordList list;
  for_each_row(file, [&](const Row& row) {
    try {
      list.add(row.object, row.where);
    } catch (const Error& error) {
      const std::string hint = hint_for_row(file, row.object, error);
      if (hint.empty()) throw;
      throw Error(error.where(), error.reason() + hint);
    }
  });
  return std::move(list.records);
}

std::vector<std::string> span_names(const std::vector<Record>& records) {
  std::vector<std::string> names;
  bool target = false;
  for (const Record& record : records) {
    // The order of the file's own keys, not of the map.
    if (const json::Value* spans = record.source.find("spans"); spans && !spans->is_null())
      for (const auto& [name, range] : spans->members())
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    target = target || record.target.has_value();
  }
  if (target && std::find(names.begin(), names.end(), "target") == names.end()) names.push_back("target");
  return names;
}

namespace {

EncodedRecord encode_at(const Record& record, const EncodeSetup& setup, const std::vector<std::string>& names) {
  EncodedRecord out;
  auto prompt = std::make_shared<Prompt>(record.id);

  std::vector<CharRange> offsets;
  int64_t n_characters = 0;
  if (record.kind == Record::Kind::tokens) {
    prompt->tokens = record.tokens;
  } else {
    EncodedText text = record.kind == Record::Kind::prompt ? encode_prompt(record.prompt, setup)
                                                           : encode_messages(record.messages, setup);
    n_characters = count_code_points(text.text);
    if (record.kind == Record::Kind::messages) out.text = std::move(text.text);
    prompt->tokens = std::move(text.tokens);
    offsets = std::move(text.offsets);
  }

  auto add_span = [&](const std::string& name, int64_t begin, int64_t end) {
    if (end > begin) out.spans.push_back({name, begin, end});
  };
  for (const auto& [name, range] : record.spans) {
    const auto [begin, end] = range;
    if (record.kind == Record::Kind::tokens) {
      add_span(name, begin, end);
      continue;
    }
    if (end > n_characters)
      throw Error(record.where, "spans." + name + ": expected a range within the " + std::to_string(n_characters) +
                                    " code points of the rendered text, found [" + std::to_string(begin) + "," +
                                    std::to_string(end) + ")");
    // Tokens that cover a character of the range; runs of them become token ranges.
    const int64_t n_tokens = static_cast<int64_t>(offsets.size());
    for (int64_t t = 0; t < n_tokens; ++t) {
      const bool member = offsets[t].begin < end && begin < offsets[t].end;
      if (!member) continue;
      if (!out.spans.empty() && out.spans.back().name == name && out.spans.back().end == t) {
        out.spans.back().end = t + 1;
      } else {
        out.spans.push_back({name, t, t + 1});
      }
    }
  }
  if (record.target) {
    const std::vector<int32_t> ids = encode_target(*record.target, setup);
    out.target_start = static_cast<int64_t>(prompt->tokens.size());
    prompt->tokens.insert(prompt->tokens.end(), ids.begin(), ids.end());
    add_span("target", *out.target_start, static_cast<int64_t>(prompt->tokens.size()));
  }
  check_vocabulary(prompt->tokens, setup);
  if (!out.spans.empty()) {
    prompt->spans.assign(prompt->tokens.size(), 0);
    for (const SpanTokens& span : out.spans) {
      const auto found = std::find(names.begin(), names.end(), span.name);
      const auto bit = found - names.begin();
      if (found == names.end() || bit >= 32) continue;  // a trace refuses more than 32 names; edits go by out.spans
      for (int64_t t = span.begin; t < span.end; ++t) prompt->spans[t] |= 1u << bit;
    }
  }
  out.prompt = std::move(prompt);
  return out;
}

}  // namespace

EncodedRecord encode_record(const Record& record, const EncodeSetup& setup, const std::vector<std::string>& names) {
  try {
    return encode_at(record, setup, names);
  } catch (const Error& error) {
    // What a tokenizer or a template says does not know whose text it was.
    if (error.where() == record.where) throw;
    throw Error(record.where, error.what());
  }
}

bool template_tells_date(const EncodeSetup& setup, const std::vector<Record>& records) {
  if (!setup.chat_template) return false;
  return std::any_of(records.begin(), records.end(), [&](const Record& record) {
    if (record.kind != Record::Kind::messages) return false;
    const auto on = [&](const char* date) {
      json::Value variables = setup.template_variables;
      variables.set("date", date);
      return setup.chat_template->render(record.messages, true, variables).text;
    };
    return on("2001-02-03") != on("2012-11-30");
  });
}

}  // namespace signalbox::eval
