// Where the weights of a model that runs on the CPU lie: read from mapped files as they are used, or copied once into
// memory of the process, in pages of 2 MiB and in the order in which a forward reads them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/weights.h"

namespace signalbox::engine {

enum class LoadPolicy : uint8_t {
  automatic,  // copy where it pays and memory allows
  copy,
  map,
  none,  // nothing is read or copied, only told: for those who look at a model and do not run it
};

struct ResidentOptions {
  LoadPolicy policy = LoadPolicy::automatic;
  int threads = 1;
  std::vector<std::span<const std::byte>> mapped;  // the files; what lies elsewhere is the process's memory already
  // automatic: models of fewer bytes stay where they are. They are read from caches, and a copy takes longer than it
  // saves.
  int64_t least_bytes = int64_t{128} << 20;
  int64_t available = 0;  // bytes of memory that may be taken; 0: available_memory()
  std::function<void(int64_t done, int64_t total)> on_progress;  // by one thread at a time
};

// What was done.
struct WeightMemory {
  enum class Kind : uint8_t {
    small,   // left where they are
    copied,  // into huge_bytes of 2 MiB pages, and others
    mapped,
  } kind = Kind::small;
  int64_t bytes = 0, huge_bytes = 0, available = 0;
  double seconds = 0;
  std::string warning;  // of weights that were mapped because memory is short: why, and how fast a token can be
};
const char* name_of(WeightMemory::Kind kind);

// A copy needs this much of available memory: the weights, and a tenth more to work in.
int64_t bytes_to_copy(int64_t weight_bytes);

// Copies `weights`, whose owners then go: mapped files are closed, and their pages given back while the copy proceeds,
// so that no more memory is taken than the weights'. All views keep their dtype and values; rows become contiguous.
// Or, where they stay mapped, begins to read in what every token needs. Throws Error, naming --load, when a copy was
// asked for and memory is short.
WeightMemory make_resident(const Model& model, Weights& weights, const ResidentOptions& options);

}  // namespace signalbox::engine
