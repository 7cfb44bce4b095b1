// What becomes of the logits of a scheduler's steps beside the choice of tokens: they are hashed, shown to whoever
// wants to see them, kept for jobs that refer to them, and compared with kept ones.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/logit_store.h"
#include "engine/running_sequence.h"

namespace signalbox::engine {

class StepLogits {
 public:
  // max_kept_bytes: of kept logits in memory; more go to a temporary file.
  StepLogits(Backend& backend, int64_t n_vocab, size_t max_kept_bytes);

  // Rows are in the order of `sequences`, n_logits of each; sequences that ended are passed over.
  // take() begins to copy them to the host, beside the next step; settle() hashes, shows and keeps what was copied, and
  // throws Error where the temporary file of kept logits cannot be written.
  void take(Tensor logits, const std::vector<RunningSequence*>& sequences);
  void settle();
  // Appends to the results of those that have a reference.
  void compare(Tensor logits, const std::vector<RunningSequence*>& sequences);

  // The sequence goes away: the rows that wait for settle() are not wanted any more.
  void forget(RunningSequence& sequence);
  // Kept rows that nobody will be compared with any more.
  void release(std::vector<int64_t>& rows);

 private:
  Backend& backend_;
  int64_t n_vocab_;
  LogitStore store_;
  LogitComparer comparer_;
  std::shared_ptr<void> copied_;
  size_t copied_bytes_ = 0;  // that there is room for
  uint64_t ticket_ = 0;
  struct CopiedRow {
    RunningSequence* owner = nullptr;  // null: nobody's any more
    int64_t token = 0;                 // index in the sequence
  };
  std::vector<CopiedRow> rows_;
};

}  // namespace signalbox::engine
