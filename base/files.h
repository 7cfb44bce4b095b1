// Files: whole ones that a crash leaves old or new but never in pieces, descriptors, lines.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace signalbox {

// A file that takes its place only when it is whole. The bytes go to FILE.tmp-PID in the same directory; commit()
// flushes them to disk, renames the file and flushes the directory. An AtomicFile that was not committed removes its
// temporary file. All functions throw Error with the file that failed and the system's reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path file);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Appends, through a buffer of 1 MiB.
  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // Puts bytes at an offset, past the buffer: not to be mixed with write().
  void write_at(uint64_t offset, const void* data, size_t bytes);
  // Flushes everything to disk and closes the file, under its temporary name still: so that several files can be
  // written before the first of them is renamed. Nothing may be written after it.
  void sync();
  void commit();  // sync() where it was not called yet, then the rename

 private:
  void flush();
  std::filesystem::path file_, temporary_;
  std::string buffer_;
  int descriptor_ = -1;
  bool committed_ = false;
};

// An AtomicFile of one text.
void write_file_atomically(const std::filesystem::path& file, std::string_view text);

// Whether a writer that was killed can have left a file of this name: NAME.tmp-DIGITS of an AtomicFile, or
// .trace-spool-DIGITS of open_unnamed().
bool is_temporary_name(std::string_view name);

// Removes files of such names anywhere below `dir`. Nobody else may be writing there. Throws Error.
void remove_temporaries(const std::filesystem::path& dir);

// Makes a directory's entries durable. Throws Error.
void sync_directory(const std::filesystem::path& dir);

// A new file in `dir` that has no name: it vanishes with the process, however that ends. Returns its descriptor; throws
// Error with `where` and the system's reason.
int open_unnamed(const std::filesystem::path& dir, const std::string& where);

// Writes all bytes to a descriptor, with one write(2) unless the system takes less. Throws Error with `where`.
void write_all(int descriptor, std::string_view bytes, const std::string& where);

// Reads or writes exactly `bytes` bytes at an offset. Both throw Error with `where`.
void read_at(int descriptor, uint64_t offset, void* data, size_t bytes, const std::string& where);
void write_at(int descriptor, uint64_t offset, const void* data, size_t bytes, const std::string& where);

// Compares two files byte by byte. Throws Error when one cannot be read.
bool same_bytes(const std::filesystem::path& a, const std::filesystem::path& b);

// Copies a regular file as an AtomicFile. Throws Error naming the file that failed.
void copy_file_durably(const std::filesystem::path& from, const std::filesystem::path& to);

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
