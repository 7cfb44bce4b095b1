// Does the answer stay the same?
#include <algorithm>
#include <array>
#include <unordered_map>

#include "eval/score/answers.h"
#include "eval/score/tables.h"

namespace signalbox::eval {

namespace {

// Shares of agreeing pairs, one a record.
class Agreement {
 public:
  // Adds all pairs among the answers of one record that were given under the same circumstances.
  void add(int64_t record, const std::vector<std::string>& answers) {
    for (size_t i = 0; i < answers.size(); ++i)
      for (size_t j = i + 1; j < answers.size(); ++j) {
        auto& [same, all] = counts_[record];
        same += answers[i] == answers[j];
        ++all;
      }
  }
  std::vector<ScoredUnit> units() const {
    std::vector<ScoredUnit> out;
    for (const auto& [record, counts] : counts_)
      out.push_back({record, static_cast<double>(counts.first) / static_cast<double>(counts.second)});
    return out;
  }

 private:
  std::map<int64_t, std::pair<int64_t, int64_t>> counts_;
};

std::string final_answer(const Sample& sample) { return normalize_answer(answer_of(sample.text)); }

// Pairs of texts of a record that share `key`'s second part.
template <class Key>
std::vector<ScoredUnit> agreement_by(const SampleGroup& group, Key key) {
  std::map<std::pair<int64_t, uint64_t>, std::vector<std::string>> answers;
  for (const Sample& sample : group.samples)
    if (sample.has_text) answers[{sample.record, key(sample)}].push_back(final_answer(sample));
  Agreement agreement;
  for (const auto& [where, list] : answers) agreement.add(where.first, list);
  return agreement.units();
}

std::vector<ScoredUnit> seed_agreement(const SampleGroup& group) {
  return agreement_by(group, [](const Sample& sample) { return static_cast<uint64_t>(sample.sample); });
}

std::vector<ScoredUnit> sample_agreement(const SampleGroup& group) {
  return agreement_by(group, [](const Sample& sample) { return sample.seed; });
}

std::string lacks_paraphrase(const Record& record) { return paraphrase_of(record).empty() ? "paraphrase_of" : ""; }

// The id that a record's wordings share: the end of the chain of paraphrase_of, the least id of one that is a circle.
std::string family_of(std::span<const Record> records, const std::unordered_map<std::string, int64_t>& by_id,
                      int64_t record) {
  std::vector<std::string> chain = {records[static_cast<size_t>(record)].id};
  for (;;) {
    const auto at = by_id.find(chain.back());
    if (at == by_id.end()) return chain.back();
    const std::string base = paraphrase_of(records[static_cast<size_t>(at->second)]);
    if (base.empty()) return chain.back();
    const auto seen = std::find(chain.begin(), chain.end(), base);
    if (seen != chain.end()) return *std::min_element(seen, chain.end());
    chain.push_back(base);
  }
}

// [record] its family.
std::vector<std::string> families_of(std::span<const Record> records) {
  std::unordered_map<std::string, int64_t> by_id;
  for (size_t i = 0; i < records.size(); ++i) by_id.emplace(records[i].id, static_cast<int64_t>(i));
  std::vector<std::string> families;
  for (size_t i = 0; i < records.size(); ++i) families.push_back(family_of(records, by_id, static_cast<int64_t>(i)));
  return families;
}

std::string lacks_wordings(std::span<const Record> records) {
  std::map<std::string, int64_t> sizes;
  for (const std::string& family : families_of(records))
    if (++sizes[family] > 1) return {};
  return "two wordings of one question";
}

std::vector<ScoredUnit> paraphrase_agreement(const SampleGroup& group) {
  const std::vector<std::string> families = families_of(group.records);
  std::map<std::string, int64_t> unit;  // the first record of the family that names another
  for (int64_t i = 0; i < static_cast<int64_t>(group.records.size()); ++i) {
    const auto at = static_cast<size_t>(i);
    if (!paraphrase_of(group.records[at]).empty()) unit.emplace(families[at], i);
  }
  std::map<std::tuple<int64_t, uint64_t, int64_t>, std::vector<std::string>> answers;
  for (const Sample& sample : group.samples) {
    const auto found = unit.find(families[static_cast<size_t>(sample.record)]);
    if (found == unit.end() || !sample.has_text) continue;
    answers[{found->second, sample.seed, sample.sample}].push_back(final_answer(sample));
  }
  Agreement agreement;
  for (const auto& [where, list] : answers) agreement.add(std::get<0>(where), list);
  return agreement.units();
}

// A value for every text whose baseline has one too.
template <class Compare>
std::vector<ScoredUnit> against_baseline(const SampleGroup& group, bool need_answers, Compare compare) {
  const BaselineSamples baseline(group);
  std::vector<ScoredUnit> out;
  for (const Sample& sample : group.samples) {
    const Record& record = group.records[static_cast<size_t>(sample.record)];
    const Sample* before = baseline.of(sample);
    if (!before || !before->has_text || !sample.has_text || (need_answers && !has_answers(record))) continue;
    out.push_back({sample.record, as_score(compare(record, *before, sample))});
  }
  return out;
}

std::vector<ScoredUnit> answer_agreement(const SampleGroup& group) {
  return against_baseline(group, false, [](const Record&, const Sample& before, const Sample& now) {
    return final_answer(before) == final_answer(now);
  });
}

std::vector<ScoredUnit> flip(const SampleGroup& group) {
  return against_baseline(group, true, [](const Record& record, const Sample& before, const Sample& now) {
    return final_answer_right(record, before) != final_answer_right(record, now);
  });
}

std::vector<ScoredUnit> lost(const SampleGroup& group) {
  return against_baseline(group, true, [](const Record& record, const Sample& before, const Sample& now) {
    return final_answer_right(record, before) && !final_answer_right(record, now);
  });
}

std::vector<ScoredUnit> gained(const SampleGroup& group) {
  return against_baseline(group, true, [](const Record& record, const Sample& before, const Sample& now) {
    return !final_answer_right(record, before) && final_answer_right(record, now);
  });
}

constexpr std::array stability_rows = {
    Scorer{.name = "answer_agreement",
           .summary = "the same normalised final answer as the baseline's; 0 or 1",
           .needs = Needs::text,
           .against_baseline = true,
           .lacks = lacks_nothing,
           .score_group = answer_agreement},
    Scorer{.name = "flip",
           .summary = "right under the baseline and wrong here, or the other way round; 0 or 1",
           .needs = Needs::text,
           .against_baseline = true,
           .lacks = lacks_answers,
           .score_group = flip},
    Scorer{.name = "lost",
           .summary = "right under the baseline and wrong here; 0 or 1",
           .needs = Needs::text,
           .against_baseline = true,
           .lacks = lacks_answers,
           .score_group = lost},
    Scorer{.name = "gained",
           .summary = "wrong under the baseline and right here; 0 or 1",
           .needs = Needs::text,
           .against_baseline = true,
           .lacks = lacks_answers,
           .score_group = gained},
    Scorer{.name = "seed_agreement",
           .summary = "share of pairs of seeds that give a record the same normalised final answer; 0 to 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score_group = seed_agreement},
    Scorer{.name = "sample_agreement",
           .summary = "share of pairs of samples of one seed with the same normalised final answer; 0 to 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score_group = sample_agreement},
    Scorer{.name = "paraphrase_agreement",
           .summary = "share of pairs of wordings of a question with the same normalised final answer; 0 to 1",
           .needs = Needs::text,
           .lacks = lacks_paraphrase,
           .lacks_all = lacks_wordings,
           .score_group = paraphrase_agreement},
    Scorer{
        .name = "route_jaccard",
        .summary = "common experts over all experts of route and baseline's route, mean over tokens and layers; 0 to 1",
        .needs = Needs::routes,
        .against_baseline = true,
        .lacks = lacks_nothing,
        .score_routes = route_jaccard},
    Scorer{.name = "route_jaccard_weighted",
           .summary = "sum of min over sum of max weights of the two routes, mean over tokens and layers; 0 to 1",
           .needs = Needs::routes,
           .against_baseline = true,
           .lacks = lacks_nothing,
           .score_routes = route_jaccard_weighted},
    Scorer{.name = "route_flip",
           .summary = "share of tokens and layers whose set of experts is not the baseline's; 0 to 1",
           .needs = Needs::routes,
           .against_baseline = true,
           .lacks = lacks_nothing,
           .score_routes = route_flips},
    Scorer{.name = "route_instability",
           .summary = "share of the baseline's experts that a token does not use here, mean over layers; 0 to 1",
           .needs = Needs::routes,
           .against_baseline = true,
           .lacks = lacks_nothing,
           .score_routes = route_instability},
};

}  // namespace

std::span<const Scorer> stability_scorers() { return stability_rows; }

}  // namespace signalbox::eval
