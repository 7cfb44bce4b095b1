#include "eval/causal/patch_points.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace signalbox::eval {

using namespace probes;

namespace {

constexpr std::array<std::pair<PatchBy, std::string_view>, 5> granularities = {{{PatchBy::natural, "natural"},
                                                                                {PatchBy::position, "position"},
                                                                                {PatchBy::unit, "unit"},
                                                                                {PatchBy::both, "both"},
                                                                                {PatchBy::whole, "whole"}}};

bool patchable(Point point) {
  return point_info(point).writable || point == Point::attn_pattern || point == Point::router_logits ||
         point == Point::router_ids || point == Point::router_weights || point == Point::expert_contribution;
}

std::string patchable_names() {
  std::string names;
  for (int32_t i = 0; i < n_points; ++i)
    if (patchable(static_cast<Point>(i)))
      names += (names.empty() ? "" : ", ") + std::string(point_info(static_cast<Point>(i)).name);
  return names;
}

}  // namespace

PatchBy parse_patch_by(std::string_view name, const std::string& where) {
  for (const auto& [by, known] : granularities)
    if (known == name) return by;
  throw Error(where, "expected natural, position, unit, both or whole, found \"" + std::string(name) + "\"");
}

std::string_view patch_by_name(PatchBy by) { return granularities[static_cast<size_t>(by)].second; }

bool patched_by_head(Point point) {
  return point == Point::attn_q || point == Point::attn_k || point == Point::attn_v || point == Point::attn_z ||
         point == Point::attn_pattern;
}

bool patched_by_expert(Point point) {
  return point == Point::router_logits || point == Point::expert_hidden || point == Point::expert_out ||
         point == Point::expert_contribution;
}

PatchPoints patch_points(std::string_view globs, const ModelShape& shape) {
  PatchPoints found;
  for (size_t begin = 0; begin <= globs.size();) {
    const size_t end = std::min(globs.find(',', begin), globs.size());
    // One by one: a set of several globs would record routers of every layer that any of them names.
    for (const PointAt& at : PointSet::parse(globs.substr(begin, end - begin), shape).all()) {
      if (!patchable(at.point)) {
        const std::string name(point_info(at.point).name);
        if (std::find(found.left_out.begin(), found.left_out.end(), name) == found.left_out.end())
          found.left_out.push_back(name);
      } else if (std::find(found.points.begin(), found.points.end(), at) == found.points.end()) {
        found.points.push_back(at);
      }
    }
    begin = end + 1;
  }
  if (found.points.empty())
    throw Error("--points", "expected a point that can be patched (" + patchable_names() + "), found \"" +
                                std::string(globs) + "\"");
  std::stable_sort(found.points.begin(), found.points.end(), [&](const PointAt& a, const PointAt& b) {
    const auto rank = [&](const PointAt& at) {
      return std::pair(at.layer >= 0 ? at.layer : at.point == Point::embed ? -1 : shape.n_layers(), at.point);
    };
    return rank(a) < rank(b);
  });
  return found;
}

std::vector<PatchUnit> head_units(const PointAt& at, const ModelShape& shape) {
  const AttentionShape& a = shape.layers[static_cast<size_t>(at.layer)].attention;
  // A latent is read twice: d_value of a key's floats are the latent, the rest its rotated part.
  const bool latent = a.d_value != a.d_key;
  if (at.point == Point::attn_k && latent)
    return {{"latent", -1, 0, a.d_value}, {"rope", -1, a.d_value, a.d_key - a.d_value}};
  const bool by_kv_head = at.point == Point::attn_k || at.point == Point::attn_v;
  const int64_t width = at.point == Point::attn_q || at.point == Point::attn_k ? a.d_key
                        : at.point == Point::attn_v                            ? a.d_value
                                                                               : a.d_z;
  std::vector<PatchUnit> units;
  for (int64_t h = 0; h < (by_kv_head ? a.n_kv_heads : a.n_heads); ++h)
    units.push_back({std::to_string(h), -1, h * width, width});
  return units;
}

PatchPlace patch_place(const PointAt& at, const ModelShape& shape) {
  const int32_t n_layers = shape.n_layers();
  switch (at.point) {
    case Point::embed: return {0, 0, true};
    case Point::final_normed: return {n_layers, n_layers, false};
    case Point::resid_in: return {at.layer, at.layer, true};
    case Point::resid_out:
    case Point::moe_out:
    case Point::mlp_out:
    case Point::shared_out:
    case Point::expert_out:
    case Point::expert_contribution: return {at.layer + 1, at.layer + 1, true};
    default: return {at.layer, at.point < Point::router_logits ? at.layer : at.layer + 1, false};
  }
}

}  // namespace signalbox::eval
