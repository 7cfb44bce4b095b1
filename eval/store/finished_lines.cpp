#include "eval/store/finished_lines.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "eval/store/journal.h"

namespace signalbox::eval {

FinishedLines::FinishedLines(const std::filesystem::path& dir, Layout layout) : layout_(std::move(layout)) {
  layout_.index();
  index_.resize(static_cast<size_t>(layout_.n_lines()));
  lines_.path = dir / samples_file;
  journal_.path = dir / journal_file;
  try {
    // The journal first: it goes when all of its lines stand in the other file, and is read on when it has gone.
    open(journal_);
    open(lines_);
    scan(journal_, [&](uint64_t offset, std::string_view text, const std::string& where) {
      const JournalLine found = split_journal_line(text, where);
      if (found.line >= n_lines())
        throw Error(where,
                    "expected a line below " + std::to_string(n_lines()) + ", found " + std::to_string(found.line));
      Entry& entry = index_[static_cast<size_t>(found.line)];
      n_known_ += entry.bytes == 0;
      entry = {offset + found.begin, static_cast<uint32_t>(found.bytes), true};
    });
    int64_t next = 0;
    scan(lines_, [&](uint64_t offset, std::string_view text, const std::string& where) {
      if (next == n_lines())
        throw Error(where, "expected the end after " + std::to_string(n_lines()) + " lines, found another line");
      Entry& entry = index_[static_cast<size_t>(next++)];
      n_known_ += entry.bytes == 0;
      entry = {offset, static_cast<uint32_t>(text.size()), false};
    });
  } catch (...) {
    for (const File* file : {&lines_, &journal_})
      if (file->descriptor >= 0) ::close(file->descriptor);
    throw;
  }
}

FinishedLines::~FinishedLines() {
  for (const File* file : {&lines_, &journal_})
    if (file->descriptor >= 0) ::close(file->descriptor);
}

void FinishedLines::open(File& file) {
  file.descriptor = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.descriptor < 0 && errno != ENOENT)
    throw Error(file.path.string(), std::string("cannot open the file: ") + std::strerror(errno));
}

// Calls take(offset, text, where) for the whole lines of what the file now holds.
template <class Take>
void FinishedLines::scan(const File& file, Take take) {
  if (file.descriptor < 0) return;
  struct stat now = {};
  if (::fstat(file.descriptor, &now) != 0)
    throw Error(file.path.string(), std::string("cannot read: ") + std::strerror(errno));
  const uint64_t size = static_cast<uint64_t>(now.st_size);
  constexpr uint64_t piece = uint64_t{1} << 20;
  std::string text;      // from `start` on
  uint64_t start = 0;    // of the line that is read, in the file
  size_t looked_at = 0;  // bytes of `text` without a newline
  int64_t number = 0;
  for (uint64_t read = 0; read < size;) {
    const size_t bytes = static_cast<size_t>(std::min(piece, size - read)), had = text.size();
    text.resize(had + bytes);
    read_at(file.descriptor, read, text.data() + had, bytes, file.path.string());
    read += bytes;
    size_t begin = 0;
    for (size_t end; (end = text.find('\n', std::max(begin, looked_at))) != std::string::npos; begin = end + 1) {
      const std::string_view line = std::string_view(text).substr(begin, end - begin);
      // Zeros are what a file system can leave at the end after a power failure.
      if (line.empty() || line.find('\0') != std::string_view::npos) return;
      take(start + begin, line, file.path.string() + ":" + std::to_string(++number));
    }
    text.erase(0, begin);
    start += begin;
    looked_at = text.size();
  }
}

bool FinishedLines::has_record(int64_t seed, int64_t intervention, int64_t record) const {
  if (!layout_.has(seed, intervention)) return false;
  for (int64_t k = 0; k < layout_.samples.at(static_cast<size_t>(record)); ++k)
    if (!has(layout_.line({seed, intervention, record, k}))) return false;
  return true;
}

std::string FinishedLines::text(int64_t line) const {
  const Entry& entry = index_.at(static_cast<size_t>(line));
  if (entry.bytes == 0) throw Error(where(line), "expected a sample that is finished, found none");
  const File& file = entry.in_journal ? journal_ : lines_;
  std::string text(entry.bytes, '\0');
  read_at(file.descriptor, entry.offset, text.data(), text.size(), file.path.string());
  return text;
}

std::string FinishedLines::where(int64_t line) const {
  const File& file = index_.at(static_cast<size_t>(line)).in_journal ? journal_ : lines_;
  return file.path.string() + ", line " + std::to_string(line + 1) + " of the run";
}

}  // namespace signalbox::eval
