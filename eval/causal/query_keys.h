// What another query or another key would do to the metric: through the softmax itself, and only behind it to first
// order (the "QK fix" of AtP*, arXiv 2403.00745). A saturated softmax has a gradient of almost 0 where an exchange
// moves all of a head's attention; the fix sees that.
//
//   query of token t, head h    sum over j of (p(q', k) - p(q, k))_j dM/dp_tj
//   key of token s, kv head g   sum over the heads h of g and the tokens t that see s of
//                               sum over j of (p(q_t, k with k'_s) - p(q_t, k))_j dM/dp_tj: each key alone
//
// Points as recorded: after norms and rotation. A sink takes its part of the softmax and has no value. Of latent
// attention there is one kv head, the latent with the rotated key. Cost: 3 dot products for each pair of tokens and
// head.
//
// Their rows in the table have no flip_share (eval/causal/route_margins.h): a query or key writes nothing to the
// stream, and a key changes what the heads of its group write at every later token, so the test would take a product
// with every later router for each pair of tokens and head.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

struct QueryKeyScore {
  bool key = false;
  int32_t position = 0, head = 0;  // head: of a key the kv head
  std::vector<double> scores;      // one of each way back
};

std::string query_key_points();  // that both runs must record
std::string query_key_slopes();  // that a way back must record

// Of one layer, by position, queries before keys. `here`: the run whose metric it is; `there`: whose queries and keys
// take the place of those at source_of[t] (-1: stays); null: 0 takes their place everywhere. `ways`: the slopes.
std::vector<QueryKeyScore> query_key_scores(const engine::Session& session, int32_t layer,
                                            const probes::ActivationStore& here, const probes::ActivationStore* there,
                                            const std::vector<int32_t>& source_of,
                                            const std::vector<const probes::ActivationStore*>& ways);

}  // namespace signalbox::eval
