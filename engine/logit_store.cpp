#include "engine/logit_store.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/files.h"

namespace signalbox::engine {

namespace {

const char* const file_name = "(temporary file of logits)";

}  // namespace

LogitStore::LogitStore(int64_t n_vocab, size_t max_bytes)
    : row_bytes_(static_cast<size_t>(n_vocab) * sizeof(float)),
      max_rows_(static_cast<int64_t>(max_bytes / row_bytes_)) {}

LogitStore::~LogitStore() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

int64_t LogitStore::add(const float* row) {
  if (!free_rows_.empty() || static_cast<int64_t>(rows_.size()) < max_rows_) {
    if (free_rows_.empty()) {
      free_rows_.push_back(static_cast<int64_t>(rows_.size()));
      rows_.emplace_back();
    }
    auto& kept = rows_[static_cast<size_t>(free_rows_.back())];
    kept = std::make_unique_for_overwrite<float[]>(row_bytes_ / sizeof(float));
    std::memcpy(kept.get(), row, row_bytes_);
    const int64_t number = free_rows_.back();
    free_rows_.pop_back();
    return number;
  }
  if (descriptor_ < 0) descriptor_ = open_unnamed(std::filesystem::temp_directory_path(), file_name);
  if (free_places_.empty()) free_places_.push_back(n_places_++);
  const int64_t place = free_places_.back();
  write_at(descriptor_, static_cast<uint64_t>(place) * row_bytes_, row, row_bytes_, file_name);
  free_places_.pop_back();
  return max_rows_ + place;
}

void LogitStore::read(int64_t number, float* row) const {
  if (number < max_rows_)
    std::memcpy(row, rows_[static_cast<size_t>(number)].get(), row_bytes_);
  else
    read_at(descriptor_, static_cast<uint64_t>(number - max_rows_) * row_bytes_, row, row_bytes_, file_name);
}

void LogitStore::release(int64_t number) {
  if (number < max_rows_) {
    rows_[static_cast<size_t>(number)].reset();
    free_rows_.push_back(number);
  } else {
    free_places_.push_back(number - max_rows_);
  }
}

void LogitComparer::compare(Tensor logits, std::span<const Piece> pieces) {
  int64_t n = 0;
  for (const Piece& piece : pieces) n += static_cast<int64_t>(piece.kept.size());
  if (n == 0) return;
  if (n > capacity_) {
    capacity_ = std::max(n, 2 * capacity_);
    const size_t bytes = static_cast<size_t>(capacity_ * n_vocab_) * sizeof(float);
    staged_ = backend_.allocate_host(bytes);
    reference_ = backend_.shares_host_memory() ? staged_ : backend_.allocate(bytes);
    divergence_ = backend_.allocate(static_cast<size_t>(capacity_) * sizeof(double));
    same_top_ = backend_.allocate(static_cast<size_t>(capacity_) * sizeof(int32_t));
  }
  float* staged = static_cast<float*>(staged_.get());
  for (const Piece& piece : pieces)
    for (const int64_t number : piece.kept) store_.read(number, std::exchange(staged, staged + n_vocab_));
  if (reference_ != staged_)
    backend_.upload(reference_.get(), staged_.get(), static_cast<size_t>(n * n_vocab_) * sizeof(float));

  // Neighbouring pieces at once.
  int64_t done = 0;
  for (size_t i = 0; i < pieces.size();) {
    const int64_t first = pieces[i].first;
    int64_t end = first;
    for (; i < pieces.size() && pieces[i].first == end; ++i) end += static_cast<int64_t>(pieces[i].kept.size());
    const Tensor reference(static_cast<float*>(reference_.get()) + done * n_vocab_, end - first, n_vocab_);
    backend_.compare_logits(static_cast<double*>(divergence_.get()) + done,
                            static_cast<int32_t*>(same_top_.get()) + done, logits.rows_from(first, end - first),
                            reference);
    done += end - first;
  }
  std::vector<double> divergence(static_cast<size_t>(n));
  std::vector<int32_t> same_top(static_cast<size_t>(n));
  backend_.download(divergence.data(), divergence_.get(), divergence.size() * sizeof(double));
  backend_.download(same_top.data(), same_top_.get(), same_top.size() * sizeof(int32_t));
  size_t at = 0;
  for (const Piece& piece : pieces)
    for (size_t k = 0; k < piece.kept.size(); ++k, ++at) {
      piece.divergence->push_back(divergence[at]);
      piece.same_top->push_back(same_top[at] != 0);
    }
}

}  // namespace signalbox::engine
