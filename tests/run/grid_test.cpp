// Grids: which points there are, in which order, under which names, and what is refused.
#include "tests/run/experiment_sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

std::vector<ExpandedEdits> points_of(const std::string& entry) {
  const json::Value value = quoted_json(entry, "S.json");
  return expand_grid(json::Ref(value, "S.json", "interventions[1]"), "mis");
}

std::string names_of(const std::string& entry) {
  std::string text;
  for (const ExpandedEdits& point : points_of(entry)) text += point.name + " ";
  return text;
}

std::string grid_error(const std::string& entry) {
  const std::string text = error_of([&] { points_of(entry); });
  return text.starts_with("S.json: interventions[1]") ? text.substr(24) : text;
}

}  // namespace

TEST_CASE("grid: the last key is fastest, and the values stand in the edits") {
  const auto points = points_of(
      "{'grid': {'policy': ['next_best', 'random'], 'layers': ['3-5', 'all'], 'fraction': [0.25, 1]}, 'edits': "
      "[{'op': 'misroute', 'policy': '$policy', 'layers': '$layers', 'tokens': {'fraction': '$fraction'}}]}");
  REQUIRE(points.size() == 8);
  const std::vector<std::string> names = {
      "mis/policy=next_best,layers=3-5,fraction=0.25", "mis/policy=next_best,layers=3-5,fraction=1",
      "mis/policy=next_best,layers=all,fraction=0.25", "mis/policy=next_best,layers=all,fraction=1",
      "mis/policy=random,layers=3-5,fraction=0.25",    "mis/policy=random,layers=3-5,fraction=1",
      "mis/policy=random,layers=all,fraction=0.25",    "mis/policy=random,layers=all,fraction=1"};
  for (size_t i = 0; i < names.size(); ++i) CHECK(points[i].name == names[i]);
  CHECK(json::dump(points[4].edits) ==
        R"([{"op":"misroute","policy":"random","layers":"3-5","tokens":{"fraction":0.25}}])");
  REQUIRE(points[4].grid.size() == 3);
  CHECK(points[4].grid[0].first == "policy");
  CHECK(points[4].grid[0].second == json::Value("random"));
  CHECK(points[4].grid[2].second == json::Value(0.25));
}

TEST_CASE("grid: without one there is one point of the entry's own name") {
  const auto points = points_of("{'edits': [{'op': 'replay', 'trace': 't', 'sample': '$$5'}]}");
  REQUIRE(points.size() == 1);
  CHECK(points[0].name == "mis");
  CHECK(points[0].grid.empty());
  CHECK(json::dump(points[0].edits) == R"([{"op":"replay","trace":"t","sample":"$5"}])");
  CHECK(points_of("{'name': 'x'}")[0].edits == json::Value::array());
}

TEST_CASE("grid: values of any type, keys used twice, and a whole edit as a value") {
  CHECK(names_of("{'grid': {'x': [1, 1.0, -0.5, true, null, 'a/b', [1, 2], {'3': [5]}]}, 'edits': ['$x']}") ==
        "mis/x=1 mis/x=1.0 mis/x=-0.5 mis/x=true mis/x=null mis/x=a_b mis/x=[1,2] mis/x={\"3\":[5]} ");
  const auto points =
      points_of("{'grid': {'by': [2]}, 'edits': [{'by': '$by'}, {'a': [{'by': '$by'}, 'by', '$$by']}]}");
  CHECK(json::dump(points[0].edits) == R"([{"by":2},{"a":[{"by":2},"by","$by"]}])");
  // Values are taken as they are: a "$" in one is not looked up again.
  CHECK(json::dump(points_of("{'grid': {'a': ['$b'], 'b': [1]}, 'edits': ['$a', '$b']}")[0].edits) == R"(["$b",1])");
  const std::string name(65, 'x');
  CHECK(names_of("{'grid': {'x': ['" + name + "', '" + name.substr(1) + "']}, 'edits': ['$x']}") ==
        "mis/x=#0 mis/x=" + name.substr(1) + " ");
  CHECK(grid_value_text(json::Value("a\x01\x7f"), 0) == "a__");
}

TEST_CASE("grid: refusals") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{'grid': {'a': [1], 'b': [2]}, 'edits': ['$a']}", ".grid: expected an edit that holds \"$b\", found none"},
      {"{'grid': {'a': [1]}, 'edits': ['$a', {'k': ['$c']}]}",
       ".edits[1].k[0]: expected a key of the grid ($a), found \"$c\""},
      {"{'edits': ['$a']}", ".edits[0]: expected a grid that has the key, found \"$a\""},
      {"{'edits': ['$']}", ".edits[0]: expected a grid that has the key, found \"$\""},
      {"{'grid': {'a': []}, 'edits': ['$a']}", ".grid.a: expected at least one value, found none"},
      {"{'grid': {'a': 3}, 'edits': ['$a']}", ".grid.a: expected an array, found 3"},
      {"{'grid': {'a': [1, 2, 1]}, 'edits': ['$a']}", ".grid.a[2]: expected each value once, found 1 again"},
      {"{'grid': {}, 'edits': []}", ".grid: expected at least one key, found none"},
      {"{'grid': {'a b': [1]}, 'edits': []}", ".grid: expected keys of letters, digits and _, found \"a b\""},
      {"{'grid': {'a': [1]}}", ".grid: expected edits that use the grid, found none"},
      {"{'grid': {'a': ['x/y', 'x_y']}, 'edits': ['$a']}",
       ".grid: expected values whose names differ, found \"mis/a=x_y\" twice"},
  };
  for (const auto& [entry, message] : cases) CHECK(grid_error(entry) == message);
  std::string many = "0";
  for (int i = 1; i < 101; ++i) many += "," + std::to_string(i);
  CHECK(grid_error("{'grid': {'a': [" + many + "], 'b': [" + many + "]}, 'edits': ['$a', '$b']}") ==
        ".grid: expected at most 10000 points, found more");
  CHECK(points_of("{'grid': {'a': [" + many.substr(0, many.rfind(',')) + "], 'b': [" + many.substr(0, many.rfind(',')) +
                  "]}, 'edits': ['$a', '$b']}")
            .size() == 10000);
  const std::string value(60, 'v');
  CHECK(grid_error("{'grid': {'a': ['" + value + "'], 'b': ['" + value + "'], 'c': ['" + value + "'], 'd': ['" + value +
                   "']}, 'edits': ['$a', '$b', '$c', '$d']}")
            .starts_with(".grid: expected points whose names are at most 200 bytes long, found"));
}
