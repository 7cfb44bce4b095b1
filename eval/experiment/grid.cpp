#include "eval/experiment/grid.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "eval/findings/format.h"

namespace signalbox::eval {

namespace {

constexpr size_t max_value_text = 64;

bool is_name(std::string_view text) {
  const auto letter = [](char c) { return is_ascii_letter(c) || c == '_'; };
  return !text.empty() && letter(text[0]) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return letter(c) || is_ascii_digit(c); });
}

// Puts the values of one point in the place of "$key"s, and notes which keys were used.
class Substitution {
 public:
  Substitution(const GridPoint& point, std::set<std::string>& used) : point_(point), used_(used) {}

  json::Value of(const json::Ref& ref) {
    const json::Value& value = ref.value();
    if (value.type() == json::Type::string) return of_string(ref);
    if (value.type() == json::Type::array) {
      json::Value out = json::Value::array();
      for (const json::Ref& item : ref.items()) out.push_back(of(item));
      return out;
    }
    if (value.type() == json::Type::object) {
      json::Value out = json::Value::object();
      for (const auto& [key, member] : ref.members()) out.append_member(key, of(member));
      return out;
    }
    return value;
  }

 private:
  json::Value of_string(const json::Ref& ref) {
    const std::string& text = ref.string();
    if (!text.starts_with('$')) return text;
    if (text.starts_with("$$")) return text.substr(1);
    const std::string key = text.substr(1);
    for (const auto& [name, value] : point_) {
      if (name != key) continue;
      used_.insert(key);
      return value;
    }
    const std::string known = joined(point_, ", ", [](const auto& item) { return "$" + item.first; });
    ref.fail("expected " + (known.empty() ? "a grid that has the key" : "a key of the grid (" + known + ")") +
             ", found \"" + text + "\"");
  }

  const GridPoint& point_;
  std::set<std::string>& used_;
};

struct Axis {
  std::string key;
  std::vector<json::Value> values;
};

std::vector<Axis> read_axes(const json::Ref& grid) {
  std::vector<Axis> axes;
  int64_t n_points = 1;
  for (const auto& [key, list] : grid.members()) {
    if (!is_name(key)) grid.fail("expected keys of letters, digits and _, found \"" + key + "\"");
    Axis axis{key, {}};
    for (const json::Ref& item : list.items()) {
      for (size_t i = 0; i < axis.values.size(); ++i)
        if (axis.values[i] == item.value())
          item.fail("expected each value once, found " + json::dump(item.value()) + " again");
      axis.values.push_back(item.value());
      if (static_cast<int64_t>(axis.values.size()) > max_grid_points)
        list.fail("expected at most " + std::to_string(max_grid_points) + " values, found " +
                  std::to_string(list.length()));
    }
    if (axis.values.empty()) list.fail("expected at least one value, found none");
    n_points *= static_cast<int64_t>(axis.values.size());
    if (n_points > max_grid_points)
      grid.fail("expected at most " + std::to_string(max_grid_points) + " points, found more");
    axes.push_back(std::move(axis));
  }
  if (axes.empty()) grid.fail("expected at least one key, found none");
  return axes;
}

}  // namespace

std::string grid_value_text(const json::Value& value, int64_t place) {
  std::string text = plain_text(value);
  if (text.size() > max_value_text) return "#" + std::to_string(place);
  for (char& c : text)
    if (c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '_';
  return text;
}

std::vector<NamedPoint> grid_points(const json::Ref& grid, const std::string& name) {
  const std::vector<Axis> axes = read_axes(grid);
  std::vector<NamedPoint> points;
  std::set<std::string> names;
  std::vector<size_t> at(axes.size(), 0);
  for (bool more = true; more;) {
    NamedPoint point;
    for (size_t a = 0; a < axes.size(); ++a) {
      const json::Value& value = axes[a].values[at[a]];
      point.values.emplace_back(axes[a].key, value);
      point.name += (a ? "," : "") + axes[a].key + "=" + grid_value_text(value, static_cast<int64_t>(at[a]));
    }
    if (point.name.size() > max_point_name)
      grid.fail("expected points whose names are at most " + std::to_string(max_point_name) + " bytes long, found \"" +
                name + "/" + point.name + "\"");
    if (!names.insert(point.name).second)
      grid.fail("expected values whose names differ, found \"" + name + "/" + point.name + "\" twice");
    points.push_back(std::move(point));
    more = false;
    for (size_t a = axes.size(); a-- > 0 && !more;) {
      at[a] = (at[a] + 1) % axes[a].values.size();
      more = at[a] != 0;
    }
  }
  return points;
}

std::vector<ExpandedEdits> expand_grid(const json::Ref& entry, const std::string& name) {
  const auto grid = entry.find("grid");
  const auto edits = entry.find("edits");
  std::set<std::string> used;
  if (!grid) {
    ExpandedEdits only;
    only.name = name;
    const GridPoint none;
    if (edits) only.edits = Substitution(none, used).of(*edits);
    return {std::move(only)};
  }
  std::vector<NamedPoint> named = grid_points(*grid, name);
  if (!edits) grid->fail("expected edits that use the grid, found none");
  std::vector<ExpandedEdits> points;
  for (NamedPoint& one : named) {
    ExpandedEdits point;
    point.name = name + "/" + one.name;
    point.edits = Substitution(one.values, used).of(*edits);
    point.grid = std::move(one.values);
    points.push_back(std::move(point));
  }
  for (const auto& [key, value] : points[0].grid)
    if (!used.contains(key)) grid->fail("expected an edit that holds \"$" + key + "\", found none");
  return points;
}

}  // namespace signalbox::eval
