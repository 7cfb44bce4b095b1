// The probe points (points.def) as data: their names, shapes and layers, and the frozen set of those to be recorded.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "probes/shape.h"

namespace signalbox::probes {

enum class Point : uint8_t {
#define POINT(identifier, name, per_layer, where, shape, stacked, writable) identifier,
#include "probes/points.def"
#undef POINT
};

inline constexpr int32_t n_points = 0
#define POINT(identifier, name, per_layer, where, shape, stacked, writable) +1
#include "probes/points.def"
#undef POINT
    ;

struct PointInfo {
  enum class Where : uint8_t { every, attention, moe, groups, dense, shared };
  enum class Shape : uint8_t {
    d_model,
    heads_key,        // [n_heads, d_key]
    kv_heads_key,     // [n_kv_heads, d_key]
    kv_heads_value,   // [n_kv_heads, d_value]
    heads_z,          // [n_heads, d_z]
    heads_positions,  // [n_heads, P]: P the longest sample of a trace
    n_experts,
    slots,
    scalar,
    slots_d_ff,
    slots_d_model,
    n_vocab
  };
  std::string_view name;  // without "layer.{l}."
  bool per_layer = false;
  Where where = Where::every;
  Shape shape = Shape::d_model;
  bool stacked = false;  // a trace holds one tensor of all its layers
  bool writable = false;

  bool slots() const { return shape == Shape::slots_d_ff || shape == Shape::slots_d_model; }  // a row per slot
  bool positions() const { return shape == Shape::heads_positions; }  // as wide as there are keys to look at
};

const PointInfo& point_info(Point point);

// "layer.3.resid_in", "embed". `layer` is not looked at for a point that is not of a layer.
std::string point_name(Point point, int32_t layer = -1);

// The point with this name without its layer ("resid_in", "embed").
std::optional<Point> find_point(std::string_view short_name);

struct PointAt {
  Point point = Point::embed;
  int32_t layer = -1;  // -1: not of a layer
  bool operator==(const PointAt&) const = default;
};

// Reads a full name ("layer.3.resid_in", "embed"); nullopt when no model can have it.
std::optional<PointAt> parse_point(std::string_view full_name);

// Whether the point exists in that layer of the model (-1 for points that are not of a layer).
bool point_exists(Point point, int32_t layer, const ModelShape& shape);

// Floats of one row: of one token, of one slot of a token where PointInfo::slots(), or of one key that a token looks at
// where PointInfo::positions(). n_slots is the width of router.ids and router.weights.
int64_t point_width(Point point, int32_t layer, const ModelShape& shape, int32_t n_slots);

// The shape of one token's value: {d_model}, {n_slots, d_ff}, {n_heads, d_key}, {} of a single number, ... n_positions:
// the P of PointInfo::positions().
std::vector<int64_t> point_dims(Point point, int32_t layer, const ModelShape& shape, int32_t n_slots,
                                int64_t n_positions = 0);

// The writable points' short names: "embed", "resid_in", ...
std::vector<std::string> writable_point_names();
// All points with their layers' place, for help: "embed, layer.{l}.resid_in, ...", in lines of at most 100 characters
// that begin with `indent`.
std::string point_list(std::string_view indent);

// The points to be recorded, frozen before the run.
class PointSet {
 public:
  PointSet() = default;

  // From "GLOB[,GLOB...]", the value of --points. `*` matches any run of characters, dots included; everything else
  // stands for itself. A glob is held against full names ("layer.3.router.ids") and against names without the layer
  // ("router.ids"), so `router.logits` means every layer's. A glob that matches no point of the model, or an empty one,
  // is an Error that names it.
  //
  // A trace stacks the router's points over one list of layers. So every stacked point asked for anywhere is recorded
  // in all layers in which any stacked point was asked for.
  static PointSet parse(std::string_view globs, const ModelShape& shape);

  bool empty() const { return n_wanted_ == 0; }
  bool wants(Point point, int32_t layer) const {
    const auto& layers = wanted_[static_cast<size_t>(point)];
    size_t index = static_cast<size_t>(layer < 0 ? 0 : layer);
    return index < layers.size() && layers[index];
  }
  bool wants_any(Point point) const;
  // Absolute indices of the layers with a recorded stacked point, ascending.
  std::vector<int32_t> router_layers() const;
  // All of them, in order of execution.
  std::vector<PointAt> all() const;

 private:
  void add(Point point, int32_t layer);
  // [layer] 1 = recorded; points that are not of a layer use index 0. Empty: nowhere.
  std::vector<uint8_t> wanted_[n_points];
  int64_t n_wanted_ = 0;
};

// The default of --points.
inline constexpr std::string_view default_points = "*.router.ids,*.router.weights";

}  // namespace signalbox::probes
