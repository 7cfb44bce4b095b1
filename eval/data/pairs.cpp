#include "eval/data/pairs.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/utf8.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"
#include "eval/data/other_documents.h"
#include "eval/data/prompt_hash.h"

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

namespace {

// A pair of documents' conditions on its way to the file. `plain` is the record that a third condition is made of: a
// question with an id, a condition and a pair of its own to get.
struct DocumentPair {
  std::vector<Row> records;
  Row plain;
  std::string name, document;  // the common "pair"; the own document
  std::string target;          // of all records; empty: none is added
};

std::vector<std::string> texts_at(const json::Ref& root, const char* key) {
  const auto found = root.find(key);
  if (!found) return {};
  if (found->value().is_string()) return {found->string()};
  std::vector<std::string> out;
  for (const json::Ref& text : found->items()) out.push_back(text.string());
  return out;
}

json::Value placed(const Row& draft, const PromptStyle& style, const std::string& target,
                   const DocumentPairs& options) {
  json::Value record = place_prompt(draft, style);
  if (target.empty()) return record;
  // Made before the record moves: compilers evaluate arguments in orders of their own.
  const std::string prefix =
      options.prefix_given ? options.prefix : target_prefix(text_before_target(record, style), target);
  return with_target(std::move(record), target, prefix);
}

DocumentPair make_pair_of(const Row& row, const DocumentPairs& options) {
  const json::Ref root(row.object, row.where);
  const std::string& id = root.at("id").string();
  root.at("question").string();
  DocumentPair pair{{}, row, id, root.at("document").string(), ""};
  if (options.target) {
    const json::Ref answers = root.at("answers");
    if (answers.length() == 0) answers.fail("expected an answer to make the target of, found none");
    pair.target = answers[0].string();
  }
  for (const bool with : {true, false}) {
    PromptStyle style = with ? options.with : options.without;
    // place_prompt's default looks for a document: the half without one must not show it.
    if (!with && style.text.empty()) {
      json::Value bare = json::Value::object();
      bare.set("question", "");
      if (const json::Value* choices = row.object.find("choices")) bare.set("choices", *choices);
      style.text = default_template(bare, style);
    }
    const Row half{row.where, half_of(row.object, id, with ? "with_document" : "without_document")};
    pair.records.push_back({row.where, placed(half, style, pair.target, options)});
  }
  return pair;
}

// Pairs that are there already, in order of first appearance.
std::vector<DocumentPair> pairs_of(const std::vector<Row>& records, const DocumentPairs& options) {
  struct Sides {
    std::vector<const Row*> all;
    const Row *with = nullptr, *without = nullptr;
  };
  std::vector<std::string> names;
  std::map<std::string, Sides> sides;
  for (const Row& row : records) {
    const json::Ref root(row.object, row.where);
    const std::string &name = root.at("pair").string(), &condition = root.at("condition").string();
    if (!sides.contains(name)) names.push_back(name);
    Sides& pair = sides[name];
    const bool with = condition == "with_document";
    if (!with && condition != "without_document")
      root.at("condition").fail_type("\"with_document\" or \"without_document\"");
    const Row*& side = with ? pair.with : pair.without;
    if (side) root.fail("expected one record of condition \"" + condition + "\" in pair \"" + name + "\", found two");
    side = &row;
    pair.all.push_back(&row);
  }
  std::vector<DocumentPair> out;
  for (const std::string& name : names) {
    const Sides& pair = sides[name];
    if (!pair.with || !pair.without)
      throw Error(pair.all.front()->where,
                  "expected records with and without the document in pair \"" + name + "\", found one of them alone");
    const json::Ref with(pair.with->object, pair.with->where);
    const std::string& question = with.at("question").string();
    DocumentPair made{{}, *pair.without, name, with.at("document").string(), ""};
    const json::Value again = place_prompt(*pair.with, options.with);
    for (const char* key : {"prompt", "messages"}) {
      const json::Value *mine = pair.with->object.find(key), *theirs = again.find(key);
      if (!mine && !theirs) continue;
      if (!mine || !theirs || json::dump(*mine) != json::dump(*theirs))
        with.fail(
            "expected the prompt that the template makes of \"question\" and \"document\", found another "
            "(--template, --chat, --system): the conditions would differ in more than the document");
    }
    made.plain.object.set("question", question);
    for (const Row* row : pair.all) made.records.push_back(*row);
    out.push_back(std::move(made));
  }
  return out;
}

DocumentPlace place_of(const DocumentPair& pair) {
  DocumentPlace place{pair.plain.where, pair.document, "", {}, ""};
  for (const Row& row : pair.records) {
    const json::Ref root(row.object, row.where);
    if (const auto question = root.find("question")) place.question = question->string();
    if (const auto split = root.find("split")) place.split = split->string();
    for (const char* key : {"answers", "memory"})
      for (std::string& text : texts_at(root, key)) place.answers.push_back(std::move(text));
  }
  return place;
}

json::Value third_of(const DocumentPair& pair, const char* condition, const std::string& document,
                     const std::string& document_of, const DocumentPairs& options) {
  json::Value record = json::Value::object();
  if (options.keep_pairs) {
    record.set("id", pair.name + "/" + condition);
    for (const auto& [key, value] : pair.plain.object.members())
      if (key != "id") record.set(key, value);
    record.set("condition", condition);
  } else {
    record = half_of(pair.plain.object, pair.name, condition);
  }
  record.set("document", document);
  if (!document_of.empty()) record.set("document_of", document_of);
  return placed({pair.plain.where, std::move(record)}, options.with, pair.target, options);
}

}  // namespace

DocumentPairResult document_pairs(const std::vector<Row>& records, const DocumentPairs& options) {
  std::vector<DocumentPair> pairs;
  if (options.keep_pairs) {
    pairs = pairs_of(records, options);
  } else {
    for (const Row& row : records) pairs.push_back(make_pair_of(row, options));
  }
  DocumentPairResult out;
  for (const Against against : options.against) {
    if (against == Against::shuffled) {
      for (DocumentPair& pair : pairs)
        pair.records.push_back(
            {pair.plain.where,
             third_of(pair, "shuffled_document",
                      shuffled_words(pair.document, options.seed, pair.name, pair.plain.where), "", options)});
      continue;
    }
    std::vector<DocumentPlace> places;
    for (const DocumentPair& pair : pairs) places.push_back(place_of(pair));
    const ExchangedDocuments exchanged = exchange_documents(places, options.seed);
    out.repeated = exchanged.repeated;
    out.n_exchanged = static_cast<int64_t>(pairs.size());
    int64_t sum = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
      const DocumentPair& other = pairs[exchanged.from[i]];
      const int64_t difference = std::abs(static_cast<int64_t>(count_code_points(other.document)) -
                                          static_cast<int64_t>(count_code_points(pairs[i].document)));
      sum += difference;
      out.largest_difference = std::max(out.largest_difference, difference);
      pairs[i].records.push_back(
          {pairs[i].plain.where, third_of(pairs[i], "unrelated_document", other.document, other.name, options)});
    }
    if (!pairs.empty()) out.mean_difference = static_cast<double>(sum) / static_cast<double>(pairs.size());
  }
  for (DocumentPair& pair : pairs)
    for (Row& row : pair.records) out.records.push_back(std::move(row));
  return out;
}

namespace {

// A completion with the record it comes from.
struct Completion {
  const Row* row;
  std::string text;
};

// A prompt's completions, in file order.
struct Asked {
  std::vector<Completion> unsafe, safe;
};

// Records of one prompt are one entry; those with completions of their own are one each.
std::vector<Asked> gather(const std::vector<Row>& records) {
  std::vector<Asked> prompts;
  std::map<std::string, size_t> by_prompt;
  for (const Row& row : records) {
    const json::Ref root(row.object, row.where);
    const auto unsafe = root.find("unsafe"), safe = root.find("safe");
    if (unsafe) {
      Asked prompt;
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
    Asked& prompt = prompts[entry->second];
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
  for (const Asked& prompt : gather(records)) {
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
          if (key != "safe" && key != "unsafe" && key != "response" && key != "is_safe" && key != "source_condition" &&
              (is_safe || key != "safe_source"))
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

// Records that must stay together: those that gave the same name.
class NamedGroups {
 public:
  explicit NamedGroups(size_t n) : groups_(n) {}
  void join(size_t i, const std::string& name) { groups_.join(first_.emplace(name, i).first->second, i); }
  size_t root(size_t i) { return groups_.root(i); }

 private:
  Groups groups_;
  std::map<std::string, size_t> first_;
};

}  // namespace

void assign_splits(std::vector<Row>& records, const SplitOptions& options) {
  NamedGroups groups(records.size());
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
    if (const std::string prompt = line_prompt_hash(records[i].object); !prompt.empty())
      groups.join(i, "prompt " + prompt);
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
