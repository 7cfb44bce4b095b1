#include "eval/data/pairs.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "eval/data/dice.h"

namespace signalbox::eval {

namespace {

json::Value with_target(json::Value record, const std::string& text, const std::string& prefix) {
  record.set("target", prefix + text);
  return record;
}

// A copy under another id, condition and pair. The source's own condition and pair are kept under other names.
json::Value half_of(const json::Value& source, const std::string& id, const std::string& condition) {
  json::Value half = json::Value::object();
  half.set("id", id + "/" + condition);
  for (const auto& [key, value] : source.members()) {
    if (key == "id" || key == "target") continue;
    half.set(key == "condition" || key == "pair" ? "source_" + key : key, value);
  }
  return half.set("condition", condition).set("pair", id);
}

}  // namespace

std::vector<Row> document_pairs(const std::vector<Row>& records, const DocumentPairs& options) {
  std::vector<Row> out;
  for (const Row& row : records) {
    const json::Ref root(row.object, row.where);
    const std::string& id = root.at("id").string();
    root.at("question").string();
    root.at("document").string();
    std::string answer;
    if (options.target) {
      const json::Ref answers = root.at("answers");
      if (answers.length() == 0) answers.fail("expected an answer to make the target of, found none");
      answer = answers[0].string();
    }
    for (const bool with : {true, false}) {
      const PromptStyle& style = with ? options.with : options.without;
      // place_prompt's default looks for a document: the half without one must not show it.
      PromptStyle used = style;
      if (!with && used.text.empty()) {
        json::Value bare = json::Value::object();
        bare.set("question", "");
        if (const json::Value* choices = row.object.find("choices")) bare.set("choices", *choices);
        used.text = default_template(bare, style);
      }
      json::Value record =
          place_prompt({row.where, half_of(row.object, id, with ? "with_document" : "without_document")}, used);
      if (options.target) {
        const std::string prefix =
            options.prefix_given ? options.prefix : target_prefix(text_before_target(record, used), answer);
        record = with_target(std::move(record), answer, prefix);
      }
      out.push_back({row.where, std::move(record)});
    }
  }
  return out;
}

namespace {

// A completion with the record it comes from.
struct Completion {
  const Row* row;
  std::string text;
};

// A prompt's completions, in file order.
struct Prompt {
  std::vector<Completion> unsafe, safe;
};

// Records of one prompt are one entry; those with completions of their own are one each.
std::vector<Prompt> gather(const std::vector<Row>& records) {
  std::vector<Prompt> prompts;
  std::map<std::string, size_t> by_prompt;
  for (const Row& row : records) {
    const json::Ref root(row.object, row.where);
    const auto unsafe = root.find("unsafe"), safe = root.find("safe");
    if (unsafe) {
      Prompt prompt;
      prompt.unsafe.push_back({&row, unsafe->string()});
      if (safe) prompt.safe.push_back({&row, safe->string()});
      prompts.push_back(std::move(prompt));
      continue;
    }
    if (!root.find("response") || !root.find("is_safe"))
      root.fail("expected \"unsafe\" (and \"safe\"), or \"response\" and \"is_safe\", found neither");
    const json::Value* key = row.object.find("prompt");
    if (!key) key = row.object.find("messages");
    if (!key) root.fail("expected \"prompt\" or \"messages\", found neither");
    auto [entry, fresh] = by_prompt.emplace(json::dump(*key), prompts.size());
    if (fresh) prompts.emplace_back();
    Prompt& prompt = prompts[entry->second];
    (root.at("is_safe").boolean() ? prompt.safe : prompt.unsafe).push_back({&row, root.at("response").string()});
  }
  return prompts;
}

}  // namespace

CompletionResult completion_pairs(const std::vector<Row>& records, const CompletionPairs& options) {
  CompletionResult out;
  std::vector<std::string> refusals = refusal_sentences();
  Dice(options.seed, "refusals").shuffle(refusals);
  PromptStyle style;
  style.chat_template = options.chat_template;
  style.template_variables = options.template_variables;
  for (const Prompt& prompt : gather(records)) {
    if (prompt.unsafe.empty()) ++out.without_unsafe;
    for (size_t i = 0; i < prompt.unsafe.size(); ++i) {
      const Row& row = *prompt.unsafe[i].row;
      const bool given = options.safe != SafeSide::refusals && i < prompt.safe.size();
      if (!given && options.safe == SafeSide::data)
        throw Error(row.where, "expected a safe completion of the same prompt, found none (--safe either | refusals)");
      const std::string safe =
          given ? prompt.safe[i].text : refusals[static_cast<size_t>(out.refusals) % refusals.size()];
      out.refusals += !given;
      const json::Ref root(row.object, row.where);
      const std::string before = text_before_target(row.object, style);
      for (const bool is_safe : {false, true}) {
        const std::string& text = is_safe ? safe : prompt.unsafe[i].text;
        json::Value half = json::Value::object();
        // The keys that told the two sides apart are the targets and conditions now.
        const json::Value copy = half_of(row.object, root.at("id").string(), is_safe ? "safe" : "unsafe");
        for (const auto& [key, value] : copy.members())
          if (key != "safe" && key != "unsafe" && key != "response" && key != "is_safe" && key != "source_condition")
            half.set(key, value);
        if (is_safe && given && prompt.safe[i].row != &row)
          half.set("safe_id", json::Ref(prompt.safe[i].row->object, prompt.safe[i].row->where).at("id").string());
        const std::string prefix = options.prefix_given ? options.prefix : target_prefix(before, text);
        out.records.push_back({row.where, with_target(std::move(half), text, prefix)});
      }
    }
  }
  return out;
}

namespace {

// Sets of records that must stay together.
class Groups {
 public:
  explicit Groups(size_t n) : parent_(n) { std::iota(parent_.begin(), parent_.end(), size_t{0}); }
  size_t root(size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  // Joins record i with all that gave the same name.
  void join(size_t i, const std::string& name) {
    auto [entry, fresh] = first_.emplace(name, i);
    if (!fresh) parent_[root(i)] = root(entry->second);
  }

 private:
  std::vector<size_t> parent_;
  std::map<std::string, size_t> first_;
};

}  // namespace

void assign_splits(std::vector<Row>& records, const SplitOptions& options) {
  Groups groups(records.size());
  std::vector<std::string> names(records.size());
  for (size_t i = 0; i < records.size(); ++i) {
    const json::Ref root(records[i].object, records[i].where);
    if (root.find(options.key) && !options.replace)
      throw Error(records[i].where,
                  options.key + ": expected a record without a split, found one (--replace gives it another)");
    const std::string& id = root.at("id").string();
    names[i] = "id " + id;
    groups.join(i, "id " + id);
    if (const auto pair = root.find("pair")) {
      names[i] = "pair " + pair->string();
      groups.join(i, names[i]);
    }
    if (const auto base = root.find("paraphrase_of")) groups.join(i, "id " + base->string());
    for (const char* text : {"prompt", "messages"})
      if (const auto value = root.find(text)) groups.join(i, "text " + json::dump(value->value()));
    for (const std::string& key : options.together)
      if (const auto value = root.find(key)) groups.join(i, key + " = " + json::dump(value->value()));
  }
  std::map<size_t, std::string> least;  // by root
  for (size_t i = 0; i < records.size(); ++i) {
    auto [entry, fresh] = least.emplace(groups.root(i), names[i]);
    if (!fresh) entry->second = std::min(entry->second, names[i]);
  }
  std::map<std::string, int64_t> counts;
  for (size_t i = 0; i < records.size(); ++i) {
    Dice dice(options.seed, least.at(groups.root(i)));
    const double at = static_cast<double>(dice.below(uint64_t{1} << 53)) * 0x1p-53;
    double end = 0;
    std::string split = options.fractions.back().first;
    for (const auto& [name, share] : options.fractions) {
      end += share;
      if (at >= end) continue;
      split = name;
      break;
    }
    ++counts[split];
    records[i].object.set(options.key, split);
  }
  for (const auto& [name, share] : options.fractions)
    if (counts[name] == 0)
      throw Error("split " + name, "expected at least one record in it, found none of " +
                                       std::to_string(records.size()) + " (another seed, or larger fractions)");
}

}  // namespace signalbox::eval
