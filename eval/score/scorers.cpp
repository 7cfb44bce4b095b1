#include <algorithm>
#include <iterator>

#include "base/unicode.h"
#include "base/utf8.h"
#include "eval/score/answers.h"
#include "eval/score/choices.h"
#include "eval/score/contains.h"
#include "eval/score/tables.h"

namespace signalbox::eval {

std::span<const Scorer> scorers() {
  static const std::vector<Scorer> all = [] {
    std::vector<Scorer> rows;
    for (const auto table : {correctness_scorers(), groundedness_scorers(), abstention_scorers(), refusal_scorers(),
                             degradation_scorers(), stability_scorers()})
      rows.insert(rows.end(), table.begin(), table.end());
    return rows;
  }();
  return all;
}

const Scorer* find_scorer(std::string_view name) {
  const auto all = scorers();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Scorer& scorer) { return scorer.name == name; });
  return found == all.end() ? nullptr : &*found;
}

std::vector<std::pair<std::string, std::string>> score_rule_versions() {
  return {{"answers", "squad 2.0"},
          {"final_answer", final_answer_rules_version},
          {"choice", choice_rules_version},
          {"contains", contains_rules_version},
          {"abstention", abstention_rules_version},
          {"refusal", refusal_rules_version},
          {"faitheval", faitheval_rules_version}};
}

bool is_blank_text(const Sample& sample) {
  const std::u32string text = code_points(sample.text);
  return std::all_of(text.begin(), text.end(), is_space);
}

bool final_answer_right(const Record& record, const Sample& sample) {
  std::vector<std::string> gold;
  for (const std::string& answer : record.answers) gold.push_back(answer_of(answer));
  return exact_match(answer_of(sample.text), gold);
}

BaselineSamples::BaselineSamples(const SampleGroup& group) {
  for (const Sample& sample : group.baseline) samples_[{sample.record, sample.seed, sample.sample}] = &sample;
}

const Sample* BaselineSamples::of(const Sample& sample) const {
  const auto found = samples_.find({sample.record, sample.seed, sample.sample});
  return found == samples_.end() ? nullptr : found->second;
}

}  // namespace signalbox::eval
