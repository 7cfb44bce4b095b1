// Grids: one entry of an experiment that stands for an intervention at each point of a table of values.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/findings/intervention.h"

namespace signalbox::eval {

inline constexpr int64_t max_grid_points = 10000;
inline constexpr size_t max_point_name = 200;  // bytes: of a component of a file's name there are 255

struct ExpandedEdits {
  std::string name;                          // "mis/policy=random,fraction=0.25"; without a grid the entry's own
  json::Value edits = json::Value::array();  // every string "$key" replaced by the point's value, "$$x" by "$x"
  GridPoint grid;
};

struct NamedPoint {
  std::string name;  // "policy=random,fraction=0.25"
  GridPoint values;
};

// The points of a table of values in order, the last key fastest; `name` is whose, for messages. Throws Error: no list
// or an empty list of values, a value twice, more than max_grid_points points, two points of one name, a name that no
// file can have.
std::vector<NamedPoint> grid_points(const json::Ref& grid, const std::string& name);

// The points of "grid", as grid_points gives them. `entry` is an item of "interventions"; its "edits" may hold a
// "$key" anywhere in place of a value. Throws Error: as grid_points, a key that no edit uses, a "$key" that the grid
// does not have.
std::vector<ExpandedEdits> expand_grid(const json::Ref& entry, const std::string& name);

// A value in the name of a point: a string as it is, anything else as compact JSON. '/' and control characters become
// '_'; a text of more than 64 bytes is replaced by '#' and the value's place in its list, from 0.
std::string grid_value_text(const json::Value& value, int64_t place);

}  // namespace signalbox::eval
