// The samples that a run has finished, whether it is finished itself or not: read beside the process that writes them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/store/layout.h"

namespace signalbox::eval {

// Takes no lock and changes nothing: lines of samples.jsonl and of the journal as they stand when it is made; what is
// written later is not seen. A last line that is not whole is left out. Memory: 16 bytes per line, no text.
class FinishedLines {
 public:
  // Throws Error naming file and line for what is no line of this layout's journal, and more lines than it has.
  FinishedLines(const std::filesystem::path& dir, Layout layout);
  ~FinishedLines();
  FinishedLines(const FinishedLines&) = delete;
  FinishedLines& operator=(const FinishedLines&) = delete;

  const Layout& layout() const { return layout_; }
  int64_t n_lines() const { return static_cast<int64_t>(index_.size()); }
  int64_t n_known() const { return n_known_; }
  bool has(int64_t line) const { return index_.at(static_cast<size_t>(line)).bytes > 0; }
  // Whether all samples of a record under one intervention and seed (indices) are finished.
  bool has_record(int64_t seed, int64_t intervention, int64_t record) const;
  std::string text(int64_t line) const;   // of a known line, without its newline
  std::string where(int64_t line) const;  // "FILE, line 12 of the run", for messages

 private:
  struct Entry {
    uint64_t offset = 0;
    uint32_t bytes = 0;  // 0: not known
    bool in_journal = false;
  };
  struct File {
    std::filesystem::path path;
    int descriptor = -1;  // -1: there is none
  };
  void open(File& file);
  template <class Take>
  void scan(const File& file, Take take);

  Layout layout_;
  File lines_, journal_;
  std::vector<Entry> index_;
  int64_t n_known_ = 0;
};

}  // namespace signalbox::eval
