#include "eval/store/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace signalbox::eval {

namespace {

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 && name[0] ? name : "this host";
}

// Who holds the lock, as its file says: "process 12 on node3".
// Empty when it says nothing.
std::string holder(int descriptor) {
  char text[512];
  const ssize_t n = ::pread(descriptor, text, sizeof text, 0);
  std::string found(text, n > 0 ? static_cast<size_t>(n) : 0);
  return found.substr(0, found.find('\n'));
}

}  // namespace

DirectoryLock::DirectoryLock(const std::filesystem::path& dir) : file_(dir / file_name) {
  const auto fail = [&](const char* what) {
    const int reason = errno;
    if (descriptor_ >= 0) ::close(descriptor_);
    throw Error(file_.string(), std::string(what) + ": " + std::strerror(reason));
  };
  while (true) {
    descriptor_ = ::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail("cannot open the file");
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) fail("cannot lock the file");
      std::string who = holder(descriptor_);
      if (who.empty()) who = "another process";  // it has not written its name yet
      ::close(descriptor_);
      throw Error(dir.string(), "expected a directory that no other run uses, found it in use by " + who);
    }
    // Its holder may have removed the file between our open and our lock: then this is no longer the file of that name.
    struct stat locked = {}, named = {};
    if (::fstat(descriptor_, &locked) != 0) fail("cannot read the file");
    if (::stat(file_.c_str(), &named) == 0 && locked.st_ino == named.st_ino && locked.st_dev == named.st_dev) break;
    ::close(descriptor_);
  }
  if (const std::string found = holder(descriptor_); !found.empty() && !found.starts_with("process ")) {
    ::close(descriptor_);
    throw Error(file_.string(), "expected the lock of a run, found a file of another kind");
  }
  const std::string text = "process " + std::to_string(::getpid()) + " on " + host_name() + "\n";
  // On a full disk the lock holds all the same; only the name of its holder is missing.
  if (::ftruncate(descriptor_, 0) == 0) (void)!::pwrite(descriptor_, text.data(), text.size(), 0);
}

DirectoryLock::~DirectoryLock() {
  ::unlink(file_.c_str());
  ::close(descriptor_);
}

std::filesystem::path made_directory(std::filesystem::path dir) {
  std::error_code failed;
  std::filesystem::create_directories(dir, failed);
  if (failed) throw Error(dir.string(), "cannot make the directory: " + failed.message());
  return dir;
}

}  // namespace signalbox::eval
