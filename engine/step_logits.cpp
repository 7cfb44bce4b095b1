#include "engine/step_logits.h"

#include <algorithm>
#include <span>
#include <utility>

namespace signalbox::engine {

StepLogits::StepLogits(Backend& backend, int64_t n_vocab, size_t max_kept_bytes)
    : backend_(backend), n_vocab_(n_vocab), store_(n_vocab, max_kept_bytes), comparer_(backend, store_, n_vocab) {}

void StepLogits::take(Tensor logits, const std::vector<RunningSequence*>& sequences) {
  owners_.clear();
  for (RunningSequence* sequence : sequences)
    owners_.insert(owners_.end(), static_cast<size_t>(sequence->n_logits), sequence->ended ? nullptr : sequence);
  if (owners_.empty()) return;
  const size_t bytes = static_cast<size_t>(logits.rows * logits.cols) * sizeof(float);
  if (copied_bytes_ < bytes) {
    copied_bytes_ = std::max(bytes, 2 * copied_bytes_);
    copied_ = backend_.allocate_host(copied_bytes_);
  }
  ticket_ = backend_.download_later(copied_.get(), logits.data, bytes);
}

void StepLogits::settle() {
  if (owners_.empty()) return;
  backend_.wait(ticket_);
  const auto* row = static_cast<const float*>(copied_.get());
  for (RunningSequence* owner : std::exchange(owners_, {})) {
    if (owner) {
      owner->hash(row, static_cast<size_t>(n_vocab_) * sizeof(float));
      KeptJob& kept = owner->group.kept[owner->place];
      if (owner->planned.rows_wanted && kept.n_followers > 0 &&
          static_cast<int64_t>(kept.rows.size()) < owner->planned.n_scored)
        kept.rows.push_back(store_.add(row));
    }
    row += n_vocab_;
  }
}

void StepLogits::compare(Tensor logits, const std::vector<RunningSequence*>& sequences) {
  std::vector<LogitComparer::Piece> pieces;
  int64_t row = 0;
  for (RunningSequence* sequence : sequences) {
    const int64_t first = std::exchange(row, row + sequence->n_logits);
    if (sequence->n_logits == 0 || sequence->ended) continue;
    const PlannedJob& planned = sequence->planned;
    if (planned.reference < 0 || static_cast<size_t>(planned.reference) == sequence->place) continue;
    const auto& rows = sequence->group.kept[static_cast<size_t>(planned.reference)].rows;
    const int64_t at = sequence->first_scored(), n = std::min(sequence->n_logits, planned.n_scored - at);
    if (n > 0)
      pieces.push_back({first, std::span(rows).subspan(static_cast<size_t>(at), static_cast<size_t>(n)),
                        &sequence->result.divergence, &sequence->result.same_top});
  }
  if (!pieces.empty()) comparer_.compare(logits, pieces);
}

void StepLogits::forget(RunningSequence& sequence) {
  for (RunningSequence*& owner : owners_)
    if (owner == &sequence) owner = nullptr;
}

void StepLogits::release(std::vector<int64_t>& rows) {
  for (const int64_t row : std::exchange(rows, {})) store_.release(row);
}

}  // namespace signalbox::engine
