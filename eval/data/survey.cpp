#include "eval/data/survey.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <set>
#include <unordered_map>

#include "base/text.h"
#include "eval/data/csv_records.h"
#include "eval/data/hints.h"
#include "eval/data/prompt_hash.h"

namespace signalbox::eval {

namespace {

using json::Value;

// A hint without the "; " that joins it to a message.
std::string sentence(const std::string& hint) { return hint.starts_with("; ") ? hint.substr(2) : hint; }

// Every problem of one row, by trying its keys one by one.
class RowProblems {
 public:
  RowProblems(const Row& row, const std::string& file) : row_(row), file_(file) {}

  std::vector<Problem> find() {
    Value body = Value::object();
    body.set("id", "x");
    for (const char* key : {"prompt", "messages", "tokens"})
      if (const Value* value = row_.object.find(key)) body.set(key, *value);
    Value id = Value::object();
    if (const Value* value = row_.object.find("id")) id.set("id", *value);
    const bool good_id = tried(id.set("prompt", ""));
    const bool good_body = tried(body, good_id || row_.object.find("id") != nullptr);
    Value base = good_body ? body : Value::object().set("id", "x").set("prompt", "");
    for (const char* key : {"target", "answers", "condition", "pair", "domain", "split"})
      if (const Value* value = row_.object.find(key)) tried(Value(base).set(key, *value));
    const Value* spans = row_.object.find("spans");
    if (!spans || spans->is_null()) return std::move(out_);
    if (const Value* target = row_.object.find("target"); target && target->is_string()) base.set("target", *target);
    if (spans->type() != json::Type::object) {
      tried(Value(base).set("spans", *spans));
    } else if (good_body) {
      for (const auto& [name, range] : spans->members()) {
        Value one = Value::object();
        tried(Value(base).set("spans", one.set(name, range)));
      }
    }
    return std::move(out_);
  }

 private:
  bool tried(const Value& object, bool with_hint = true) {
    try {
      parse_record(object, row_.where);
      return true;
    } catch (const Error& error) {
      Problem problem{error.where(), error.reason(), ""};
      if (with_hint) problem.hint = sentence(hint_for_row(file_, row_.object, error));
      if (std::none_of(out_.begin(), out_.end(), [&](const Problem& known) { return known.what == problem.what; }))
        out_.push_back(std::move(problem));
      return false;
    }
  }

  const Row& row_;
  const std::string& file_;
  std::vector<Problem> out_;
};

void count(Counted& counts, const std::string& value) {
  const auto found = std::find_if(counts.begin(), counts.end(), [&](const auto& one) { return one.first == value; });
  if (found == counts.end()) {
    counts.emplace_back(value, 1);
  } else {
    ++found->second;
  }
}

bool known_key(const std::string& key) {
  for (const char* known :
       {"id", "prompt", "messages", "tokens", "target", "answers", "spans", "condition", "pair", "domain", "split"})
    if (key == known) return true;
  return false;
}

void count_pairs(const std::vector<Record>& records, Survey& out) {
  std::vector<std::string> order;
  std::map<std::string, std::set<std::string>> pairs;  // name -> conditions
  std::set<std::string> all;
  for (const Record& record : records) {
    if (record.pair.empty()) continue;
    if (!pairs.contains(record.pair)) order.push_back(record.pair);
    pairs[record.pair].insert(record.condition);
    all.insert(record.condition);
  }
  out.pairs = static_cast<int64_t>(order.size());
  for (const std::string& name : order) {
    std::string missing;
    for (const std::string& condition : all)
      if (!pairs[name].contains(condition)) missing = condition;
    const bool complete = missing.empty() && all.size() > 1;
    out.complete_pairs += complete;
    if (!complete && out.first_incomplete.empty())
      out.first_incomplete = in_quotes(name) + (all.size() > 1 ? " lacks a record under " + in_quotes(missing)
                                                               : " has one condition only");
  }
}

// What a run that uses the splits would refuse, and prompts that come again.
void check_splits(const std::vector<Record>& records, const std::string& file, Survey& out) {
  const std::vector<size_t> example = named_examples(records);
  if (!out.splits.empty() && out.without_split > 0)
    for (const Record& record : records)
      if (record.split.empty()) {
        out.problems.push_back({record.where,
                                "expected the key \"split\", which other records have, found none (" +
                                    std::to_string(out.without_split) + " records lack it)",
                                split_command(file, true)});
        break;
      }
  for (size_t r = 0; r < records.size(); ++r) {
    const Record &record = records[r], &first = records[example[r]];
    if (record.split != first.split && !record.split.empty() && !first.split.empty())
      out.problems.push_back({record.where,
                              "expected the records of one pair or question in one split, found " +
                                  in_quotes(first.id) + " in " + in_quotes(first.split) + " and " +
                                  in_quotes(record.id) + " in " + in_quotes(record.split),
                              split_command(file, true)});
  }
  std::unordered_map<std::string, std::map<std::string, size_t>> seen;  // prompt -> split -> its first record
  std::vector<std::string> hashes;
  for (size_t r = 0; r < records.size(); ++r) {
    hashes.push_back(line_prompt_hash(records[r].source));
    seen[hashes.back()].emplace(records[r].split, r);
  }
  bool within = false, between = false;
  std::map<size_t, std::set<std::string>> elsewhere;  // example -> splits that have all of its prompts so far
  for (size_t r = 0; r < records.size(); ++r) {
    const auto& places = seen[hashes[r]];
    std::set<std::string> others;
    for (const auto& [split, first] : places)
      if (split != records[r].split) others.insert(split);
    out.shared_between_splits += !others.empty();
    const size_t own = places.at(records[r].split);
    if (example[own] != example[r] && !within) {
      within = true;
      out.shared.push_back({records[own].id, records[r].id, records[own].split, records[r].split});
    }
    if (!others.empty() && !between) {
      between = true;
      const size_t other = places.at(*others.begin());
      out.shared.push_back({records[other].id, records[r].id, records[other].split, records[r].split});
    }
    const auto [at, fresh] = elsewhere.emplace(example[r], others);
    if (!fresh)
      for (auto one = at->second.begin(); one != at->second.end();)
        one = others.contains(*one) ? std::next(one) : at->second.erase(one);
  }
  std::set<size_t> told;
  std::set<std::string> told_prompts;  // once for both sides
  for (size_t r = 0; r < records.size(); ++r) {
    const auto& splits = elsewhere[example[r]];
    if (splits.empty() || records[r].split.empty() || splits.begin()->empty() || !told.insert(example[r]).second)
      continue;
    const size_t other = seen[hashes[r]].at(*splits.begin());
    if (!told_prompts.insert(hashes[r]).second) continue;
    out.problems.push_back({records[r].where,
                            "expected an example in one split, found the same prompt as " +
                                in_quotes(records[other].id) + " in " + in_quotes(*splits.begin()) + " and as " +
                                in_quotes(records[r].id) + " in " + in_quotes(records[r].split),
                            split_command(file, true)});
  }
}

}  // namespace

CheckedFiles read_all(const std::vector<std::string>& files) {
  CheckedFiles out;
  std::unordered_map<std::string, std::string> seen;
  for (const std::string& file : files) {
    std::string last;
    const auto problem = [&](const Error& error) {
      out.lines += error.where() != last;
      last = error.where();
      out.problems.push_back({error.where(), error.reason(), ""});
    };
    for_each_row(
        file,
        [&](const Row& row) {
          ++out.lines;
          const std::vector<Problem> found = RowProblems(row, file).find();
          out.problems.insert(out.problems.end(), found.begin(), found.end());
          const Value* id = row.object.find("id");
          if (id && id->is_string()) {
            const auto [earlier, fresh] = seen.emplace(id->string(), row.where);
            if (!fresh) {
              const Error again(row.where, "id: expected a unique id, found " + in_quotes(id->string()) +
                                               " again (first at " + earlier->second + ")");
              out.problems.push_back({row.where, again.reason(), sentence(hint_for_row(file, row.object, again))});
              return;
            }
          }
          if (found.empty()) out.records.push_back(parse_record(row.object, row.where));
        },
        problem);
  }
  return out;
}

Survey survey(const std::vector<Record>& records, const std::string& file) {
  Survey out;
  out.records = static_cast<int64_t>(records.size());
  std::map<std::string, size_t> spans;
  for (const Record& record : records) {
    out.prompts += record.kind == Record::Kind::prompt;
    out.messages += record.kind == Record::Kind::messages;
    out.tokens += record.kind == Record::Kind::tokens;
    out.empty_prompts += (record.kind == Record::Kind::prompt && record.prompt.empty()) ||
                         (record.kind == Record::Kind::tokens && record.tokens.empty());
    if (!record.condition.empty()) count(out.conditions, record.condition);
    if (!record.domain.empty()) count(out.domains, record.domain);
    if (!record.split.empty()) count(out.splits, record.split);
    out.without_split += record.split.empty();
    out.targets += record.target.has_value();
    out.empty_targets += record.target && record.target->empty();
    for (const auto& [name, range] : record.spans) {
      const auto [at, fresh] = spans.emplace(name, out.spans.size());
      if (fresh) out.spans.push_back({name});
      ++out.spans[at->second].records;
      out.spans[at->second].empty += range.first == range.second;
    }
    for (const auto& [key, value] : record.source.members()) {
      if (value.is_null()) continue;
      if (key == "answers") {
        ++out.answers;
        out.no_answer += record.answers.empty();
      }
      if (!known_key(key)) count(out.keys, key);
    }
  }
  count_pairs(records, out);
  if (!records.empty()) out.copies = count_copies(records);
  check_splits(records, file, out);
  return out;
}

Lengths lengths_of(std::vector<int64_t> values) {
  Lengths out;
  out.n = static_cast<int64_t>(values.size());
  if (values.empty()) return out;
  std::sort(values.begin(), values.end());
  out.min = values.front();
  out.max = values.back();
  const size_t n = values.size();
  out.median = static_cast<double>(values[(n - 1) / 2] + values[n / 2]) / 2;
  out.p95 = values[static_cast<size_t>(std::ceil(0.95 * static_cast<double>(n))) - 1];
  return out;
}

namespace {

// The texts of a record that are its own, not a template's.
std::vector<std::string> own_texts(const Record& record) {
  std::vector<std::string> out;
  if (record.kind == Record::Kind::prompt) out.push_back(record.prompt);
  if (record.kind == Record::Kind::messages)
    for (const Value& message : record.messages.items()) {
      const Value* content = message.find("content");
      if (content && content->is_string()) out.push_back(content->string());
      if (content && content->type() == json::Type::array)
        for (const Value& part : content->items())
          if (part.type() == json::Type::object)
            if (const Value* text = part.find("text"); text && text->is_string()) out.push_back(text->string());
    }
  if (record.target) out.push_back(*record.target);
  return out;
}

void count_special(const Record& record, const EncodeSetup& setup, TokenSurvey& out) {
  std::set<std::string> found;
  for (const std::string& text : own_texts(record))
    for (const int32_t id : setup.tokenizer->encode_target(text).ids)
      if (setup.tokenizer->is_special(id)) found.insert(setup.tokenizer->piece(id));
  for (const std::string& piece : found) count(out.special, piece);
  if (!found.empty() && out.first_special.empty()) out.first_special = record.id;
}

}  // namespace

TokenSurvey token_survey(const std::vector<Record>& records, const EncodeSetup& setup, int64_t context) {
  TokenSurvey out;
  out.context = context;
  out.has_template = setup.chat_template != nullptr;
  const std::vector<std::string> names = span_names(records);
  std::vector<int64_t> prompts, targets;
  std::map<std::string, std::vector<int64_t>> lengths;
  for (const Record& record : records) {
    EncodedRecord encoded;
    try {
      encoded = encode_record(record, setup, names);
    } catch (const Error& error) {
      out.problems.push_back({error.where(), error.reason(), ""});
      continue;
    }
    out.rendered += record.kind == Record::Kind::messages;
    const int64_t n = static_cast<int64_t>(encoded.prompt->tokens.size());
    const int64_t given = encoded.target_start.value_or(n);
    if (n == 0) out.problems.push_back({record.where, "expected at least one token, found none", ""});
    prompts.push_back(given);
    if (record.target) targets.push_back(n - given);
    if (record.target && given == 0)
      out.problems.push_back(
          {record.where, "target: expected a token before it, to predict its first one from, found none", ""});
    if (context > 0 && n > context) {
      ++out.too_long;
      out.problems.push_back({record.where,
                              "expected at most the model's " + std::to_string(context) + " positions, found " +
                                  std::to_string(n) + " tokens",
                              ""});
    }
    for (const auto& [name, range] : record.spans) {
      int64_t tokens = 0;
      for (const SpanTokens& span : encoded.spans)
        if (span.name == name) tokens += span.end - span.begin;
      lengths[name].push_back(tokens);
      if (tokens == 0 && range.second > range.first) count(out.without_tokens, name);
    }
    if (setup.tokenizer && record.kind != Record::Kind::tokens) count_special(record, setup, out);
  }
  out.prompts = lengths_of(std::move(prompts));
  out.targets = lengths_of(std::move(targets));
  for (const std::string& name : names)
    if (const auto found = lengths.find(name); found != lengths.end())
      out.spans.emplace_back(name, lengths_of(std::move(found->second)));
  return out;
}

}  // namespace signalbox::eval
