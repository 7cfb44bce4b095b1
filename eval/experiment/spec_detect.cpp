#include "eval/experiment/spec_detect.h"

#include <algorithm>

#include "base/text.h"

namespace signalbox::eval {

namespace {

void read_contrast(const json::Ref& contrast, DetectSpec& out) {
  if (contrast.value().type() == json::Type::array) {
    if (contrast.length() != 2) contrast.fail_type("\"A:B\" or [\"A\", \"B\"]");
    out.a = contrast[0].string();
    out.b = contrast[1].string();
  } else {
    const std::string& text = contrast.string();
    const size_t colon = text.find(':');
    if (colon == std::string::npos || text.find(':', colon + 1) != std::string::npos)
      contrast.fail_type("\"A:B\" or [\"A\", \"B\"]");
    out.a = text.substr(0, colon);
    out.b = text.substr(colon + 1);
  }
  if (out.a.empty() || out.b.empty() || out.a == out.b) contrast.fail_type("two different conditions as \"A:B\"");
}

// A stage without a grid.
DetectSpec read_point(const std::string& name, const json::Ref& ref, bool generates) {
  DetectSpec out;
  out.name = name;
  read_contrast(ref.at("contrast"), out);
  json::Value tokens = json::Value::object();
  for (const char* key : {"span", "phase"})
    if (auto found = ref.find(key)) tokens.set(key, found->value());
  const TokenSelector selected = TokenSelector::parse(json::Ref(tokens, ref.where(), ref.path()));
  out.span = selected.span;
  out.phase = ref.find("phase") ? selected.phase : Phase::given;
  if (auto match = ref.find("length_match")) out.length_match = match->boolean();
  if (auto top = ref.find("stable_top")) out.stable_top = top->integer(1, int64_t{1} << 40);
  if (auto held_out = ref.find("held_out")) out.held_out = held_out->boolean();
  if (auto contributions = ref.find("contributions")) out.contributions = contributions->boolean();
  if (out.phase == Phase::generated) {
    if (!generates) ref.at("phase").fail("expected \"generate\" in the spec for generated tokens, found none");
    if (!out.span.empty()) ref.at("span").fail("expected no span beside generated tokens, which are in none");
  }
  return out;
}

json::Value with_stage(const json::Value& edits, const std::string& entry, const std::string& stage) {
  json::Value out = json::Value::array();
  for (json::Value edit : edits.items()) {
    if (detect_stage_of(edit) == entry) {
      json::Value experts = *edit.find("experts");
      experts.set("from", std::string(detect_prefix) + stage);
      edit.set("experts", std::move(experts));
    }
    out.push_back(std::move(edit));
  }
  return out;
}

// The stage with a grid that these edits take experts from; empty: none.
std::string gridded_stage(const json::Value& edits, const json::Ref& entry, const std::vector<DetectSpec>& stages) {
  std::string found;
  if (edits.type() != json::Type::array) return found;
  for (const json::Value& edit : edits.items()) {
    const std::optional<std::string> name = detect_stage_of(edit);
    const bool gridded = name && std::any_of(stages.begin(), stages.end(), [&](const DetectSpec& stage) {
                           return stage.entry == *name && !stage.grid.empty();
                         });
    if (!gridded || *name == found) continue;
    if (!found.empty())
      entry.fail("expected experts from one stage of detection with a grid, found \"" + found + "\" and \"" + *name +
                 "\"");
    found = *name;
  }
  return found;
}

}  // namespace

std::vector<DetectSpec> read_detect_stage(const std::string& name, const json::Ref& ref, bool generates) {
  ref.expect_object();
  ref.reject_unknown({"contrast", "span", "phase", "length_match", "stable_top", "held_out", "contributions", "grid"});
  const auto grid = ref.find("grid");
  if (!grid) {
    std::vector<DetectSpec> only = {read_point(name, ref, generates)};
    only[0].entry = name;
    return only;
  }
  for (const auto& [key, values] : grid->members()) {
    if (key != "span" && key != "phase" && key != "length_match")
      grid->fail("expected keys among span, phase and length_match, found \"" + key + "\"");
    if (ref.find(key)) values.fail("expected the key here or in the stage itself, found both");
  }
  std::vector<DetectSpec> points;
  for (NamedPoint& point : grid_points(*grid, name)) {
    json::Value keys = json::Value::object();
    for (const auto& [key, value] : ref.value().members())
      if (key != "grid") keys.set(key, value);
    for (const auto& [key, value] : point.values)
      if (!value.is_null()) keys.set(key, value);
    const json::Ref own(keys, ref.where(), ref.path() + " (" + point.name + ")");
    DetectSpec out = read_point(name + "/" + point.name, own, generates);
    out.entry = name;
    out.grid = std::move(point.values);
    for (const DetectSpec& other : points)
      if (other.span == out.span && other.phase == out.phase && other.length_match == out.length_match)
        grid->fail("expected points that differ, found " + in_quotes(other.name) + " and " + in_quotes(out.name));
    points.push_back(std::move(out));
  }
  return points;
}

std::vector<ExpandedEdits> over_detection(std::vector<ExpandedEdits> points, const std::string& name,
                                          const json::Ref& entry, const std::vector<DetectSpec>& stages) {
  std::vector<ExpandedEdits> out;
  for (ExpandedEdits& point : points) {
    const std::string gridded = gridded_stage(point.edits, entry, stages);
    if (gridded.empty()) {
      out.push_back(std::move(point));
      continue;
    }
    const std::string own = point.grid.empty() ? "" : "," + point.name.substr(name.size() + 1);
    for (const DetectSpec& stage : stages) {
      if (stage.entry != gridded) continue;
      ExpandedEdits chosen;
      chosen.name = name + stage.name.substr(gridded.size()) + own;
      chosen.edits = with_stage(point.edits, gridded, stage.name);
      chosen.grid = stage.grid;
      for (const auto& one : point.grid) {
        const auto& key = one.first;
        if (std::any_of(stage.grid.begin(), stage.grid.end(), [&](const auto& item) { return item.first == key; }))
          entry.at("grid").fail("expected other keys than those of the grid of \"detect:" + gridded + "\", found \"" +
                                key + "\"");
        chosen.grid.push_back(one);
      }
      if (chosen.name.size() - name.size() - 1 > max_point_name)
        entry.fail("expected points whose names are at most " + std::to_string(max_point_name) +
                   " bytes long, found \"" + chosen.name + "\"");
      out.push_back(std::move(chosen));
      if (static_cast<int64_t>(out.size()) > max_grid_points)
        entry.fail("expected at most " + std::to_string(max_grid_points) + " points, found more");
    }
  }
  return out;
}

}  // namespace signalbox::eval
