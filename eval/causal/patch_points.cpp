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
  std::stable_sort(found.points.begin(), found.points.end(),
                   [&](const PointAt& a, const PointAt& b) { return comes_before(a, b, shape); });
  return found;
}

bool comes_before(const PointAt& a, const PointAt& b, const ModelShape& shape) {
  const auto rank = [&](const PointAt& at) {
    return std::pair(at.layer >= 0 ? at.layer : at.point == Point::embed ? -1 : shape.n_layers(), at.point);
  };
  return rank(a) < rank(b);
}

std::vector<NamedExchange> named_exchanges(std::string_view text, const ModelShape& shape, const std::string& where) {
  std::vector<NamedExchange> found;
  const auto number = [](std::string_view digits) -> int64_t {
    if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string_view::npos)
      return -1;
    return std::stoll(std::string(digits));
  };
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view item = text.substr(begin, end - begin);
    begin = end + 1;
    const auto fail = [&](const std::string& expected) {
      return UsageError(where, "expected " + expected + ", found \"" + std::string(item) + "\"");
    };
    NamedExchange named;
    named.text = item;
    const size_t at = item.find('@'), colon = item.find(':');
    if (at != std::string_view::npos && (named.position = number(item.substr(at + 1))) < 0)
      throw fail("a position behind @");
    const auto point = parse_point(item.substr(0, std::min(colon, at)));
    if (!point || !patchable(point->point) || !point_exists(point->point, point->layer, shape))
      throw fail("a point in full that can be patched, such as layer.3.attn.z:2 or layer.3.resid_out@5");
    named.at = *point;
    if (colon < at) {
      const std::string unit(item.substr(colon + 1, at == std::string_view::npos ? at : at - colon - 1));
      const size_t neuron = unit.find(':');
      named.unit.name = unit;
      if (patched_by_head(point->point)) {
        const std::vector<PatchUnit> units = head_units(*point, shape);
        const auto one = std::find_if(units.begin(), units.end(), [&](const PatchUnit& u) { return u.name == unit; });
        if (one == units.end()) throw fail("one of " + std::to_string(units.size()) + " heads behind the colon");
        named.unit = *one;
      } else if (patched_by_expert(point->point)) {
        const LayerShape& layer = shape.layers[static_cast<size_t>(point->layer)];
        const int64_t expert = number(std::string_view(unit).substr(0, neuron));
        if (expert < 0 || expert >= layer.n_experts)
          throw fail("an expert below " + std::to_string(layer.n_experts) + " behind the colon");
        named.unit.expert = static_cast<int32_t>(expert);
        if (neuron != std::string::npos) {
          named.unit.first = number(std::string_view(unit).substr(neuron + 1));
          named.unit.count = 1;
          if (point->point != Point::expert_hidden || named.unit.first < 0 || named.unit.first >= layer.d_ff)
            throw fail("a neuron of expert.hidden below " + std::to_string(layer.d_ff));
        }
      } else {
        throw fail("no unit behind a point that has none");
      }
    }
    found.push_back(std::move(named));
  }
  std::stable_sort(found.begin(), found.end(),
                   [&](const NamedExchange& a, const NamedExchange& b) { return comes_before(a.at, b.at, shape); });
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
