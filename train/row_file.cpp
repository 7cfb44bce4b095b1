#include "train/row_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace signalbox::train {

namespace {

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) {
  throw Error(file.string(), "cannot " + what + ": " + std::strerror(errno));
}

}  // namespace

RowFile::RowFile(std::filesystem::path file, const std::vector<std::string_view>& header, int64_t n_rows)
    : file_(std::move(file)), row_(header) {
  const std::string first = row_.take_text();
  std::string kept;
  if (n_rows > 0) {
    std::ifstream in(file_, std::ios::binary);
    kept.assign(std::istreambuf_iterator<char>(in), {});
    if (!kept.starts_with(first)) throw Error(file_.string(), "expected the header of this file, found another");
    size_t end = first.size();
    for (int64_t i = 0; i < n_rows; ++i) {
      const size_t next = kept.find('\n', end);
      if (next == std::string::npos)
        throw Error(file_.string(), "expected the " + std::to_string(n_rows) +
                                        " rows that were written before the state, found " + std::to_string(i));
      end = next + 1;
    }
    kept.resize(end);
  }
  descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(file_, "open the file");
  if (::ftruncate(descriptor_, static_cast<off_t>(kept.size())) != 0) fail(file_, "cut the file");
  if (kept.empty()) write(first);
}

RowFile::~RowFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RowFile::write(std::string_view text) {
  if (::write(descriptor_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail(file_, "write a row");
}

void RowFile::end() {
  row_.end_row();
  write(row_.take_text());
}

void RowFile::sync() {
  if (::fsync(descriptor_) != 0) fail(file_, "flush the file");
}

}  // namespace signalbox::train
