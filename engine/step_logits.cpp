#include "engine/step_logits.h"

#include <algorithm>
#include <span>
#include <utility>

namespace signalbox::engine {

StepLogits::StepLogits(Backend& backend, int64_t n_vocab, size_t max_kept_bytes)
    : backend_(backend), n_vocab_(n_vocab), store_(n_vocab, max_kept_bytes), comparer_(backend, store_, n_vocab) {}

void StepLogits::take(Tensor logits, const std::vector<RunningSequence*>& sequences) {
  rows_.clear();
  for (RunningSequence* sequence : sequences)
    for (int64_t i = 0; i < sequence->n_logits; ++i)
      rows_.push_back(
          {sequence->ended ? nullptr : sequence, sequence->n_run + sequence->n_rows - sequence->n_logits + i});
  if (rows_.empty()) return;
  const size_t bytes = static_cast<size_t>(logits.rows * logits.cols) * sizeof(float);
  if (copied_bytes_ < bytes) {
    copied_bytes_ = std::max(bytes, 2 * copied_bytes_);
    copied_ = backend_.allocate_host(copied_bytes_);
  }
  ticket_ = backend_.download_later(copied_.get(), logits.data, bytes);
}

void StepLogits::settle() {
  if (rows_.empty()) return;
  backend_.wait(ticket_);
  const auto* row = static_cast<const float*>(copied_.get());
  for (const auto& [owner, token] : std::exchange(rows_, {})) {
    if (owner) {
      // Of a text that is generated those count that a token was chosen from.
      if (owner->scores() || token + 1 >= owner->job.n_given())
        owner->hash(row, static_cast<size_t>(n_vocab_) * sizeof(float));
      const GroupWatch& watch = owner->group.watch;
      if (watch.on_logits && watch.of(owner->place).shows_logits)
        watch.on_logits(owner->place, token, std::span(row, static_cast<size_t>(n_vocab_)));
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
  for (CopiedRow& row : rows_)
    if (row.owner == &sequence) row.owner = nullptr;
}

void StepLogits::release(std::vector<int64_t>& rows) {
  for (const int64_t row : std::exchange(rows, {})) store_.release(row);
}

}  // namespace signalbox::engine
