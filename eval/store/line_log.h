// The lines of a file: written as they finish, in whatever order, and found again after a crash.
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

// Line i of the file is known to be about something: what that is called, and whether a parsed line is the one.
struct LineRules {
  int64_t n_lines = 0;
  std::function<std::string(int64_t line)> name;                         // "seed 0, id "a"", for messages
  std::function<void(int64_t line, const json::Ref& value)> check_line;  // throws Error where it is another one
};

// The line within a journal line "[N,{...}]", as it was put: byte by byte, since it goes to the file as it is.
struct JournalLine {
  int64_t line = -1;
  size_t begin = 0, bytes = 0;
};
JournalLine split_journal_line(std::string_view text, const std::string& where);  // throws Error

// The file is append-only and always a prefix of the finished one; a line that is not next yet waits in the journal as
// [line number, {the line}]. Every line is one write(2), so that a process killed at any instant loses no line that was
// put. Both files are fsynced every few seconds, by sync() and by finish(). Memory: 16 bytes per line, no text. Not
// thread-safe; one LineLog per file (WorkDirectory holds the lock).
class LineLog {
 public:
  // Takes up what stands in the two files: a torn last line (without its newline, or no JSON, or zeros) of either is
  // cut off; lines that are not those of the rules, or that contradict each other, are Errors naming file and line.
  LineLog(std::filesystem::path file, std::filesystem::path journal, LineRules rules);
  ~LineLog();
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;

  int64_t n_lines() const { return static_cast<int64_t>(index_.size()); }
  int64_t n_known() const { return n_known_; }       // lines put by this process or by earlier ones
  int64_t n_written() const { return n_written_; }   // of those in the file itself: lines 0 ... n_written() - 1
  uint64_t cut_bytes() const { return cut_bytes_; }  // of torn lines, when this process opened the files
  bool whole() const { return n_known_ == n_lines(); }
  bool has(int64_t line) const { return index_.at(static_cast<size_t>(line)).bytes > 0; }

  // A known line without its newline, read back from disk.
  std::string line(int64_t line) const;

  // Adds a line that is not known yet: `text` is one JSON object without a newline, which passes check_line. Throws
  // Error naming the file when it cannot be written whole: the file then ends with its last whole line, all earlier
  // lines are kept, and a later process continues.
  void put(int64_t line, std::string_view text);

  // Flushes to disk all that was put.
  void sync();
  // All lines are known: flushes the file and removes the journal. Calling it again does nothing.
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
  void recover_lines();
  void recover_journal();
  void append(File& file, std::string_view line);
  void drain();
  std::string stored(const Entry& entry) const;

  LineRules rules_;
  File lines_, journal_;  // the journal's descriptor is -1 while there is none
  std::vector<Entry> index_;
  int64_t n_known_ = 0, n_written_ = 0;
  uint64_t cut_bytes_ = 0;
  std::chrono::steady_clock::time_point synced_;
};

}  // namespace signalbox::eval
