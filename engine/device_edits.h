// Router programs of bound edits in the memory of a device.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "kernels/backend.h"
#include "probes/edits.h"

namespace signalbox::engine {

// Copies of the programs of the sequences that run, with every list that their steps name. Where the device reads host
// memory the programs themselves are given out.
class DeviceEdits {
 public:
  DeviceEdits(Backend& backend, std::vector<int32_t> moe_layers) : backend_(backend), layers_(std::move(moe_layers)) {}

  // The programs of `edits`, one a layer of moe_layers, in memory of the device. Valid until keep_only().
  const std::vector<RouterProgram>& programs(const BoundEdits& edits);
  // Gives back the copies of all others.
  void keep_only(const std::vector<const BoundEdits*>& running);

 private:
  struct Memory {
    std::shared_ptr<void> block;
    size_t bytes = 0;
  };
  struct Copy {
    Memory memory;
    std::vector<RouterProgram> programs;
  };
  Copy make(const BoundEdits& edits);
  Memory take(size_t bytes);

  Backend& backend_;
  std::vector<int32_t> layers_;
  std::map<uint64_t, Copy> copies_;  // by BoundEdits::serial()
  std::vector<Memory> spare_;        // of sequences that have ended
};

}  // namespace signalbox::engine
