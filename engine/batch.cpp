#include "engine/batch.h"

#include <algorithm>

namespace signalbox::engine {

void Batch::clear() {
  members.clear();
  tokens.clear();
  positions.clear();
  sequences.clear();
  kv_rows.clear();
  phase.clear();
  spans.clear();
  logit_rows.clear();
  followers.clear();
  places.clear();
  sampling.clear();
  targets.clear();
}

void Batch::append(SequenceCache& kv, const BoundEdits* edits, int64_t sample, std::span<const int32_t> ids,
                   std::span<const uint32_t> span_bits, int64_t n_given, int64_t n_logits, int32_t follower) {
  const int64_t start = kv.length(), count = static_cast<int64_t>(ids.size());
  kv.extend(count);
  const int32_t sequence = static_cast<int32_t>(members.size());
  members.push_back({&kv, edits, sample, n_tokens(), count});
  for (int64_t i = 0; i < count; ++i) {
    if (i >= count - n_logits) logit_rows.push_back(static_cast<int32_t>(n_tokens()));
    tokens.push_back(ids[i]);
    followers.push_back(i + 1 < count ? ids[i + 1] : follower);
    positions.push_back(static_cast<int32_t>(start + i));
    sequences.push_back(sequence);
    kv_rows.push_back(kv.row(start + i));
    phase.push_back(start + i >= n_given);
    spans.push_back(span_bits.empty() ? 0 : span_bits[i]);
  }
}

void ActiveEdits::read(const Batch& batch) {
  any_router_ = any_points_ = false;
  int32_t n_edits = 0;
  for (const BatchSequence& sequence : batch.members) {
    if (!sequence.edits) continue;
    any_router_ = any_router_ || sequence.edits->has_router_edits();
    any_points_ = any_points_ || sequence.edits->plan().has_point_edits();
    n_edits = std::max(n_edits, sequence.edits->plan().n_edits());
  }
  n_columns_ = (n_edits + 7) / 8 * 8;
  table_.assign(static_cast<size_t>(batch.n_tokens() * n_columns_), 0);
  for (const BatchSequence& sequence : batch.members) {
    if (!sequence.edits) continue;
    for (int64_t t = sequence.first_row; t < sequence.first_row + sequence.n_rows; ++t)
      sequence.edits->active(batch.positions[t], table_.data() + t * n_columns_);
  }
}

}  // namespace signalbox::engine
