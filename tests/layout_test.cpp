// The rules of the folders: who may include whom, where family names and CUDA may stand, how long a file may be.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support.h"

namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::set<std::string>> allowed = {
    {"base", {"base"}},
    {"kernels", {"base", "kernels"}},
    {"probes", {"base", "kernels", "probes"}},
    {"engine", {"base", "kernels", "probes", "engine"}},
    {"loaders", {"base", "kernels", "probes", "engine", "loaders"}},
    {"eval", {"base", "kernels", "probes", "engine", "eval"}},
    {"tools", {"base", "kernels", "probes", "engine", "loaders", "eval", "tools"}},
    {"tests", {"base", "kernels", "probes", "engine", "loaders", "eval", "tools", "tests"}},
};

bool is_cuda_header(const std::string& header) {
  for (const char* start : {"cuda", "cublas", "curand", "cooperative_groups", "cub/", "cutlass", "thrust", "mma.h",
                            "nvml", "nvrtc", "nvtx"})
    if (header.starts_with(start)) return true;
  return false;
}

// May a file of `path` include `target`? kernels/backend.h is the way to the kernels, and device.h the kernels' way to
// the shim.
bool device_code_in_reach(const std::string& path, const std::string& target) {
  if (path.starts_with("tests/") || path.starts_with("kernels/shim/")) return true;
  if (target.starts_with("kernels/cuda/")) return path.starts_with("kernels/cuda/");
  if (target.starts_with("kernels/shim/")) return path == "kernels/cuda/device.h";
  return true;
}

// What is wrong with one file, a line each.
std::vector<std::string> violations(const std::string& path, const std::vector<std::string>& lines) {
  std::vector<std::string> found;
  const std::string folder = path.substr(0, path.find('/'));
  static const std::regex include_line("^\\s*#\\s*include\\s*([<\"])([^>\"]+)[>\"]");
  static const std::regex family("mixtral|deepseek|olmoe|qwen|gpt_oss|gpt-oss|gptoss", std::regex::icase);
  const bool families_allowed =
      path.starts_with("loaders/families/") || folder == "tests" || path.starts_with("tools/builtin/");
  // Kernels launch by launch() and take SharedMemory, or the shim could not run them.
  static const std::regex raw_launch("<<<|\\b__shared__\\b");
  const bool launch_allowed = folder == "tests" || path == "kernels/cuda/device.h" || path == "kernels/cuda/runtime.h";
  for (size_t n = 0; n < lines.size(); ++n) {
    const std::string at = path + ":" + std::to_string(n + 1) + ": ";
    std::smatch match;
    if (std::regex_search(lines[n], match, include_line)) {
      const std::string target = match[2];
      if (match[1] == "<") {
        if (is_cuda_header(target) && !path.starts_with("kernels/cuda/")) found.push_back(at + "CUDA header");
      } else {
        const std::string to = target.substr(0, target.find('/'));
        if (allowed.contains(to) && !allowed.at(folder).contains(to))
          found.push_back(at + folder + " includes " + target);
        if (!device_code_in_reach(path, target)) found.push_back(at + folder + " includes " + target);
      }
    }
    if (!launch_allowed && std::regex_search(lines[n], raw_launch)) found.push_back(at + "<<<>>> or __shared__");
    if (!families_allowed && std::regex_search(lines[n], family)) found.push_back(at + "a family's name");
  }
  const bool table = path.ends_with(".inc") || path.find("unicode_tables") != std::string::npos;
  if (lines.size() > 820 && !table) found.push_back(path + ": " + std::to_string(lines.size()) + " lines");
  return found;
}

}  // namespace

TEST_CASE("folders keep the dependency rule" * doctest::test_suite("repeats: reads sources")) {
  const fs::path root = signalbox::test::source_dir();
  std::vector<std::string> found;
  int files = 0;
  for (const auto& [folder, includes] : allowed) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      static const std::set<std::string> code = {".h", ".cpp", ".inc", ".cu", ".cuh", ".def"};
      if (!entry.is_regular_file() || !code.contains(extension)) continue;
      ++files;
      std::vector<std::string> lines;
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) lines.push_back(line);
      const auto bad = violations(fs::relative(entry.path(), root).generic_string(), lines);
      found.insert(found.end(), bad.begin(), bad.end());
    }
  }
  CHECK(files > 30);
  for (const std::string& line : found) MESSAGE(line);
  CHECK(found.empty());
}

TEST_CASE("the dependency rule can fail") {
  CHECK(violations("kernels/cpu/x.cpp", {"#include \"engine/model.h\""}).size() == 1);
  CHECK(violations("probes/x.cpp", {"#include \"base/json.h\""}).empty());
  CHECK(violations("probes/x.cpp", {"#include \"loaders/model/load.h\""}).size() == 1);
  CHECK(violations("base/x.cpp", {"#include \"kernels/tensor.h\""}).size() == 1);
  CHECK(violations("eval/x.cpp", {"#include \"loaders/model/load.h\""}).size() == 1);
  CHECK(violations("engine/x.cpp", {"#include <cuda_runtime.h>"}).size() == 1);
  CHECK(violations("kernels/shim/x.cpp", {"#include <cuda_runtime.h>"}).size() == 1);
  CHECK(violations("kernels/cpu/x.cpp", {"#include <cublas_v2.h>"}).size() == 1);
  CHECK(violations("kernels/cuda/x.cu", {"#include <cublas_v2.h>", "#include \"kernels/cuda/device.h\""}).empty());
  CHECK(violations("kernels/cuda/x.cu", {"#include \"kernels/shim/simt.h\""}).size() == 1);
  CHECK(violations("kernels/cuda/device.h", {"#include \"kernels/shim/simt.h\""}).empty());
  CHECK(violations("kernels/cpu/x.cpp", {"#include \"kernels/shim/simt.h\""}).size() == 1);
  CHECK(violations("kernels/shim/x.cpp", {"#include \"kernels/cuda/runtime.h\""}).empty());
  CHECK(violations("tools/x.cpp", {"#include \"kernels/cuda/cuda_backend.h\""}).size() == 1);
  CHECK(violations("tests/device/x.cpp", {"#include \"kernels/shim/shim_backend.h\""}).empty());
  CHECK(violations("kernels/cuda/x.cu", {"kernel<<<grid, block>>>();", "__shared__ float x[32];"}).size() == 2);
  CHECK(violations("kernels/cuda/runtime.h", {"kernel<<<grid, block>>>();"}).empty());
  CHECK(violations("kernels/cuda/x.cu", std::vector<std::string>(900)).size() == 1);
  CHECK(violations("engine/x.cpp", {"// as Mixtral does"}).size() == 1);
  CHECK(violations("loaders/families/x.cpp", {"// as Mixtral does"}).empty());
  CHECK(violations("engine/x.cpp", std::vector<std::string>(900)).size() == 1);
}
