// Measurements that another program asks for, one at a time, while other engines take turns with this one.
#pragma once
#include <iosfwd>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/forward.h"
#include "engine/session.h"

namespace signalbox::tools {

// Single steps of one forward, without the scheduler: what an engine's own loop over its forward costs.
class Turns {
 public:
  explicit Turns(Session& session, int64_t chunk);
  // Answers {"prefill": N} or {"decode": BATCH, "context": C, "tokens": N} with {"seconds": S}: of the prompt, of a
  // step. Prompts of decoding are read once for each BATCH and C, before the first time. Throws Error for anything
  // else.
  json::Value answer(const std::string& line, const std::string& where);

 private:
  // Sequences behind their prompts, and what greedy sampling chose there.
  struct Decoding {
    std::unique_ptr<KvPool> pool;
    std::vector<SequenceCache> sequences;
    std::vector<int32_t> first;
    int64_t most_new = 0;
  };
  std::vector<int32_t> prompt(int64_t sequence, int64_t n_tokens) const;
  int32_t read(SequenceCache& kv, const std::vector<int32_t>& tokens);
  double prefill(int64_t n_tokens);
  double decode(int64_t batch, int64_t context, int64_t n_new);

  Session& session_;
  int64_t chunk_;
  Forward forward_;
  std::map<std::pair<int64_t, int64_t>, Decoding> decoding_;
  std::unique_ptr<KvPool> prompt_pool_;
  int64_t prompt_positions_ = 0;
};

// Reads requests from `in` until it ends; a line of JSON on standard output for each.
void answer_turns(Session& session, int64_t chunk, std::istream& in);

}  // namespace signalbox::tools
