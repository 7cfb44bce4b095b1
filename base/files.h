// Writing files so that a crash leaves the old file or the new one, never a piece.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace signalbox {

// Replaces `file`: a temporary name in the same directory, fsync, rename, fsync of the directory. Throws Error naming
// the file and the system's reason; the old file is then untouched.
void write_file_atomically(const std::filesystem::path& file, std::string_view text);

// Makes a directory's entries durable. Throws Error.
void sync_directory(const std::filesystem::path& dir);

// Writes all bytes to a descriptor, with one write(2) unless the system takes less. Throws Error with `where`.
void write_all(int descriptor, std::string_view bytes, const std::string& where);

// Reads exactly `bytes` bytes at an offset. Throws Error with `where`.
std::string read_at(int descriptor, uint64_t offset, size_t bytes, const std::string& where);

// Compares two files byte by byte. Throws Error when one cannot be read.
bool same_bytes(const std::filesystem::path& a, const std::filesystem::path& b);

// Copies a regular file and flushes the copy to disk. Throws Error naming the file that failed.
void copy_file_durably(const std::filesystem::path& from, const std::filesystem::path& to);

// Removes what killed writers left anywhere below `dir`: files named NAME.tmp-DIGITS or .trace-spool-DIGITS. Nobody
// else may be writing there. Throws Error.
void remove_temporaries(const std::filesystem::path& dir);

// The lines of a file, one after the other, with memory for one line and a buffer.
class LineReader {
 public:
  // Throws Error when the file cannot be opened.
  explicit LineReader(const std::filesystem::path& file);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its newline, valid until the next call; false at the end. Throws Error when the file cannot
  // be read.
  bool next(std::string_view& line);
  // Of the line that next() gave:
  uint64_t offset() const { return offset_; }
  bool terminated() const { return terminated_; }
  int64_t number() const { return number_; }  // from 1
  std::string where() const;                  // "FILE:NUMBER"
  bool at_end();                              // nothing follows

 private:
  bool fill();
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::string buffer_;
  size_t begin_ = 0;  // of the next line in the buffer
  uint64_t next_offset_ = 0, offset_ = 0;
  int64_t number_ = 0;
  bool terminated_ = false, ended_ = false;
};

}  // namespace signalbox
