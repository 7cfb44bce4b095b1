#include "tests/support.h"

#include <stdlib.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

namespace signalbox::test {

namespace fs = std::filesystem;

namespace {
fs::path own_folder() {
  std::error_code none;
  return fs::read_symlink("/proc/self/exe", none).parent_path();
}
}  // namespace

std::filesystem::path source_dir() { return SIGNALBOX_SOURCE_DIR; }
std::string binary() {
  const fs::path beside = own_folder() / "signalbox";
  return fs::exists(SIGNALBOX_BINARY) || !fs::exists(beside) ? SIGNALBOX_BINARY : beside.string();
}

fs::path goldens_dir() {
  if (const char* named = std::getenv("SIGNALBOX_GOLDENS")) {
    if (!fs::is_directory(named))
      throw std::runtime_error(std::string("--goldens, $SIGNALBOX_GOLDENS: expected a directory, found ") + named);
    return named;
  }
  const fs::path places[] = {source_dir() / "tests/goldens", own_folder() / "goldens",
                             own_folder() / "../tests/goldens"};
  for (const fs::path& place : places)
    if (fs::is_directory(place)) return place;
  throw std::runtime_error("golden files: expected " + places[0].string() + " or " + places[1].string() +
                           " (or --goldens DIR), found neither");
}

std::string golden_model(const std::string& name) { return (goldens_dir() / name / "model").string(); }

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

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  return lines;
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
