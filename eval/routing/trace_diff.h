// Two traces compared: the first probe point that differs, agreement of experts by layer, divergence of logits.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/routing/likeness.h"
#include "probes/trace.h"

namespace signalbox::eval {

// Where two traces part first: the earliest token of a sample that differs anywhere, and in it the earliest point in
// order of execution.
struct TraceDifference {
  std::string point, sample;
  int64_t position = 0, index = 0;  // token within the sample, element within the point
  double a = 0, b = 0;              // of expert ids: -1 where a route has ended
};

// Routes at one layer, over the tokens at which at least one of the traces uses an expert.
struct LayerAgreement {
  int32_t layer = 0;
  int64_t tokens = 0, same_experts = 0, same_route = 0;  // same_route: slot by slot
  int64_t slots = 0, common = 0;                         // used slots of the longer route; experts that both use
};

struct TraceComparison {
  // Samples are matched by id. Each pair is compared as far as its tokens are the same: after that, different is what
  // they should be.
  int64_t samples = 0, tokens = 0, only_a = 0, only_b = 0;
  int64_t other_tokens = 0;  // samples that part in their tokens
  std::optional<TraceDifference> first;
  std::vector<LayerAgreement> layers;  // where both recorded router.ids
  // Where both recorded logits: sums over logit_tokens.
  int64_t logit_tokens = 0, same_top = 0;
  double kl = 0;  // KL(a || b), nats
  double max_logit_difference = 0;
};

// Values count as equal when they differ by at most `tolerance`, and NaN equals NaN. Memory: a few hundred rows of each
// trace. Throws Error as TraceReader does.
TraceComparison compare_traces(const TraceReader& a, const TraceReader& b, double tolerance);

// For machines and for people. A share over no token is null, and "-".
json::Value comparison_json(const TraceComparison& comparison);
std::string comparison_text(const TraceComparison& comparison);

}  // namespace signalbox::eval
