// One part of a run that several processes share.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

// Has the records whose index in the data (after the split: in what is evaluated) is `index` mod `count`.
struct Shard {
  int64_t index = 0, count = 1;
  bool whole() const { return count == 1; }
  bool has(int64_t record) const { return record % count == index; }
  // Records of n that it has.
  int64_t records_of(int64_t n) const { return n > index ? (n - index - 1) / count + 1 : 0; }
  std::string text() const;  // "I/N"
  bool operator==(const Shard&) const = default;
};

// "I/N", 0 <= I < N. Throws UsageError that starts with `where`.
Shard parse_shard(const std::string& text, const std::string& where = "--shard");

// Reads an environment variable; null: std::getenv.
using Environment = std::function<const char*(const char*)>;

// The shard that Slurm's array variables mean: I = (SLURM_ARRAY_TASK_ID - _MIN) / _STEP, N = _COUNT. Nothing outside of
// an array of more than one task. Throws UsageError when they are malformed, or when the array's ids are not evenly
// spaced, so that they name no shards.
std::optional<Shard> slurm_shard(const Environment& environment = nullptr);

// What a command uses: `given` (--shard; empty = not given), else Slurm's, else the whole. `told` gets a line for
// standard error when Slurm decided, and is else left empty.
Shard choose_shard(const std::string& given, std::string& told, const Environment& environment = nullptr);

}  // namespace signalbox::eval
