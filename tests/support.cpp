#include "tests/support.h"

#include <stdlib.h>
#include <sys/wait.h>

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace signalbox::test {

std::filesystem::path source_dir() { return SIGNALBOX_SOURCE_DIR; }
std::string binary() { return SIGNALBOX_BINARY; }

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "signalbox-test-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_file(const std::filesystem::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
}

Ran run_command(const std::string& command) {
  TemporaryDirectory scratch;
  const std::string redirect =
      "( " + command + " ) >" + (scratch / "out").string() + " 2>" + (scratch / "err").string();
  const int status = system(redirect.c_str());
  Ran ran;
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ran.out = read_file(scratch / "out");
  ran.err = read_file(scratch / "err");
  return ran;
}

}  // namespace signalbox::test
