// Experts as rationales: how much an answer rests on the words that a set of experts takes, beside other ways to find
// words, and on the experts themselves (docs/rationales.md).
#pragma once
#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "eval/rationale/expert_factors.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

inline constexpr const char* experts_schema = "signalbox.rationale-experts/1";

struct ExpertStudy {
  const engine::Session* session = nullptr;
  std::vector<ChoiceRecord> detect, test;  // the set is chosen on the first, everything else is of the second
  DetectionSettings detection;
  std::vector<Removal> removals = {Removal::remove, Removal::mask};
  std::vector<double> thresholds = {0.01, 0.05, 0.1, 0.2, 0.5};
  int64_t random = 3;          // random scores of words
  int64_t random_experts = 3;  // sets of experts matched by layer and usage
  bool gradient = true;        // input x gradient, which needs a device with adjoints
  bool flips = false;          // tokens_to_flip
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  int threads = 1;
  std::filesystem::path dir;
  Manifest manifest;
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(const std::string& doing, int64_t total)> on_stage;
  std::function<void(int64_t done)> on_progress;
};

enum class ExpertStudyEnd : uint8_t { complete, was_complete, interrupted };

// Words are ranked by each method:
//   gold            evidence, by the record
//   experts         route_scores of the set found on `detect`
//   gradient        input x gradient of log p(c): sum over a word's tokens of <embedding, its gradient>
//   leave_one_out   p(c) - p(c without the word), by deletion
//   random.N        drawn evenly
//   matched.N       route_scores of a matched set of experts
// c is the model's own choice of the whole text. The rationale is the top ceil(f T) of a record's T words, f being the
// mean share of evidence on `detect`; of gold it is the evidence. Ties go to the earlier word.
//
// Fills `dir`: rd.csv and experts.csv (the set), results/METHOD-REMOVAL.jsonl (for any scorer of ERASER), scores.csv
// (method, removal, metric, value, ci_lo, ci_hi, n: means over records with bootstrap intervals; removal `experts`: the
// set banned, and everything else of its layers; random and matched: means over their draws), samples.jsonl, and
// summary.json. A second call goes on behind the last finished record, to the same bytes.
ExpertStudyEnd study_experts(const ExpertStudy& study);

// The ceil(share * n) highest, ties to the first.
std::vector<bool> top_words(const std::vector<double>& scores, double share);

}  // namespace signalbox::eval
