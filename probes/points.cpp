#include "probes/points.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "base/glob.h"
#include "base/near_names.h"
#include "base/text.h"

namespace signalbox::probes {

namespace {

constexpr std::array<PointInfo, n_points> infos = {{
#define POINT(identifier, name, per_layer, where, shape, stacked, writable) \
  {name, per_layer, PointInfo::Where::where, PointInfo::Shape::shape, stacked, writable},
#include "probes/points.def"
#undef POINT
}};

constexpr std::string_view layer_prefix = "layer.";

// What a model lacks where a glob means only points that it does not have.
std::string why_absent(std::string_view glob, const ModelShape& shape) {
  for (int32_t i = 0; i < n_points; ++i) {
    if (infos[i].where != PointInfo::Where::groups) continue;
    bool meant = glob_matches(glob, infos[i].name);
    for (int32_t l = 0; l < shape.n_layers(); ++l)
      meant = meant || glob_matches(glob, point_name(static_cast<Point>(i), l));
    if (meant) return ", which exists where a router keeps only some of several groups of experts";
  }
  return "";
}

// Points of the model that a glob may have been meant for, for brackets.
std::string near_points(std::string_view glob, const ModelShape& shape) {
  // What the glob names, without its stars and the dots beside them.
  std::string stem;
  for (const char c : glob)
    if (c != '*') stem += c;
  stem.erase(0, std::min(stem.find_first_not_of('.'), stem.size()));
  stem.erase(stem.find_last_not_of('.') + 1);
  std::vector<std::string> shorts, all;
  for (int32_t i = 0; i < n_points; ++i) {
    const Point point = static_cast<Point>(i);
    bool any = false;
    for (int32_t l = infos[i].per_layer ? 0 : -1; l < (infos[i].per_layer ? shape.n_layers() : 0); ++l) {
      if (!point_exists(point, l, shape)) continue;
      if (!any) shorts.emplace_back(infos[i].name);
      any = true;
      if (infos[i].per_layer) all.push_back(point_name(point, l));
    }
  }
  all.insert(all.begin(), shorts.begin(), shorts.end());
  const std::vector<std::string> near = near_names(stem, all);
  return near.empty() ? choices("", shorts, "signalbox inspect MODEL --points") : "nearest: " + joined(near);
}

}  // namespace

const PointInfo& point_info(Point point) { return infos[static_cast<size_t>(point)]; }

std::string point_name(Point point, int32_t layer) {
  const PointInfo& info = point_info(point);
  if (!info.per_layer) return std::string(info.name);
  return std::string(layer_prefix) + std::to_string(layer) + "." + std::string(info.name);
}

std::optional<Point> find_point(std::string_view short_name) {
  for (int32_t i = 0; i < n_points; ++i)
    if (infos[i].name == short_name) return static_cast<Point>(i);
  return std::nullopt;
}

std::optional<PointAt> parse_point(std::string_view full_name) {
  if (!full_name.starts_with(layer_prefix)) {
    auto point = find_point(full_name);
    if (!point || point_info(*point).per_layer) return std::nullopt;
    return PointAt{*point, -1};
  }
  full_name.remove_prefix(layer_prefix.size());
  const size_t dot = full_name.find('.');
  if (dot == std::string_view::npos || dot == 0 || (dot > 1 && full_name[0] == '0')) return std::nullopt;
  int32_t layer = 0;
  const char* last = full_name.data() + dot;
  auto [end, failed] = std::from_chars(full_name.data(), last, layer);
  if (failed != std::errc() || end != last || layer < 0) return std::nullopt;
  auto point = find_point(full_name.substr(dot + 1));
  if (!point || !point_info(*point).per_layer) return std::nullopt;
  return PointAt{*point, layer};
}

bool point_exists(Point point, int32_t layer, const ModelShape& shape) {
  const PointInfo& info = point_info(point);
  if (!info.per_layer) return layer < 0;
  if (layer < 0 || layer >= shape.n_layers()) return false;
  const LayerShape& at = shape.layers[layer];
  switch (info.where) {
    case PointInfo::Where::every: return true;
    case PointInfo::Where::attention: return at.attention.n_heads > 0;
    case PointInfo::Where::moe: return at.moe;
    case PointInfo::Where::groups: return at.moe && at.groups;
    case PointInfo::Where::dense: return !at.moe;
    case PointInfo::Where::shared: return at.moe && at.shared;
  }
  return false;
}

std::vector<int64_t> point_dims(Point point, int32_t layer, const ModelShape& shape, int32_t n_slots,
                                int64_t n_positions) {
  const LayerShape at = layer < 0 ? LayerShape() : shape.layers[layer];
  switch (point_info(point).shape) {
    case PointInfo::Shape::d_model: return {shape.d_model};
    case PointInfo::Shape::heads_key: return {at.attention.n_heads, at.attention.d_key};
    case PointInfo::Shape::kv_heads_key: return {at.attention.n_kv_heads, at.attention.d_key};
    case PointInfo::Shape::kv_heads_value: return {at.attention.n_kv_heads, at.attention.d_value};
    case PointInfo::Shape::heads_z: return {at.attention.n_heads, at.attention.d_z};
    case PointInfo::Shape::heads_positions: return {at.attention.n_heads, n_positions};
    case PointInfo::Shape::n_experts: return {at.n_experts};
    case PointInfo::Shape::slots: return {n_slots};
    case PointInfo::Shape::scalar: return {};
    case PointInfo::Shape::slots_d_ff: return {n_slots, at.d_ff};
    case PointInfo::Shape::slots_d_model: return {n_slots, shape.d_model};
    case PointInfo::Shape::n_vocab: return {shape.n_vocab};
  }
  return {};
}

int64_t point_width(Point point, int32_t layer, const ModelShape& shape, int32_t n_slots) {
  // Of one slot, or of one key.
  int64_t width = 1;
  for (const int64_t n : point_dims(point, layer, shape, point_info(point).slots() ? 1 : n_slots, 1)) width *= n;
  return width;
}

std::vector<std::string> writable_point_names() {
  std::vector<std::string> names;
  for (const PointInfo& info : infos)
    if (info.writable) names.emplace_back(info.name);
  return names;
}

std::string point_list(std::string_view indent) {
  constexpr size_t max_line = 80;
  std::string text, line(indent);
  for (const PointInfo& info : infos) {
    const std::string name = (info.per_layer ? "layer.{l}." : "") + std::string(info.name);
    if (line.size() + name.size() + 2 > max_line) {
      text += line + "\n";
      line = indent;
    }
    line += (line.size() == indent.size() ? "" : " ") + name + (&info == &infos.back() ? "" : ",");
  }
  return text + line;
}

void PointSet::add(Point point, int32_t layer) {
  auto& layers = wanted_[static_cast<size_t>(point)];
  const size_t index = static_cast<size_t>(layer < 0 ? 0 : layer);
  if (index >= layers.size()) layers.resize(index + 1, 0);
  n_wanted_ += !layers[index];
  layers[index] = 1;
}

bool PointSet::wants_any(Point point) const {
  const auto& layers = wanted_[static_cast<size_t>(point)];
  return std::find(layers.begin(), layers.end(), 1) != layers.end();
}

PointSet PointSet::parse(std::string_view globs, const ModelShape& shape) {
  PointSet set;
  for (size_t begin = 0; begin <= globs.size();) {
    const size_t comma = std::min(globs.find(',', begin), globs.size());
    const std::string_view glob = globs.substr(begin, comma - begin);
    begin = comma + 1;
    if (glob.empty()) throw UsageError("--points", "expected GLOB[,GLOB...], found an empty glob");
    bool matched = false;
    auto consider = [&](Point point, int32_t layer) {
      if (!point_exists(point, layer, shape)) return;
      if (!glob_matches(glob, point_name(point, layer)) && !glob_matches(glob, point_info(point).name)) return;
      matched = true;
      set.add(point, layer);
    };
    for (int32_t i = 0; i < n_points; ++i) {
      const Point point = static_cast<Point>(i);
      if (!point_info(point).per_layer)
        consider(point, -1);
      else
        for (int32_t l = 0; l < shape.n_layers(); ++l) consider(point, l);
    }
    if (!matched)
      throw Error("--points", "expected a glob that matches a probe point of this model, found \"" + std::string(glob) +
                                  "\"" + why_absent(glob, shape) + " (" + near_points(glob, shape) + ")");
  }
  const std::vector<int32_t> router_layers = set.router_layers();
  for (int32_t i = 0; i < n_points; ++i) {
    const Point point = static_cast<Point>(i);
    if (!point_info(point).stacked || !set.wants_any(point)) continue;
    for (int32_t l : router_layers)
      if (point_exists(point, l, shape)) set.add(point, l);
  }
  return set;
}

std::vector<int32_t> PointSet::router_layers() const {
  std::vector<int32_t> found;
  for (const PointAt& at : all())
    if (point_info(at.point).stacked) found.push_back(at.layer);
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

std::vector<PointAt> PointSet::all() const {
  std::vector<PointAt> found;
  auto whole = [&](int32_t i) {
    const Point point = static_cast<Point>(i);
    if (!infos[i].per_layer && wants(point, -1)) found.push_back({point, -1});
  };
  // Points of a layer stand together in points.def: embed first, then the layers, then what follows them.
  int32_t first = 0, last = n_points;
  while (!infos[first].per_layer) whole(first++);
  while (!infos[last - 1].per_layer) --last;
  size_t n_layers = 0;
  for (const auto& layers : wanted_) n_layers = std::max(n_layers, layers.size());
  for (int32_t l = 0; l < static_cast<int32_t>(n_layers); ++l)
    for (int32_t i = first; i < last; ++i)
      if (wants(static_cast<Point>(i), l)) found.push_back({static_cast<Point>(i), l});
  for (int32_t i = last; i < n_points; ++i) whole(i);
  return found;
}

}  // namespace signalbox::probes
