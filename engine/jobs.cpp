#include "engine/jobs.h"

#include <utility>

#include "base/error.h"

namespace signalbox::engine {

Prompt::Prompt(std::string id, std::vector<int32_t> tokens, std::vector<uint32_t> spans)
    : id(std::move(id)),
      record_hash(probes::record_hash(this->id)),
      tokens(std::move(tokens)),
      spans(std::move(spans)) {}

SequenceInfo sequence_info(const Job& job) { return {job.prompt->id, job.sample, job.n_given(), job.spans}; }

void check_length(const std::string& where, int64_t n_given, int64_t max_new, int64_t max_positions) {
  if (n_given == 0) throw Error(where, "expected at least one token, found none");
  if (max_positions > 0 && n_given + max_new > max_positions)
    throw Error(where, "expected at most the model's " + std::to_string(max_positions) + " positions, found " +
                           std::to_string(n_given) + " given and up to " + std::to_string(max_new) +
                           " generated tokens");
}

}  // namespace signalbox::engine
