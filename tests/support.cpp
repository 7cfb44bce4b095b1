#include "tests/support.h"

#include <stdlib.h>
#include <sys/wait.h>

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace signalbox::test {

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

void MemorySink::begin(const StepRows& rows) { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }

void MemorySink::append(const std::string& name, const float* data, int64_t width) {
  for (const RowRange& range : ranges_) {
    Values& values = samples[range.sample][name];
    values.width = width;
    values.data.insert(values.data.end(), data + range.batch_row * width,
                       data + (range.batch_row + range.n_rows) * width);
  }
}

void MemorySink::take(Point point, int32_t layer, const float* data, int64_t width) {
  append(point_name(point, layer), data, width);
}

void MemorySink::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  int64_t rows = 0;
  for (const RowRange& range : ranges_) rows = std::max(rows, range.batch_row + range.n_rows);
  const std::vector<float> applied(ids, ids + rows * n_slots);
  append(point_name(Point::router_ids, layer), applied.data(), n_slots);
  if (!original_ids) return;
  const std::vector<float> original(original_ids, original_ids + rows * n_slots);
  append("layer." + std::to_string(layer) + ".router.original_ids", original.data(), n_slots);
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
