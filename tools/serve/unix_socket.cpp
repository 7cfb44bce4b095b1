#include "tools/serve/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace signalbox::tools {

namespace {

[[noreturn]] void fail_socket(const std::filesystem::path& path, const std::string& reason) {
  throw Error(path.string() + " (--socket)", reason);
}

void prepare_directory(const std::filesystem::path& path) {
  const std::filesystem::path dir = std::filesystem::absolute(path).parent_path();
  struct stat found = {};
  if (::stat(dir.c_str(), &found) != 0) {
    if (::mkdir(dir.c_str(), 0700) != 0)
      fail_socket(path,
                  "expected a directory to make the socket in, found " + dir.string() + ": " + std::strerror(errno));
    return;
  }
  if (!S_ISDIR(found.st_mode)) fail_socket(path, "expected a directory, found " + dir.string());
  if ((found.st_mode & 022) != 0)
    fail_socket(path, "expected a directory that nobody else can write to, found " + dir.string() +
                          " (mkdir -m 700 makes one)");
}

bool somebody_listens(const sockaddr_un& address) {
  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected =
      descriptor >= 0 && ::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  if (descriptor >= 0) ::close(descriptor);
  return connected;
}

}  // namespace

std::filesystem::path listen_unix(const std::filesystem::path& path, const std::function<void(int)>& take) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.string().size() >= sizeof address.sun_path)
    fail_socket(path, "expected a path of at most " + std::to_string(sizeof address.sun_path - 1) + " bytes");
  std::memcpy(address.sun_path, path.c_str(), path.string().size());
  prepare_directory(path);
  struct stat found = {};
  if (::lstat(path.c_str(), &found) == 0) {
    if (!S_ISSOCK(found.st_mode)) fail_socket(path, "expected a path that is free, found a file");
    if (somebody_listens(address)) fail_socket(path, "expected a path that is free, found a server that listens there");
    ::unlink(path.c_str());
  }
  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) fail_socket(path, std::strerror(errno));
  const mode_t before = ::umask(0177);
  const bool bound = ::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  const int reason = errno;
  ::umask(before);
  if (!bound || ::listen(descriptor, 1024) != 0) {
    ::close(descriptor);
    fail_socket(path, std::string("expected a place for a socket, found: ") + std::strerror(reason));
  }
  take(descriptor);
  return path;
}

}  // namespace signalbox::tools
