// The rules of the folders: who may include whom, that nothing goes in circles, where family names and CUDA may stand,
// how long a file may be. docs/architecture.md tells the same in words.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support.h"

namespace {

namespace fs = std::filesystem;

// Rooms from the ground up; those of one floor do not see each other, every room sees itself and all floors below.
using Floors = std::vector<std::vector<std::string>>;
const Floors folders = {{"base"},  {"kernels"}, {"probes"}, {"engine"}, {"loaders", "eval"},
                        {"train"}, {"tools"},   {"tests"}};
const Floors eval_rooms = {{"data", "statistics", "store"},
                           {"routing"},
                           {"score", "detect"},
                           {"findings"},
                           {"experiment"},
                           {"causal", "compress", "faithfulness", "lens"},
                           {"circuit", "direction", "rationale"}};
// eval/report stands aside: it sees findings and what is below, and no room of eval or train sees it.
const std::string report_room = "report", seen_by_report = "findings";

constexpr size_t max_lines = 620;  // one idea for each file

int floor_of(const Floors& floors, const std::string& room) {
  for (size_t f = 0; f < floors.size(); ++f)
    if (std::count(floors[f].begin(), floors[f].end(), room) > 0) return static_cast<int>(f);
  return -1;
}

bool sees(const Floors& floors, const std::string& from, const std::string& to) {
  return from == to || floor_of(floors, from) > floor_of(floors, to);
}

// "eval/store/lock.h": 0 gives "eval", 1 "store"; empty where the path has no such folder.
std::string folder_of(const std::string& path, int depth) {
  size_t begin = 0;
  for (; depth > 0; --depth) {
    begin = path.find('/', begin);
    if (begin == std::string::npos) return "";
    ++begin;
  }
  const size_t end = path.find('/', begin);
  return end == std::string::npos ? "" : path.substr(begin, end - begin);
}

// What is wrong with `path` including `target`; empty: nothing.
std::string wrong_include(const std::string& path, const std::string& target) {
  const std::string from = folder_of(path, 0), to = folder_of(target, 0);
  if (floor_of(folders, to) < 0) return "";  // a header of its own folder or of a library
  if (!sees(folders, from, to)) return from + " includes " + target;
  const std::string room = folder_of(path, 1), other = folder_of(target, 1);
  if (to != "eval") return "";
  if (from == "eval") {
    if (floor_of(eval_rooms, room) < 0 && room != report_room) return "a room that the table does not have: " + room;
    if (room == other) return "";
    if (other == report_room) return "eval/" + room + " includes " + target;
    const bool allowed = room == report_room ? sees(eval_rooms, seen_by_report, other) : sees(eval_rooms, room, other);
    if (!allowed) return "eval/" + room + " includes " + target;
  } else if (other == report_room && from != "tools" && from != "tests") {
    return from + " includes " + target;
  }
  return "";
}

bool is_cuda_header(const std::string& header) {
  for (const char* start : {"cuda", "cublas", "curand", "cooperative_groups", "cub/", "cutlass", "thrust", "mma.h",
                            "nvml", "nvrtc", "nvtx"})
    if (header.starts_with(start)) return true;
  return false;
}

// May a file of `path` include `target`? kernels/backend.h is the way to the kernels. The shim is compiled before the
// kernels that it runs (-include), so that these name it nowhere.
bool device_code_in_reach(const std::string& path, const std::string& target) {
  if (path.starts_with("tests/") || path.starts_with("kernels/shim/")) return true;
  if (target.starts_with("kernels/cuda/")) return path.starts_with("kernels/cuda/");
  return !target.starts_with("kernels/shim/");
}

struct Include {
  std::string target;
  bool system = false;
  size_t line = 0;
};

std::vector<Include> includes_of(const std::vector<std::string>& lines) {
  static const std::regex include_line("^\\s*#\\s*include\\s*([<\"])([^>\"]+)[>\"]");
  std::vector<Include> found;
  std::smatch match;
  for (size_t n = 0; n < lines.size(); ++n)
    if (std::regex_search(lines[n], match, include_line)) found.push_back({match[2], match[1] == "<", n + 1});
  return found;
}

// Does a line open the namespace of `folder`, or one inside it?
bool opens_namespace_of(const std::string& folder, const std::string& line) {
  const std::string opening = "namespace signalbox" + (folder == "base" ? "" : "::" + folder);
  return line.starts_with(opening + " {") || line.starts_with(opening + "::");
}

// What is wrong with one file, one line each.
std::vector<std::string> violations(const std::string& path, const std::vector<std::string>& lines) {
  std::vector<std::string> found;
  const std::string folder = folder_of(path, 0);
  for (const Include& include : includes_of(lines)) {
    const std::string at = path + ":" + std::to_string(include.line) + ": ";
    if (include.system) {
      if (is_cuda_header(include.target) && !path.starts_with("kernels/cuda/")) found.push_back(at + "CUDA header");
      continue;
    }
    if (const std::string wrong = wrong_include(path, include.target); !wrong.empty()) found.push_back(at + wrong);
    if (!device_code_in_reach(path, include.target)) found.push_back(at + folder + " includes " + include.target);
  }
  static const std::regex family("mixtral|deepseek|olmoe|qwen|gpt_oss|gpt-oss|gptoss", std::regex::icase);
  const bool families_allowed =
      path.starts_with("loaders/families/") || folder == "tests" || path.starts_with("tools/builtin/");
  // Kernels launch by launch() and take SharedMemory, or the shim could not run them.
  static const std::regex raw_launch("<<<|\\b__shared__\\b");
  const bool launch_allowed = folder == "tests" || path == "kernels/cuda/device.h" || path == "kernels/cuda/runtime.h";
  for (size_t n = 0; n < lines.size(); ++n) {
    const std::string at = path + ":" + std::to_string(n + 1) + ": ";
    if (!launch_allowed && std::regex_search(lines[n], raw_launch)) found.push_back(at + "<<<>>> or __shared__");
    if (!families_allowed && std::regex_search(lines[n], family)) found.push_back(at + "a family's name");
  }
  // A namespace for each folder (base/namespaces.h); others are opened for forward declarations only.
  const auto opens = [](const std::string& line) { return line.starts_with("namespace signalbox"); };
  if (folder != "tests" && std::any_of(lines.begin(), lines.end(), opens) &&
      std::none_of(lines.begin(), lines.end(), [&](const auto& line) { return opens_namespace_of(folder, line); }))
    found.push_back(path + ": no namespace signalbox" + (folder == "base" ? "" : "::" + folder));
  // Tables are long because what they list is.
  const bool table = path.ends_with(".inc") || path.find("unicode_tables") != std::string::npos;
  if (lines.size() > max_lines && !table) found.push_back(path + ": " + std::to_string(lines.size()) + " lines");
  return found;
}

// Files by path, with their lines.
using Tree = std::map<std::string, std::vector<std::string>>;

Tree read_tree(const fs::path& root) {
  static const std::set<std::string> code = {".h", ".cpp", ".inc", ".cu", ".cuh", ".def"};
  Tree tree;
  for (const auto& floor : folders) {
    for (const std::string& folder : floor) {
      if (!fs::exists(root / folder)) continue;
      for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
        if (!entry.is_regular_file() || !code.contains(entry.path().extension().string())) continue;
        std::vector<std::string>& lines = tree[fs::relative(entry.path(), root).generic_string()];
        std::ifstream in(entry.path());
        for (std::string line; std::getline(in, line);) lines.push_back(line);
      }
    }
  }
  return tree;
}

using Graph = std::map<std::string, std::set<std::string>>;

// Who includes whom, by file, and by folder where `by_folder`. Tests may include anything and are left out.
Graph include_graph(const Tree& tree, bool by_folder) {
  const auto node = [&](const std::string& path) { return by_folder ? path.substr(0, path.rfind('/')) : path; };
  Graph graph;
  for (const auto& [path, lines] : tree) {
    if (path.starts_with("tests/")) continue;
    for (const Include& include : includes_of(lines))
      if (!include.system && tree.contains(include.target) && (!by_folder || node(path) != node(include.target)))
        graph[node(path)].insert(node(include.target));
  }
  return graph;
}

// The circles of a graph: for each strongly connected part the shortest one through its first node, "a -> b -> a".
std::vector<std::string> circles(const Graph& graph) {
  std::vector<std::string> found;
  std::set<std::string> told;
  for (const auto& [start, first_edges] : graph) {
    if (told.contains(start)) continue;
    std::map<std::string, std::string> came_from;
    std::vector<std::string> queue(1, start);
    for (size_t i = 0; i < queue.size() && !came_from.contains(start); ++i) {
      const auto edges = graph.find(queue[i]);
      if (edges == graph.end()) continue;
      for (const std::string& next : edges->second)
        if (came_from.emplace(next, queue[i]).second) queue.push_back(next);
    }
    if (!came_from.contains(start)) continue;
    std::string text = start;
    std::string at = start;
    do {
      told.insert(at);
      at = came_from.at(at);
      text = at + " -> " + text;
    } while (at != start);
    found.push_back(text);
  }
  return found;
}

// Types that two headers define under one name of one namespace: a source file that sees one is linked with functions
// of the other (those of std::vector<Type>, say), which the linker takes once.
std::vector<std::string> twice_defined(const Tree& tree) {
  static const std::regex type("^(?:class|struct|enum class) ([A-Za-z0-9_]+)[^;]*[{:]");
  std::map<std::string, std::string> places;
  std::vector<std::string> found;
  std::smatch match;
  for (const auto& [path, lines] : tree) {
    if (!path.ends_with(".h")) continue;
    std::string space;
    for (const std::string& line : lines) {
      if (line.starts_with("namespace ")) space = line.substr(0, line.find(" {"));
      if (!std::regex_search(line, match, type)) continue;
      const auto [place, first] = places.emplace(space + "::" + match[1].str(), path);
      if (!first && place->second != path) found.push_back(path + ": " + match[1].str() + ", as in " + place->second);
    }
  }
  return found;
}

void expect_none(const std::vector<std::string>& found) {
  for (const std::string& line : found) MESSAGE(line);
  CHECK(found.empty());
}

}  // namespace

TEST_CASE("folders and rooms keep the dependency rule" * doctest::test_suite("repeats: reads source text")) {
  const Tree tree = read_tree(signalbox::test::source_dir());
  CHECK(tree.size() > 300);
  std::vector<std::string> found;
  for (const auto& [path, lines] : tree) {
    const auto bad = violations(path, lines);
    found.insert(found.end(), bad.begin(), bad.end());
  }
  expect_none(found);
}

TEST_CASE("no circles of headers or of folders") {
  const Tree tree = read_tree(signalbox::test::source_dir());
  expect_none(circles(include_graph(tree, false)));
  expect_none(circles(include_graph(tree, true)));
}

TEST_CASE("each rule of the folders can fail") {
  const auto n_wrong = [](const std::string& path, const std::string& target) {
    return violations(path, {"#include \"" + target + "\""}).size();
  };
  CHECK(n_wrong("kernels/cpu/x.cpp", "engine/model.h") == 1);
  CHECK(n_wrong("base/x.cpp", "kernels/tensor.h") == 1);
  CHECK(n_wrong("probes/x.cpp", "base/json.h") == 0);
  CHECK(n_wrong("probes/x.cpp", "loaders/model/load.h") == 1);
  CHECK(n_wrong("engine/x.cpp", "loaders/model/load.h") == 1);
  CHECK(n_wrong("loaders/x.cpp", "eval/data/records.h") == 1);
  CHECK(n_wrong("eval/data/x.cpp", "loaders/model/load.h") == 1);
  CHECK(n_wrong("eval/experiment/x.cpp", "train/adapters.h") == 1);
  CHECK(n_wrong("train/x.cpp", "loaders/model/load.h") == 0);
  CHECK(n_wrong("train/x.cpp", "tools/signalbox/flags.h") == 1);
  CHECK(n_wrong("tools/x.cpp", "tests/support.h") == 1);
  CHECK(n_wrong("tests/x.cpp", "tools/signalbox/flags.h") == 0);
}

TEST_CASE("each rule of eval's rooms can fail") {
  const auto n_wrong = [](const std::string& path, const std::string& target) {
    return violations(path, {"#include \"" + target + "\""}).size();
  };
  CHECK(n_wrong("eval/data/x.cpp", "eval/statistics/draws.h") == 1);
  CHECK(n_wrong("eval/store/x.cpp", "eval/routing/usage.h") == 1);
  CHECK(n_wrong("eval/routing/x.cpp", "eval/store/layout.h") == 0);
  CHECK(n_wrong("eval/routing/x.cpp", "eval/detect/contrast.h") == 1);
  CHECK(n_wrong("eval/score/x.cpp", "eval/detect/contrast.h") == 1);
  CHECK(n_wrong("eval/detect/x.cpp", "eval/score/scorer.h") == 1);
  CHECK(n_wrong("eval/findings/x.cpp", "eval/score/scorer.h") == 0);
  CHECK(n_wrong("eval/findings/x.cpp", "eval/experiment/spec.h") == 1);
  CHECK(n_wrong("eval/experiment/x.cpp", "eval/faithfulness/study.h") == 1);
  CHECK(n_wrong("eval/faithfulness/x.cpp", "eval/causal/map.h") == 1);
  CHECK(n_wrong("eval/faithfulness/x.cpp", "eval/experiment/spec.h") == 0);
  CHECK(n_wrong("eval/report/x.cpp", "eval/findings/results.h") == 0);
  CHECK(n_wrong("eval/report/x.cpp", "eval/experiment/spec.h") == 1);
  CHECK(n_wrong("eval/experiment/x.cpp", "eval/report/charts.h") == 1);
  CHECK(n_wrong("train/x.cpp", "eval/report/charts.h") == 1);
  CHECK(n_wrong("tools/signalbox/x.cpp", "eval/report/charts.h") == 0);
  CHECK(n_wrong("eval/elsewhere/x.cpp", "eval/data/records.h") == 1);
  CHECK(n_wrong("eval/x.cpp", "eval/data/records.h") == 1);
}

TEST_CASE("the rules of device code, family names, namespaces and lengths can fail") {
  CHECK(violations("engine/x.cpp", {"#include <cuda_runtime.h>"}).size() == 1);
  CHECK(violations("kernels/shim/x.cpp", {"#include <cuda_runtime.h>"}).size() == 1);
  CHECK(violations("kernels/cpu/x.cpp", {"#include <cublas_v2.h>"}).size() == 1);
  CHECK(violations("kernels/cuda/x.cu", {"#include <cublas_v2.h>", "#include \"kernels/cuda/device.h\""}).empty());
  CHECK(violations("kernels/cuda/x.cu", {"#include \"kernels/shim/simt.h\""}).size() == 1);
  CHECK(violations("kernels/cuda/device.h", {"#include \"kernels/shim/simt.h\""}).size() == 1);
  CHECK(violations("kernels/cpu/x.cpp", {"#include \"kernels/shim/simt.h\""}).size() == 1);
  CHECK(violations("kernels/shim/x.cpp", {"#include \"kernels/cuda/runtime.h\""}).empty());
  CHECK(violations("tools/x.cpp", {"#include \"kernels/cuda/cuda_backend.h\""}).size() == 1);
  CHECK(violations("tests/device/x.cpp", {"#include \"kernels/shim/shim_backend.h\""}).empty());
  CHECK(violations("kernels/cuda/x.cu", {"kernel<<<grid, block>>>();", "__shared__ float x[32];"}).size() == 2);
  CHECK(violations("kernels/cuda/runtime.h", {"kernel<<<grid, block>>>();"}).empty());
  CHECK(violations("engine/x.cpp", {"// as Mixtral does"}).size() == 1);
  CHECK(violations("loaders/families/x.cpp", {"// as Mixtral does"}).empty());
  CHECK(violations("engine/x.cpp", {"namespace signalbox::engine {"}).empty());
  CHECK(violations("engine/x.h", {"namespace signalbox::json {", "namespace signalbox::engine::layers {"}).empty());
  CHECK(violations("engine/x.cpp", {"namespace signalbox {"}).size() == 1);
  CHECK(violations("probes/x.cpp", {"namespace signalbox::engine {"}).size() == 1);
  CHECK(violations("base/x.h", {"namespace signalbox {"}).empty());
  CHECK(violations("engine/x.cpp", std::vector<std::string>(max_lines)).empty());
  CHECK(violations("engine/x.cpp", std::vector<std::string>(max_lines + 1)).size() == 1);
  CHECK(violations("kernels/cuda/x.cu", std::vector<std::string>(max_lines + 1)).size() == 1);
  CHECK(violations("loaders/tokenizer/unicode_tables.h", std::vector<std::string>(max_lines + 1)).empty());
}

TEST_CASE("no type has two meanings in a namespace" * doctest::test_suite("repeats: reads source text")) {
  expect_none(twice_defined(read_tree(signalbox::test::source_dir())));
}

TEST_CASE("two meanings of a type are found") {
  Tree tree = {{"eval/a.h", {"namespace signalbox::eval {", "struct Link {"}},
               {"eval/b.h", {"namespace signalbox::eval {", "struct Link;"}},
               {"engine/c.h", {"namespace signalbox::engine {", "class Link : Base {"}}};
  CHECK(twice_defined(tree).empty());
  tree["eval/b.h"].emplace_back("enum class Link : uint8_t { feeds };");
  CHECK(twice_defined(tree) == std::vector<std::string>{"eval/b.h: Link, as in eval/a.h"});
}

TEST_CASE("circles are found") {
  Tree tree = {{"engine/a.h", {"#include \"engine/b.h\""}},
               {"engine/b.h", {"#include \"kernels/c.h\"", "#include <engine/a.h>"}},
               {"kernels/c.h", {}}};
  CHECK(circles(include_graph(tree, false)).empty());
  CHECK(circles(include_graph(tree, true)).empty());
  tree["kernels/c.h"] = {"  #include \"engine/a.h\""};
  CHECK(circles(include_graph(tree, false)) ==
        std::vector<std::string>{"engine/a.h -> engine/b.h -> kernels/c.h -> engine/a.h"});
  CHECK(circles(include_graph(tree, true)) == std::vector<std::string>{"engine -> kernels -> engine"});
  tree["kernels/c.h"] = {};
  tree["kernels/d.cpp"] = {"#include \"engine/a.h\""};  // no header goes round, but the folders do
  CHECK(circles(include_graph(tree, false)).empty());
  CHECK(circles(include_graph(tree, true)).size() == 1);
  tree["kernels/d.cpp"] = {};
  tree["kernels/c.h"] = {"#include \"kernels/c.h\""};
  CHECK(circles(include_graph(tree, false)).size() == 1);
}
