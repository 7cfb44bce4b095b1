#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace signalbox {

MappedFile::MappedFile(const std::filesystem::path& path, size_t least) : name_(path.string()) {
  // O_NONBLOCK: a FIFO in the place of a file is refused below instead of waiting for a writer.
  do {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (descriptor_ < 0 && errno == EINTR);
  const auto fail = [&](const std::string& reason) {
    if (descriptor_ >= 0) close(descriptor_);
    throw Error(name_, reason);
  };
  if (descriptor_ < 0) fail(std::string("cannot open the file: ") + std::strerror(errno));
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) fail(std::string("cannot read the size: ") + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("expected a regular file, found something else");
  const auto size = static_cast<size_t>(status.st_size);
  least = std::max<size_t>(least, 1);
  if (size < least) fail("expected at least " + std::to_string(least) + " bytes, found " + std::to_string(size));
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (mapped == MAP_FAILED) fail(std::string("cannot map the file: ") + std::strerror(errno));
  bytes_ = {static_cast<const std::byte*>(mapped), size};
}

MappedFile::~MappedFile() {
  munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  close(descriptor_);
}

void MappedFile::check_unchanged() const {
  struct stat status {};
  if (fstat(descriptor_, &status) != 0 || static_cast<size_t>(status.st_size) < bytes_.size())
    throw Error(name_, "expected " + std::to_string(bytes_.size()) + " bytes as when it was opened, found " +
                           std::to_string(status.st_size));
}

}  // namespace signalbox
