// Shared by all tests.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/forward.h"
#include "probes/sink.h"

namespace signalbox::test {

// Counts a test that cannot run here and prints why.
void skip(const char* reason);

// Was the binary started with --require-gpu?
bool require_gpu();
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

// Keeps every wanted point of every batch in memory: rows of one sample in order.
class MemorySink : public ProbeSink {
 public:
  explicit MemorySink(PointSet points) : points_(std::move(points)) {}
  struct Values {
    int64_t width = 0;
    std::vector<float> data;  // [rows, width]; ids as floats
    int64_t rows() const { return width ? static_cast<int64_t>(data.size()) / width : 0; }
  };
  // [sample][full point name]; "router.original_ids" has its own name
  std::map<int64_t, std::map<std::string, Values>> samples;

  bool wants(Point point, int32_t layer) const override { return points_.wants(point, layer); }
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override {}

 private:
  void append(const std::string& name, const float* data, int64_t width);
  PointSet points_;
  std::vector<RowRange> ranges_;
};

// Runs `command` with /bin/sh; returns its exit code and what it printed.
struct Ran {
  int code = 0;
  std::string out, err;
};
Ran run_command(const std::string& command);

}  // namespace signalbox::test
