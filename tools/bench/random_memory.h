// Random bytes in any amount for benchmarks: never zeros, which some devices compute faster.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::tools {

// Host memory whose contents repeat one small random piece.
class RandomMemory {
 public:
  enum class Kind : uint8_t {
    weights,     // bf16, standard deviation 0.02
    embeddings,  // bf16, standard deviation 1: tokens differ, so that routes do
    unit,        // f32 in (-1, 1)
    biases,      // f32, standard deviation 0.02
    nibbles,     // bytes: pairs of mxfp4 values
    exponents,   // bytes: mxfp4 scales that give values the deviation of `weights`
  };

  // aliased: every view is a window on the piece, mapped again and again, and takes no memory of its own: for devices
  // that copy what they are given. Else each view has its own memory, as the weights of a model have: large ones in
  // pages of 2 MiB, as make_resident puts them (engine/resident_weights.h), unless small_pages.
  RandomMemory(bool aliased, size_t piece_bytes, bool small_pages = false);
  ~RandomMemory();

  // 64-byte aligned, read only. Each call begins elsewhere in the piece. Throws Error when there is no memory.
  std::shared_ptr<const void> view(Kind kind, size_t bytes);
  // The piece itself.
  const std::vector<unsigned char>& piece(Kind kind);

 private:
  struct Mapping;
  const bool aliased_, small_pages_;
  const size_t piece_bytes_;
  size_t next_ = 0;  // where the next view begins
  std::map<Kind, std::vector<unsigned char>> pieces_;
  std::map<Kind, std::shared_ptr<Mapping>> mappings_;
};

}  // namespace signalbox::tools
