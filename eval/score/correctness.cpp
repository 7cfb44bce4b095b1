// Is the answer right?
#include <algorithm>
#include <array>
#include <map>

#include "eval/score/answers.h"
#include "eval/score/choices.h"
#include "eval/score/contains.h"
#include "eval/score/tables.h"

namespace signalbox::eval {

namespace {

std::optional<double> em(const Record& record, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  return as_score(exact_match(sample.text, record.answers));
}

std::optional<double> f1(const Record& record, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  return token_f1(sample.text, record.answers);
}

std::optional<double> em_final(const Record& record, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  return as_score(final_answer_right(record, sample));
}

std::optional<double> f1_final(const Record& record, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  std::vector<std::string> gold;
  for (const std::string& answer : record.answers) gold.push_back(answer_of(answer));
  return token_f1(answer_of(sample.text), gold);
}

// Texts to be looked for, at `key`. Throws Error for one that no text could be said to hold or not.
std::vector<std::string> checked_texts(const Record& record, const char* key, std::vector<std::string> texts) {
  for (size_t i = 0; i < texts.size(); ++i)
    if (normalize_answer(texts[i]).empty())
      throw Error(record.where, std::string(key) + "[" + std::to_string(i) +
                                    "]: expected a text of more than punctuation, white space and articles, to look "
                                    "for, found \"" +
                                    texts[i] + "\"");
  return texts;
}

std::vector<std::string> answers_to_find(const Record& record) {
  return checked_texts(record, "answers", record.answers);
}

std::vector<std::string> keywords_to_find(const Record& record) {
  std::vector<std::string> keywords = keywords_of(record);
  return keywords.empty() ? answers_to_find(record) : checked_texts(record, "keywords", std::move(keywords));
}

std::string lacks_texts(const Record& record) { return answers_to_find(record).empty() ? "answers" : ""; }
std::string lacks_keywords(const Record& record) {
  return keywords_to_find(record).empty() ? "keywords or answers" : "";
}

std::optional<double> contains(const Record& record, const Sample& sample) {
  if (!sample.has_text || lacks_texts(record) != "") return std::nullopt;
  const std::string_view text = after_thinking(sample.text);
  return as_score(std::any_of(record.answers.begin(), record.answers.end(),
                              [&](const std::string& answer) { return occurs(text, answer); }));
}

std::optional<double> contains_any(const Record& record, const Sample& sample) {
  if (!sample.has_text || lacks_keywords(record) != "") return std::nullopt;
  const std::string_view text = after_thinking(sample.text);
  const std::vector<std::string> all = keywords_to_find(record);
  return as_score(std::any_of(all.begin(), all.end(), [&](const std::string& one) { return occurs(text, one); }));
}

std::optional<double> contains_all(const Record& record, const Sample& sample) {
  if (!sample.has_text || lacks_keywords(record) != "") return std::nullopt;
  const std::string_view text = after_thinking(sample.text);
  const std::vector<std::string> all = keywords_to_find(record);
  return as_score(std::all_of(all.begin(), all.end(), [&](const std::string& one) { return occurs(text, one); }));
}

// One value a record and seed: the samples vote.
std::vector<ScoredUnit> majority_em(const SampleGroup& group) {
  struct Votes {
    std::map<std::string, int64_t> counts;
    std::string leader;
    int64_t most = 0, texts = 0;
  };
  std::map<std::pair<int64_t, uint64_t>, Votes> all;
  for (const Sample& sample : group.samples) {
    if (!sample.has_text || !has_answers(group.records[static_cast<size_t>(sample.record)])) continue;
    Votes& votes = all[{sample.record, sample.seed}];
    ++votes.texts;
    const std::string answer = normalize_answer(answer_of(sample.text));
    if (answer.empty()) continue;
    const int64_t count = ++votes.counts[answer];
    if (count > votes.most) {  // the first to reach a count keeps it
      votes.most = count;
      votes.leader = answer;
    }
  }
  std::vector<ScoredUnit> out;
  for (const auto& [key, votes] : all) {
    std::vector<std::string> gold;
    for (const std::string& answer : group.records[static_cast<size_t>(key.first)].answers)
      gold.push_back(answer_of(answer));
    out.push_back({key.first, as_score(exact_match(votes.leader, gold))});
  }
  return out;
}

std::string lacks_choices(const Record& record) { return choices_of(record) ? "" : "choices and choice"; }

// Whether the right option has the largest value; the first of several that share it counts as chosen.
template <class Value>
std::optional<double> best_option(const Record& record, const Sample& sample, Value value) {
  const auto choices = choices_of(record);
  if (!choices || sample.options.size() != choices->options.size()) return std::nullopt;
  std::vector<double> values;
  for (const OptionScore& option : sample.options) {
    const std::optional<double> one = value(option);
    if (!one) return std::nullopt;
    values.push_back(*one);
  }
  return as_score(std::max_element(values.begin(), values.end()) - values.begin() == choices->right);
}

std::optional<double> choice_logprob(const Record& record, const Sample& sample) {
  return best_option(record, sample, [](const OptionScore& option) { return std::optional(option.sum_logprob); });
}

std::optional<double> choice_logprob_norm(const Record& record, const Sample& sample) {
  return best_option(record, sample, [](const OptionScore& option) -> std::optional<double> {
    if (option.n_bytes == 0) return std::nullopt;
    return option.sum_logprob / static_cast<double>(option.n_bytes);
  });
}

std::optional<double> choice_parsed(const Record& record, const Sample& sample) {
  const auto choices = choices_of(record);
  if (!choices || !sample.has_text) return std::nullopt;
  return as_score(parse_choice(sample.text, choices->options) == choices->right);
}

std::optional<double> choice_unparsed(const Record& record, const Sample& sample) {
  const auto choices = choices_of(record);
  if (!choices || !sample.has_text) return std::nullopt;
  return as_score(!parse_choice(sample.text, choices->options));
}

constexpr std::array correctness_rows = {
    Scorer{.name = "em",
           .summary = "the text equals an answer, both normalised as in SQuAD; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_answers,
           .score = em},
    Scorer{.name = "f1",
           .summary = "F1 over tokens of text and answer, normalised as in SQuAD, the best over answers; 0 to 1",
           .needs = Needs::text,
           .lacks = lacks_answers,
           .score = f1},
    Scorer{.name = "em_final",
           .summary = "em of the final answer (after the last \"Answer:\" and the like); 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_answers,
           .score = em_final},
    Scorer{.name = "f1_final",
           .summary = "f1 of the final answer (after the last \"Answer:\" and the like); 0 to 1",
           .needs = Needs::text,
           .lacks = lacks_answers,
           .score = f1_final},
    Scorer{.name = "contains",
           .summary = "an answer occurs in the text as whole words, normalised as for em; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_texts,
           .score = contains},
    Scorer{.name = "contains_any",
           .summary = "one of the record's keywords (without any: an answer) occurs in the text; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_keywords,
           .score = contains_any},
    Scorer{.name = "contains_all",
           .summary = "all of the record's keywords (without any: its answers) occur in the text; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_keywords,
           .score = contains_all},
    Scorer{.name = "majority_em",
           .summary = "the final answer that most samples of a record give is right; 0 or 1 a seed",
           .needs = Needs::text,
           .lacks = lacks_answers,
           .score_group = majority_em},
    Scorer{.name = "choice_logprob",
           .summary = "the right option has the largest sum of log p; 0 or 1",
           .needs = Needs::options,
           .lacks = lacks_choices,
           .score = choice_logprob},
    Scorer{.name = "choice_logprob_norm",
           .summary = "the right option has the largest log p a byte of its text; 0 or 1",
           .needs = Needs::options,
           .lacks = lacks_choices,
           .score = choice_logprob_norm},
    Scorer{.name = "choice_parsed",
           .summary = "the option that the text chooses is the right one; 0 or 1, 0 where none or several can be read",
           .needs = Needs::text,
           .lacks = lacks_choices,
           .score = choice_parsed},
    Scorer{.name = "choice_unparsed",
           .summary = "no single option can be read from the text; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_choices,
           .score = choice_unparsed},
};

}  // namespace

std::span<const Scorer> correctness_scorers() { return correctness_rows; }

}  // namespace signalbox::eval
