#include "engine/device_edits.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "engine/host_image.h"

namespace signalbox::engine {

namespace {

// A pointer that becomes `base + offset` once the base is known; null where there is nothing.
template <class T>
const T* as_offset(HostImage& image, const T* values, int64_t n) {
  return values && n > 0 ? reinterpret_cast<const T*>(image.add(values, n) + 1) : nullptr;  // + 1: never null
}
template <class T>
void rebase(const T*& pointer, unsigned char* base) {
  if (pointer) pointer = reinterpret_cast<const T*>(base + (reinterpret_cast<size_t>(pointer) - 1));
}

int64_t replay_rows(const RouterStep& step) {
  int32_t last = -1;
  for (int32_t i = 0; i < step.replay_positions; ++i) last = std::max(last, step.replay_index[i]);
  return int64_t{last} + 1;
}

}  // namespace

DeviceEdits::Memory DeviceEdits::take(size_t bytes) {
  for (size_t i = 0; i < spare_.size(); ++i) {
    if (spare_[i].bytes < bytes) continue;
    Memory memory = std::move(spare_[i]);
    spare_.erase(spare_.begin() + static_cast<int64_t>(i));
    return memory;
  }
  return {backend_.allocate(bytes), bytes};
}

DeviceEdits::Copy DeviceEdits::make(const BoundEdits& edits) {
  Copy copy;
  for (const int32_t layer : layers_) copy.programs.push_back(edits.router(layer));
  if (backend_.shares_host_memory()) return copy;

  HostImage image;
  std::vector<size_t> at;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const RouterProgram& program = copy.programs[l];
    std::vector<RouterStep> steps(program.steps, program.steps + program.n_steps);
    for (RouterStep& step : steps) {
      const int64_t n_experts = edits.n_experts(layers_[l]);
      const int64_t rows = step.replay_index ? replay_rows(step) : 0;
      step.experts = as_offset(image, step.experts, step.op == EditOp::permute ? n_experts : step.n_listed);
      step.rates = as_offset(image, step.rates, n_experts);
      step.replay_ids = as_offset(image, step.replay_ids, rows * step.replay_k);
      step.replay_weights = as_offset(image, step.replay_weights, rows * step.replay_k);
      step.replay_index = as_offset(image, step.replay_index, step.replay_positions);
    }
    // Steps come last: their own bytes must not be taken for an array that another step names.
    at.push_back(steps.empty() ? 0 : image.add(program.steps, program.n_steps));
    if (!steps.empty()) std::memcpy(image.at<RouterStep>(at.back()), steps.data(), steps.size() * sizeof(RouterStep));
  }
  if (image.bytes().empty()) return copy;
  copy.memory = take(image.bytes().size());
  auto* base = static_cast<unsigned char*>(copy.memory.block.get());
  for (size_t l = 0; l < layers_.size(); ++l) {
    RouterProgram& program = copy.programs[l];
    for (int32_t i = 0; i < program.n_steps; ++i) {
      RouterStep& step = image.at<RouterStep>(at[l])[i];
      rebase(step.experts, base);
      rebase(step.rates, base);
      rebase(step.replay_ids, base);
      rebase(step.replay_weights, base);
      rebase(step.replay_index, base);
    }
    if (program.n_steps > 0) program.steps = reinterpret_cast<const RouterStep*>(base + at[l]);
  }
  backend_.upload(copy.memory.block.get(), image.bytes().data(), image.bytes().size());
  return copy;
}

const std::vector<RouterProgram>& DeviceEdits::programs(const BoundEdits& edits) {
  auto found = copies_.find(edits.serial());
  if (found == copies_.end()) found = copies_.emplace(edits.serial(), make(edits)).first;
  return found->second.programs;
}

void DeviceEdits::keep_only(const std::vector<const BoundEdits*>& running) {
  std::set<uint64_t> wanted;
  for (const BoundEdits* edits : running)
    if (edits) wanted.insert(edits->serial());
  std::erase_if(copies_, [&](auto& entry) {
    if (wanted.contains(entry.first)) return false;
    if (entry.second.memory.block) spare_.push_back(std::move(entry.second.memory));
    return true;
  });
}

}  // namespace signalbox::engine
