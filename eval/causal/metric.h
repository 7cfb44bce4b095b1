// A metric: one number of a record's logits, and how it changes with them.
//
//   logprob     sum of log p of the target's tokens; a record without a target is refused
//   nll         mean of -log p over the target's tokens, or over all predicted tokens where there is no target
//   logit_diff  logit of `answer` minus that of `foil` at the last token before the target (the last token where there
//               is none). Both are keys of the record: a text, whose first token as a target counts, or a token id
//   kl          mean of KL(unedited run || this run) over the tokens that nll counts, in nats. Its gradient at the
//               unedited run is identically 0, so it is refused without edits
//
// log p and KL are natural, over the whole vocabulary.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/data/records.h"
#include "kernels/backend.h"

namespace signalbox::eval {

enum class Metric : uint8_t { logprob, nll, logit_diff, kl };

// Throws Error that begins with `where` and lists the names, for anything else.
Metric parse_metric(std::string_view name, const std::string& where);
std::string_view metric_name(Metric metric);
std::string_view metric_names();  // "logprob, nll, logit_diff, kl"

// What a metric looks at in one sequence: the logits of its last n_rows() tokens.
struct MetricRows {
  Metric metric = Metric::logprob;
  // [n_rows] the token whose log p counts at each row, -1: none. Of logit_diff: the answer, once.
  std::vector<int32_t> targets;
  int32_t foil = -1;  // of logit_diff
  float factor = 1;   // of each row that counts
  int64_t n_rows() const { return static_cast<int64_t>(targets.size()); }
};

// Throws Error naming the record's place: no target, no or equal `answer` and `foil`, a sequence of one token.
MetricRows metric_rows(Metric metric, const Record& record, const EncodedRecord& encoded,
                       const engine::EncodeSetup& setup);

// The number, of logits [n_rows, n_vocab] in memory of the device. `reference`: those of the unedited run, for kl
// alone.
double metric_value(kernels::Backend& backend, const MetricRows& rows, kernels::Tensor logits,
                    kernels::Tensor reference);

// d_logits [n_rows, n_vocab] = how the number changes with them.
void metric_adjoint(kernels::Backend& backend, const MetricRows& rows, kernels::Tensor d_logits, kernels::Tensor logits,
                    kernels::Tensor reference);

}  // namespace signalbox::eval
