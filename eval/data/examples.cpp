#include "eval/data/examples.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <unordered_map>

#include "base/text.h"
#include "eval/data/prompt_hash.h"

namespace signalbox::eval {

Groups::Groups(size_t n) : parent_(n) { std::iota(parent_.begin(), parent_.end(), size_t{0}); }

size_t Groups::root(size_t i) {
  while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
  return i;
}

void Groups::join(size_t i, size_t j) {
  i = root(i);
  j = root(j);
  parent_[std::max(i, j)] = std::min(i, j);
}

std::vector<size_t> Groups::roots() {
  std::vector<size_t> out(parent_.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = root(i);
  return out;
}

namespace {

Groups groups_by_name(const std::vector<Record>& records) {
  Groups groups(records.size());
  std::unordered_map<std::string, size_t> by_name;
  const auto join = [&](size_t r, const std::string& name) {
    const auto [first, fresh] = by_name.emplace(name, r);
    if (!fresh) groups.join(first->second, r);
  };
  for (size_t r = 0; r < records.size(); ++r) {
    join(r, "id " + records[r].id);
    if (!records[r].pair.empty()) join(r, "pair " + records[r].pair);
    const json::Value* base = records[r].source.find("paraphrase_of");
    if (base && base->is_string() && !base->string().empty()) join(r, "id " + base->string());
  }
  return groups;
}

}  // namespace

std::vector<size_t> named_examples(const std::vector<Record>& records) { return groups_by_name(records).roots(); }

std::vector<size_t> independent_examples(const std::vector<Record>& records) {
  Groups groups = groups_by_name(records);
  std::unordered_map<std::string, size_t> by_prompt;
  for (size_t r = 0; r < records.size(); ++r) {
    const auto [first, fresh] = by_prompt.emplace(line_prompt_hash(records[r].source), r);
    if (!fresh) groups.join(first->second, r);
  }
  return groups.roots();
}

PromptCopies count_copies(const std::vector<Record>& records) {
  PromptCopies out;
  out.records = static_cast<int64_t>(records.size());
  const std::vector<size_t> example = named_examples(records), joined = independent_examples(records);
  out.named = static_cast<int64_t>(std::set<size_t>(example.begin(), example.end()).size());
  out.examples = static_cast<int64_t>(std::set<size_t>(joined.begin(), joined.end()).size());
  struct Use {
    size_t first = 0;           // example that has the prompt
    std::set<size_t> original;  // examples that have it and say something new
  };
  std::unordered_map<std::string, Use> uses;
  std::vector<Use*> of(records.size());
  for (size_t r = 0; r < records.size(); ++r)  // pointers to nodes stay
    of[r] = &uses.try_emplace(line_prompt_hash(records[r].source), Use{example[r], {}}).first->second;
  std::vector<uint8_t> repeats(records.size(), 1);  // [example] all of its prompts are of earlier ones
  for (size_t r = 0; r < records.size(); ++r) repeats[example[r]] &= of[r]->first != example[r];
  for (size_t r = 0; r < records.size(); ++r)
    if (!repeats[example[r]]) of[r]->original.insert(example[r]);
  for (size_t r = 0; r < records.size(); ++r) {
    const bool copy = repeats[example[r]], shared = !copy && of[r]->original.size() > 1;
    out.copies += copy;
    out.shared += shared;
    if ((copy || shared) && out.first.empty()) out.first = records[r].id;
  }
  return out;
}

std::string copies_sentence(const PromptCopies& copies, const std::string& records) {
  if (!copies.any()) return "";
  std::string text;
  if (copies.copies > 0)
    text = std::to_string(copies.copies) + " of " + std::to_string(copies.records) + " " + records +
           " repeat the prompts of earlier ones under other ids";
  if (copies.shared > 0)
    text += (text.empty() ? "" : "; ") + std::to_string(copies.shared) + " of " + std::to_string(copies.records) + " " +
            records + " have the same prompt as a record of another pair";
  return text + " (first: " + in_quotes(copies.first) + "). The results hold: intervals and p count records of one " +
         "prompt as one example, which makes " + std::to_string(copies.examples) + " of " +
         std::to_string(copies.named) + ". To know more, add other prompts";
}

}  // namespace signalbox::eval
