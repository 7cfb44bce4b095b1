#include "engine/step.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/error.h"

namespace signalbox::engine {

namespace {

int64_t power_of_two(int64_t n, int64_t least) {
  return std::max(least, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1)))));
}

}  // namespace

Step::Step(Backend& backend, const Model& model)
    : backend_(backend),
      moe_layers_(model.moe_layers()),
      rope_(backend, model.rope),
      device_edits_(backend, moe_layers_),
      inputs_(backend) {}

void Step::begin(const Batch& batch, const ActiveEdits& edits, uint32_t ring_step) {
  const int64_t n_tokens = batch.n_tokens();
  n_sequences_ = static_cast<int64_t>(batch.members.size());
  n_logits_ = static_cast<int64_t>(batch.logit_rows.size());
  n_sampled_ = static_cast<int64_t>(batch.sampling.size());
  n_targets_ = static_cast<int64_t>(batch.targets.size());
  pool_ = &batch.members.front().kv->pool();

  int32_t last = 0;
  for (const int32_t position : batch.positions) last = std::max(last, position);
  n_keys_ = last + 1;
  if (batch.places.empty()) {
    rope_table_ = &rope_.reach(last + 1);
  } else {
    if (n_sequences_ != 1 || static_cast<int64_t>(batch.places.size()) != last + 1)
      throw Error("batch", "expected the places of one sequence's " + std::to_string(last + 1) + " positions, found " +
                               std::to_string(batch.places.size()) + " of " + std::to_string(n_sequences_) +
                               " sequences");
    rope_table_ = &rope_.at(batch.places);
  }
  const int64_t max_keys = power_of_two(last + 1, 256);
  token_capacity_ = power_of_two(n_tokens, max_captured_tokens);
  sequence_capacity_ = power_of_two(n_sequences_, 8);
  int64_t max_blocks = 1;
  for (const BatchSequence& sequence : batch.members)
    max_blocks = std::max<int64_t>(max_blocks, static_cast<int64_t>(sequence.kv->blocks().size()));
  max_blocks = power_of_two(max_blocks, 16);

  StepInputs& in = inputs_;
  in.begin();
  status_at_ = in.add<uint64_t>(1 + sequence_capacity_);
  chosen_at_ = in.add<int32_t>(token_capacity_);
  const int64_t n_log_probs = batch.targets.empty() ? 0 : token_capacity_;
  log_probs_at_ = in.add<double>(n_log_probs);
  const int64_t n_edited = edits.router() ? token_capacity_ : 0;
  edits_at_ = in.add<TokenEdits>(n_edited);
  status_bytes_ = edits_at_ + static_cast<size_t>(n_edited) * sizeof(TokenEdits) - status_at_;
  std::fill_n(in.host<uint64_t>(status_at_) + 1, sequence_capacity_, no_fault);
  const size_t step_at = in.add<uint32_t>(std::span<const uint32_t>(&ring_step, 1), 1);
  auto list = [&](const std::vector<int32_t>& values) {
    return in.add<int32_t>(std::span<const int32_t>(values), token_capacity_);
  };
  const size_t tokens = list(batch.tokens), positions = list(batch.positions), sequences = list(batch.sequences),
               kv_rows = list(batch.kv_rows), logit_rows = list(batch.logit_rows), targets = list(batch.targets);
  const size_t sampling = in.add<SampleParams>(std::span<const SampleParams>(batch.sampling), token_capacity_);
  const size_t tables = in.add<int32_t>(sequence_capacity_ * max_blocks);
  for (int64_t s = 0; s < n_sequences_; ++s)
    std::copy(batch.members[s].kv->blocks().begin(), batch.members[s].kv->blocks().end(),
              in.host<int32_t>(tables) + s * max_blocks);
  EditOffsets offsets;
  if (edits.router()) offsets = add_edits(batch, edits);
  in.upload();

  ring_step_ = in.device<uint32_t>(step_at);
  tokens_ = in.device<int32_t>(tokens);
  logit_rows_ = in.device<int32_t>(logit_rows);
  targets_ = n_targets_ > 0 ? in.device<int32_t>(targets) : nullptr;
  sampling_ = n_sampled_ > 0 ? in.device<SampleParams>(sampling) : nullptr;
  view_ = {n_tokens,
           in.device<int32_t>(positions),
           in.device<int32_t>(sequences),
           in.device<int32_t>(kv_rows),
           in.device<int32_t>(tables),
           max_blocks,
           KvPool::block_size,
           max_keys};
  routes_ = {};
  routes_.n_tokens = n_tokens;
  routes_.positions = view_.positions;
  routes_.sequences = view_.sequences;
  programs_ = nullptr;
  if (edits.router()) {
    programs_ = in.device<RouterProgram>(offsets.programs);
    routes_.active = in.device<uint8_t>(offsets.active);
    routes_.n_edits = edits.n_columns();
    routes_.record_hash = in.device<uint64_t>(offsets.hashes);
    routes_.samples = in.device<uint32_t>(offsets.samples);
  }
}

Step::EditOffsets Step::add_edits(const Batch& batch, const ActiveEdits& edits) {
  StepInputs& in = inputs_;
  EditOffsets at;
  at.active = in.add<uint8_t>(edits.table(), token_capacity_ * edits.n_columns());
  at.hashes = in.add<uint64_t>(sequence_capacity_);
  at.samples = in.add<uint32_t>(sequence_capacity_);
  at.programs = in.add<RouterProgram>(static_cast<int64_t>(moe_layers_.size()) * sequence_capacity_);
  std::vector<const BoundEdits*> running;
  for (int64_t s = 0; s < n_sequences_; ++s) {
    const BoundEdits* bound = batch.members[s].edits;
    if (!bound) continue;
    running.push_back(bound);
    in.host<uint64_t>(at.hashes)[s] = bound->record_hash();
    in.host<uint32_t>(at.samples)[s] = bound->sample();
    const auto& programs = device_edits_.programs(*bound);
    for (size_t l = 0; l < programs.size(); ++l)
      in.host<RouterProgram>(at.programs)[static_cast<int64_t>(l) * sequence_capacity_ + s] = programs[l];
  }
  device_edits_.keep_only(running);
  return at;
}

RouteBatch Step::route_batch(int64_t layer) const {
  RouteBatch batch = routes_;
  batch.layer = static_cast<int32_t>(layer);
  if (!programs_) return batch;
  const auto place = std::lower_bound(moe_layers_.begin(), moe_layers_.end(), layer);
  batch.programs = programs_ + (place - moe_layers_.begin()) * sequence_capacity_;
  return batch;
}

std::vector<int64_t> Step::key() const {
  return {view_.n_tokens,
          n_sequences_,
          n_logits_,
          n_sampled_,
          n_targets_,
          token_capacity_,
          sequence_capacity_,
          view_.max_blocks,
          view_.max_keys,
          programs_ ? routes_.n_edits : -1,
          reinterpret_cast<int64_t>(pool_->layer(0).keys)};
}

Step::Results Step::finish(const Batch& batch) {
  if (status_host_bytes_ < status_bytes_) {
    status_host_ = backend_.allocate_host(status_bytes_);
    status_host_bytes_ = status_bytes_;
  }
  backend_.download(status_host_.get(), inputs_.device<unsigned char>(status_at_), status_bytes_);
  const auto* bytes = static_cast<const unsigned char*>(status_host_.get());
  const auto* status = reinterpret_cast<const uint64_t*>(bytes);
  if (status[0] != 0)
    throw Error("routing", "expected no suppressed expert to run, found " + std::to_string(status[0]) + " that did");
  Results results = {{reinterpret_cast<const int32_t*>(bytes + (chosen_at_ - status_at_)), batch.sampling.size()},
                     {reinterpret_cast<const double*>(bytes + (log_probs_at_ - status_at_)), batch.targets.size()},
                     {reinterpret_cast<const TokenEdits*>(bytes + (edits_at_ - status_at_)),
                      programs_ ? batch.tokens.size() : size_t{0}},
                     {}};
  std::vector<uint64_t> faults;
  for (size_t s = 0; s < batch.members.size(); ++s)
    if (status[1 + s] != no_fault) faults.push_back(status[1 + s]);
  std::sort(faults.begin(), faults.end());  // the first of the forward comes first
  for (const uint64_t packed : faults) {
    const RouteFault fault = unpack_fault(packed);
    const int32_t sequence = batch.sequences[fault.token], position = batch.positions[fault.token];
    const BoundEdits* edits = batch.members[sequence].edits;
    results.failures.push_back({sequence, edits ? edits->fault_error(fault, fault.layer, position)
                                                : Error("layer " + std::to_string(fault.layer) + " router",
                                                        "expected finite logits, found NaN or infinity at position " +
                                                            std::to_string(position))});
  }
  return results;
}

}  // namespace signalbox::engine
