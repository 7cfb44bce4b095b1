// Shared by all tests.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace signalbox::test {

// The checkout that this binary was built from, and the signalbox built beside it (or that lies beside it now).
std::filesystem::path source_dir();
std::string binary();
// tests/goldens: of --goldens DIR or $SIGNALBOX_GOLDENS, of the checkout, or beside the binary (goldens, and
// ../tests/goldens), whichever there is first. Throws where there is none.
std::filesystem::path goldens_dir();
// The checkpoint of one of them.
std::string golden_model(const std::string& name);

// Counts a test that cannot run here and prints why.
void skip(const char* reason);

// Was the binary started with --require-gpu?
bool require_gpu();
// Or with --gpu-only, which is that and leaves out what runs on the host: the shim says nothing of a GPU.
bool gpu_only();
// True where the build and the machine have a GPU that can be used. Where they have none, the running test case is
// counted as skipped, once however often it asks, or fails with --require-gpu.
bool have_gpu();

// A directory that is removed with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& file);
void write_file(const std::filesystem::path& file, const std::string& text);

// Its lines, without their ends (LF or CRLF).
std::vector<std::string> lines_of(const std::string& text);

// Runs `command` with /bin/sh; returns its exit code and what it printed.
struct Ran {
  int code = 0;
  std::string out, err;
};
Ran run_command(const std::string& command);

}  // namespace signalbox::test
