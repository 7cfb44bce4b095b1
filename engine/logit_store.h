// Rows of logits that later jobs are compared with, and the comparison.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// Rows of one length, in memory up to a limit and then in a file without a name in the system's temporary directory.
// Room of released rows is used again.
class LogitStore {
 public:
  LogitStore(int64_t n_vocab, size_t max_bytes);
  ~LogitStore();
  LogitStore(const LogitStore&) = delete;
  LogitStore& operator=(const LogitStore&) = delete;

  // Keeps a copy of row [n_vocab]; returns its number. Throws Error where the file cannot be written.
  int64_t add(const float* row);
  void read(int64_t number, float* row) const;
  void release(int64_t number);
  size_t bytes_in_memory() const { return (rows_.size() - free_rows_.size()) * row_bytes_; }

 private:
  size_t row_bytes_;
  int64_t max_rows_;  // numbers below are in memory, the others in the file
  std::vector<std::unique_ptr<float[]>> rows_;
  std::vector<int64_t> free_rows_, free_places_;
  int64_t n_places_ = 0;  // of the file
  int descriptor_ = -1;
};

// Compares rows of the logits of a step with kept ones.
class LogitComparer {
 public:
  LogitComparer(Backend& backend, const LogitStore& store, int64_t n_vocab)
      : backend_(backend), store_(store), n_vocab_(n_vocab) {}

  // Rows `first` .. of the step's logits, one for each number of a kept row. Found is added to the end of both lists.
  struct Piece {
    int64_t first = 0;
    std::span<const int64_t> kept;
    std::vector<double>* divergence = nullptr;
    std::vector<uint8_t>* same_top = nullptr;
  };
  // Pieces ascending; logits f32 [rows, n_vocab] on the device.
  void compare(Tensor logits, std::span<const Piece> pieces);

 private:
  Backend& backend_;
  const LogitStore& store_;
  int64_t n_vocab_, capacity_ = 0;  // rows
  std::shared_ptr<void> staged_, reference_, divergence_, same_top_;
};

}  // namespace signalbox::engine
