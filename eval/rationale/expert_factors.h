// Experts as factors: the shares of a token's route, and sets of experts that routes of evidence prefer.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/detect/risk_difference.h"
#include "eval/experiment/controls.h"
#include "eval/rationale/choice_records.h"

namespace signalbox::eval {

using ExpertSet = std::map<int32_t, std::vector<int32_t>>;  // by layer, ascending

// Pi of the prompt's tokens in some layers: weights over their sum.
struct TokenRoutes {
  std::vector<int32_t> layers;
  int32_t n_experts = 0;
  std::vector<std::vector<double>> shares;  // [layers][token * n_experts + expert]
  std::vector<std::vector<bool>> selected;  // likewise
};
TokenRoutes token_routes(const engine::Session& session, const ChoiceRecord& record,
                         const std::vector<int32_t>& layers);

// [words] the mean over a word's tokens and the layers of the share of the set; 0 for a word without tokens.
std::vector<double> route_scores(const ChoiceRecord& record, const TokenRoutes& routes, const ExpertSet& set);

struct ExpertDetection {
  Detection detection;                 // tokens of evidence against the document's others, pairs by record
  std::vector<RiskDifference> chosen;  // in the order of choice
  ExpertSet set;
  UsageTable usage;       // share of the document's tokens
  double gold_share = 0;  // mean over records of evidence among words
};

struct DetectionSettings {
  std::vector<int32_t> layers;
  bool by_usage = false;  // of evidence, else by risk difference above 0
  int64_t top = 8;        // experts in all; no layer gives so many that its router has too few left
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  int threads = 1;
};
// Throws Error where no expert is left to choose.
ExpertDetection detect_experts(const engine::Session& session, const std::vector<ChoiceRecord>& records,
                               const DetectionSettings& settings, const std::function<void(int64_t)>& on_record);

// The set banned; or everything else of its layers, with as many experts as the router takes or as the set has, and the
// weights scaled to what they were (preserve_mass).
std::shared_ptr<const probes::EditPlan> ban_set(const engine::Session& session, const ExpertSet& set);
std::shared_ptr<const probes::EditPlan> keep_set(const engine::Session& session, const ExpertSet& set);

// Up to n other sets, matched by layer and usage (NamedExperts::frequency_matched).
std::vector<ExpertSet> matched_sets(const engine::Session& session, const ExpertSet& set, const UsageTable& usage,
                                    uint64_t seed, int64_t n);

}  // namespace signalbox::eval
