// A forecast of what parts and edges do, to first order: gradients of the metric times what would change. A filter
// where there are more than can be run, and a ranking to compare with; no result: it does not see routes that would
// change.
//
//   atp      the gradient at the base run: attribution patching, of edges EAP (Syed et al. 2023, arXiv 2310.10348)
//   eap_ig   averaged over embeddings on the way from the other record to the base one, k / steps of it, k = 0 ...
//            steps - 1 (Hanna et al. 2024, arXiv 2403.17806)
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/edges.h"
#include "eval/circuit/model_scorer.h"

namespace signalbox::eval {

// What says which parts and edges get runs of their own. exact: nothing, all do.
enum class RankMethod : uint8_t { exact, atp, eap_ig };
RankMethod parse_rank_method(std::string_view name, const std::string& where);  // throws Error, listing the names
std::string_view rank_method_name(RankMethod method);

struct ForecastRule {
  RankMethod method = RankMethod::atp;
  int64_t steps = 5;  // of eap_ig
  int64_t gradients() const {
    return method == RankMethod::eap_ig ? steps : 1;
  }  // of a pair: about three forwards each
};

// [part] mean over pairs of |sum over its tokens of (ablated output - own) . d metric / d output|. Experts by id: those
// of the other run's routes take part, with the gradient of the layer's output. Throws Error for atp of the metric kl,
// whose gradient is 0 at the base run, where the device has no adjoints, and CircuitInterrupted.
std::vector<double> forecast_parts(const ModelScorer& scorer, const ForecastRule& rule = {});

// [edge] mean over pairs of |sum over tokens of the sender's change . d metric / d what the receiver reads|; of an
// expert the larger of what it reads and what its router does. Keys and values are those of a kv head: of heads that
// share them all have what the group has. Throws as above.
std::vector<double> forecast_edges(const ModelScorer& scorer, const std::vector<EdgeEffects>& edges,
                                   const ForecastRule& rule = {});

}  // namespace signalbox::eval
