#include "eval/store/line_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"

namespace signalbox::eval {

namespace {

constexpr std::chrono::seconds sync_interval{5};

// A line that holds one JSON value, or none: a torn one.
std::optional<json::Value> parsed(std::string_view text, const std::string& where) {
  try {
    return json::parse(text, where);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

JournalLine split_journal_line(std::string_view text, const std::string& where) {
  JournalLine found;
  const size_t comma = text.find(',');
  if (text.starts_with('[') && text.ends_with("}]") && comma != std::string_view::npos) {
    const auto [end, failed] = std::from_chars(text.data() + 1, text.data() + comma, found.line);
    if (failed == std::errc() && end == text.data() + comma && found.line >= 0) {
      found.begin = comma + 1;
      found.bytes = text.size() - 1 - found.begin;
      return found;
    }
  }
  throw Error(where,
              "expected a line [number,{...}] of the journal, found \"" + std::string(text.substr(0, 40)) + "\"");
}

LineLog::LineLog(std::filesystem::path file, std::filesystem::path journal, LineRules rules)
    : rules_(std::move(rules)), index_(static_cast<size_t>(rules_.n_lines)) {
  lines_.path = std::move(file);
  journal_.path = std::move(journal);
  synced_ = std::chrono::steady_clock::now();
  try {
    open(lines_, true);
    recover_lines();
    open(journal_, false);
    if (journal_.descriptor >= 0) recover_journal();
    drain();
  } catch (...) {
    for (const File* one : {&lines_, &journal_})
      if (one->descriptor >= 0) ::close(one->descriptor);
    throw;
  }
}

LineLog::~LineLog() {
  for (const File* file : {&lines_, &journal_})
    if (file->descriptor >= 0) ::close(file->descriptor);
}

void LineLog::open(File& file, bool create) {
  const bool there = ::access(file.path.c_str(), F_OK) == 0;
  if (!there && !create) return;
  file.descriptor = ::open(file.path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (file.descriptor < 0)
    throw Error(file.path.string(), std::string("cannot open the file: ") + std::strerror(errno));
  if (!there) sync_directory(file.path.parent_path());
}

template <class Take>
void LineLog::recover(File& file, Take take) {
  LineReader reader(file.path);
  std::string_view text;
  bool torn = false;
  while (!torn && reader.next(text)) {
    const uint64_t offset = reader.offset();
    std::optional<json::Value> value;
    if (reader.terminated()) value = parsed(text, reader.where());
    if (value) {
      take(offset, text, *value, reader.where());
      file.end = offset + text.size() + 1;
    } else {
      const std::string where = reader.where(), start(text.substr(0, 40));
      torn = reader.at_end();
      if (!torn) throw Error(where, "expected a line of JSON, found \"" + start + "\"");
    }
  }
  struct stat now = {};
  if (::fstat(file.descriptor, &now) != 0)
    throw Error(file.path.string(), std::string("cannot read: ") + std::strerror(errno));
  if (static_cast<uint64_t>(now.st_size) == file.end) return;
  cut_bytes_ += static_cast<uint64_t>(now.st_size) - file.end;
  if (::ftruncate(file.descriptor, static_cast<off_t>(file.end)) != 0)
    throw Error(file.path.string(), std::string("cannot cut off a torn line: ") + std::strerror(errno));
  file.dirty = true;
}

void LineLog::recover_lines() {
  recover(lines_, [&](uint64_t offset, std::string_view text, const json::Value& value, const std::string& where) {
    if (n_written_ == n_lines())
      throw Error(where, "expected the end after " + std::to_string(n_lines()) + " lines, found another line");
    rules_.check_line(n_written_, json::Ref(value, where));
    if (text.size() > UINT32_MAX) throw Error(where, "expected a line of less than 4 GiB, found a longer one");
    index_[static_cast<size_t>(n_written_++)] = {offset, static_cast<uint32_t>(text.size()), false};
    ++n_known_;
  });
}

void LineLog::recover_journal() {
  recover(journal_, [&](uint64_t offset, std::string_view text, const json::Value& value, const std::string& where) {
    const JournalLine found = split_journal_line(text, where);
    if (found.line >= n_lines())
      throw Error(where,
                  "expected a line below " + std::to_string(n_lines()) + ", found " + std::to_string(found.line));
    rules_.check_line(found.line, json::Ref(value, where)[1]);
    if (found.bytes > UINT32_MAX) throw Error(where, "expected a line of less than 4 GiB, found a longer one");
    Entry& entry = index_[static_cast<size_t>(found.line)];
    if (entry.bytes > 0) {
      if (stored(entry) != text.substr(found.begin, found.bytes))
        throw Error(where, "expected line " + std::to_string(found.line + 1) + " of " +
                               (entry.in_journal ? std::string("the run") : lines_.path.string()) +
                               " as it was, found another text");
      return;
    }
    entry = {offset + found.begin, static_cast<uint32_t>(found.bytes), true};
    ++n_known_;
  });
}

std::string LineLog::stored(const Entry& entry) const {
  const File& file = entry.in_journal ? journal_ : lines_;
  std::string text(entry.bytes, '\0');
  read_at(file.descriptor, entry.offset, text.data(), text.size(), file.path.string());
  return text;
}

std::string LineLog::line(int64_t line) const {
  if (!has(line)) throw Error(lines_.path.string(), "expected a line that is known, found " + std::to_string(line + 1));
  return stored(index_[static_cast<size_t>(line)]);
}

void LineLog::append(File& file, std::string_view line) {
  std::string text(line);
  text += '\n';
  try {
    write_all(file.descriptor, text, file.path.string());
  } catch (const Error&) {
    // Only whole lines stay. Should this fail too, the next process cuts the torn line off.
    (void)!::ftruncate(file.descriptor, static_cast<off_t>(file.end));
    throw;
  }
  file.end += text.size();
  file.dirty = true;
}

void LineLog::put(int64_t line, std::string_view text) {
  const std::string where = lines_.path.string() + ", line " + std::to_string(line + 1);
  if (line < 0 || line >= n_lines())
    throw Error(where, "expected one of " + std::to_string(n_lines()) + " lines, found another");
  if (has(line)) throw Error(where, "expected a line that is not there yet, found " + rules_.name(line) + " again");
  if (text.size() > UINT32_MAX || text.find('\n') != std::string_view::npos)
    throw Error(where, "expected one line of less than 4 GiB, found more");
  const json::Value value = json::parse(text, where);
  rules_.check_line(line, json::Ref(value, where));
  const uint32_t bytes = static_cast<uint32_t>(text.size());
  if (line == n_written_) {
    const uint64_t offset = lines_.end;
    append(lines_, text);
    index_[static_cast<size_t>(line)] = {offset, bytes, false};
    ++n_written_;
    ++n_known_;
    drain();
  } else {
    if (journal_.descriptor < 0) open(journal_, true);
    const std::string start = "[" + std::to_string(line) + ",";
    const uint64_t offset = journal_.end + start.size();
    append(journal_, start + std::string(text) + "]");
    index_[static_cast<size_t>(line)] = {offset, bytes, true};
    ++n_known_;
  }
  if (std::chrono::steady_clock::now() - synced_ >= sync_interval) sync();
}

// Lines that waited in the journal and are next go to samples.jsonl.
void LineLog::drain() {
  while (n_written_ < n_lines()) {
    Entry& entry = index_[static_cast<size_t>(n_written_)];
    if (entry.bytes == 0) return;
    const uint64_t offset = lines_.end;
    append(lines_, stored(entry));
    entry.offset = offset;
    entry.in_journal = false;
    ++n_written_;
  }
}

void LineLog::sync() {
  synced_ = std::chrono::steady_clock::now();
  for (File* file : {&journal_, &lines_}) {
    if (!file->dirty || file->descriptor < 0) continue;
    if (::fsync(file->descriptor) != 0)
      throw Error(file->path.string(), std::string("cannot write: ") + std::strerror(errno));
    file->dirty = false;
  }
}

void LineLog::finish() {
  if (!whole())
    throw Error(lines_.path.string(),
                "expected all of " + std::to_string(n_lines()) + " lines, found " + std::to_string(n_known_));
  drain();
  sync();
  if (journal_.descriptor < 0) return;
  ::close(std::exchange(journal_.descriptor, -1));
  if (::unlink(journal_.path.c_str()) != 0)
    throw Error(journal_.path.string(), std::string("cannot remove the file: ") + std::strerror(errno));
  sync_directory(journal_.path.parent_path());
}

}  // namespace signalbox::eval
