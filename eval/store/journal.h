// The lines of samples.jsonl: written as samples finish, in whatever order, and found again after a crash.
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/store/layout.h"

namespace signalbox {

inline constexpr const char* samples_file = "samples.jsonl";
inline constexpr const char* journal_file = "journal.jsonl";

// samples.jsonl is append-only and always a prefix of the finished file; a line that is not next yet waits in
// journal.jsonl as [line number, {the line}]. Every line is one write(2), so that a process killed at any instant loses
// no sample that was put. Both files are fsynced every few seconds, by sync() and by finish(). Memory: 16 bytes a line
// of the run, no text. Not thread-safe; one SampleLog a directory (RunDirectory holds the lock).
class SampleLog {
 public:
  // Takes up what the directory holds: a torn last line (without its newline, or no JSON, or zeros) of either file is
  // cut off; lines that are not those of `layout`, or that contradict each other, are Errors naming file and line.
  SampleLog(std::filesystem::path dir, Layout layout);
  ~SampleLog();
  SampleLog(const SampleLog&) = delete;
  SampleLog& operator=(const SampleLog&) = delete;

  const Layout& layout() const { return layout_; }
  int64_t n_lines() const { return static_cast<int64_t>(index_.size()); }
  int64_t n_known() const { return n_known_; }       // lines put by this process or by earlier ones
  int64_t n_written() const { return n_written_; }   // of those in samples.jsonl: lines 0 ... n_written() - 1
  uint64_t cut_bytes() const { return cut_bytes_; }  // of torn lines, when this process opened the files
  bool whole() const { return n_known_ == n_lines(); }
  bool has(int64_t line) const { return index_.at(static_cast<size_t>(line)).bytes > 0; }
  bool has(const Place& place) const { return has(layout_.line(place)); }

  // A known line without its newline, read back from disk.
  std::string line(int64_t line) const;

  // Adds a line that is not known yet: `text` is one JSON object without a newline, with the keys of its place
  // (Layout::check_line). Throws Error naming the file when it cannot be written whole: the file then ends with its
  // last whole line, all earlier lines are kept, and a later process continues.
  void put(int64_t line, std::string_view text);
  void put(const Place& place, std::string_view text) { put(layout_.line(place), text); }

  // Flushes to disk all that was put.
  void sync();
  // All lines are known: flushes samples.jsonl and removes the journal. Calling it again does nothing.
  void finish();

 private:
  struct Entry {
    uint64_t offset = 0;
    uint32_t bytes = 0;  // without the newline; 0: not known
    bool in_journal = false;
  };
  struct File {
    std::filesystem::path path;
    int descriptor = -1;
    uint64_t end = 0;
    bool dirty = false;
  };
  void open(File& file, bool create);
  // Calls take(offset, text, parsed text, where) for every whole line, and cuts off a torn one.
  template <class Take>
  void recover(File& file, Take take);
  void recover_samples();
  void recover_journal();
  void append(File& file, std::string_view line);
  void drain();
  std::string stored(const Entry& entry) const;

  Layout layout_;
  std::filesystem::path dir_;
  File samples_, journal_;  // the journal's descriptor is -1 while there is none
  std::vector<Entry> index_;
  int64_t n_known_ = 0, n_written_ = 0;
  uint64_t cut_bytes_ = 0;
  std::chrono::steady_clock::time_point synced_;
};

}  // namespace signalbox
