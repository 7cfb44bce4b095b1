#include "engine/jobs.h"

#include <utility>

namespace signalbox::engine {

Prompt::Prompt(std::string id, std::vector<int32_t> tokens, std::vector<uint32_t> spans)
    : id(std::move(id)),
      record_hash(probes::record_hash(this->id)),
      tokens(std::move(tokens)),
      spans(std::move(spans)) {}

SequenceInfo sequence_info(const Job& job) { return {job.prompt->id, job.sample, job.n_given(), job.spans}; }

}  // namespace signalbox::engine
