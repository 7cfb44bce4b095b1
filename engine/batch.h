// The only input of the forward: a flat list of tokens, each with its sequence and position. Prefill, chunked prefill,
// decode, teacher forcing and many sequences at once are the same code with other numbers.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/kv_pool.h"
#include "kernels/backend.h"
#include "probes/edits.h"

namespace signalbox::engine {

class AdapterSum;

// A sequence that takes part in a batch.
struct BatchSequence {
  SequenceCache* kv = nullptr;
  const BoundEdits* edits = nullptr;     // null: none
  int64_t sample = 0;                    // sample of the trace that its rows belong to
  int64_t first_row = 0, n_rows = 0;     // rows of the batch
  const AdapterSum* adapters = nullptr;  // beside the weights (engine/low_rank.h); null: none
};

class Batch {
 public:
  void clear();
  int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }

  // Appends `ids` as the next positions of a sequence, whose cache is extended. `spans`: bits of each token or empty.
  // `n_logits`: how many of the last tokens need logits. `follower`: the token behind the last of ids.
  void append(SequenceCache& kv, const BoundEdits* edits, int64_t sample, std::span<const int32_t> ids,
              std::span<const uint32_t> spans, int64_t n_given, int64_t n_logits, int32_t follower = no_token);

  // Of `followers`: nothing follows; or what the step itself chooses.
  static constexpr int32_t no_token = -1, chosen_token = -2;

  std::vector<BatchSequence> members;
  std::vector<int32_t> tokens, positions, kv_rows;  // [n_tokens]
  std::vector<int32_t> sequences;                   // [n_tokens] indices of members
  std::vector<uint8_t> phase;                       // [n_tokens] 1 = generated
  std::vector<uint32_t> spans;                      // [n_tokens]
  std::vector<int32_t> logit_rows;                  // rows whose logits are wanted, ascending
  std::vector<int32_t> followers;  // [n_tokens] the next token of the sequence: an id, no_token or chosen_token
  // Where the rotary embedding takes the tokens of the only sequence to stand, [positions so far]: for what is left of
  // a text whose tokens keep their places. The others' keys are then hidden from them, but for a sliding window, which
  // counts the tokens that are left. Empty: at their positions.
  std::vector<int32_t> places;
  // What becomes of the wanted logits, one entry each, or empty.
  std::vector<SampleParams> sampling;  // a token is chosen
  std::vector<int32_t> targets;        // log p of this token is wanted
};

// Which edits of its sequence act on each token of a batch.
class ActiveEdits {
 public:
  void read(const Batch& batch);
  bool router() const { return any_router_; }  // some sequence carries edits of routes, acting or not
  bool points() const { return any_points_; }  // some sequence carries writes to points
  int32_t n_columns() const { return n_columns_; }
  std::span<const uint8_t> table() const { return table_; }  // [n_tokens, n_columns] 1 = acts
  bool act(int64_t token, int32_t edit) const { return table_[static_cast<size_t>(token * n_columns_ + edit)] != 0; }

 private:
  bool any_router_ = false, any_points_ = false;
  int32_t n_columns_ = 0;  // the most edits of any sequence, up to the next multiple of eight
  std::vector<uint8_t> table_;
};

}  // namespace signalbox::engine
