#include "eval/findings/intervention.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace signalbox::eval {

namespace {

constexpr std::string_view audit_prefix = "audit/L";

// Takes a whole number off the front of `text`.
std::optional<int32_t> take_number(std::string_view& text) {
  int32_t number = 0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (bad != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

}  // namespace

const char* control_name(ControlKind kind) {
  switch (kind) {
    case ControlKind::random: return "random";
    case ControlKind::frequency_matched: return "frequency_matched";
    case ControlKind::bottom: return "bottom";
    case ControlKind::none: break;
  }
  return "none";
}

ControlKind parse_control(const json::Ref& name) {
  for (const ControlKind kind : {ControlKind::random, ControlKind::frequency_matched, ControlKind::bottom})
    if (name.string() == control_name(kind)) return kind;
  name.fail("expected a kind of control, found \"" + name.string() + "\"");
}

std::string audit_name(const ExpertId& expert) {
  return std::string(audit_prefix) + std::to_string(expert.layer) + "E" + std::to_string(expert.expert);
}

std::optional<ExpertId> parse_audit_name(std::string_view name) {
  if (!name.starts_with(audit_prefix)) return std::nullopt;
  name.remove_prefix(audit_prefix.size());
  const std::optional<int32_t> layer = take_number(name);
  if (!layer || !name.starts_with('E')) return std::nullopt;
  name.remove_prefix(1);
  const std::optional<int32_t> expert = take_number(name);
  if (!expert || !name.empty()) return std::nullopt;
  return ExpertId{*layer, *expert};
}

json::Value experts_json(const std::vector<ExpertId>& experts) {
  json::Value out = json::Value::object();
  for (size_t i = 0; i < experts.size();) {
    json::Value list = json::Value::array();
    const int32_t layer = experts[i].layer;
    for (; i < experts.size() && experts[i].layer == layer; ++i) list.push_back(int64_t{experts[i].expert});
    out.set(std::to_string(layer), std::move(list));
  }
  return out;
}

std::vector<ExpertId> parse_experts(const json::Ref& by_layer) {
  std::vector<ExpertId> out;
  for (const auto& [layer, list] : by_layer.members()) {
    std::string_view text = layer;
    const std::optional<int32_t> number = take_number(text);
    if (!number || !text.empty()) by_layer.fail("expected layers as keys, found \"" + layer + "\"");
    for (const json::Ref& expert : list.items())
      out.push_back({*number, static_cast<int32_t>(expert.integer(0, INT32_MAX))});
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string experts_text(const std::vector<ExpertId>& experts) {
  std::string out;
  for (size_t i = 0; i < experts.size(); ++i) {
    const bool next = i == 0 || experts[i].layer != experts[i - 1].layer;
    if (next) out += (i ? "; layer " : "layer ") + std::to_string(experts[i].layer) + ": ";
    out += (next ? "" : ", ") + std::to_string(experts[i].expert);
  }
  return out;
}

std::string intervention_text(const Intervention& intervention) {
  const std::vector<ExpertId>& experts = intervention.experts;
  if (experts.empty() || experts.size() > few_experts) return intervention.description;
  return intervention.description + " (" + experts_text(experts) + ")";
}

std::string ranking_text(const json::Value& edit, const char* key) {
  const json::Value* experts = edit.type() == json::Type::object ? edit.find("experts") : nullptr;
  const json::Value* found = experts && experts->type() == json::Type::object ? experts->find(key) : nullptr;
  return found && found->is_string() ? found->string() : std::string();
}

bool ranks_by_selection(const json::Value& edit) {
  constexpr std::array columns = {"", "rd", "rd_example", "rd_shrunk", "log_odds"};
  return std::find(columns.begin(), columns.end(), ranking_text(edit, "by")) != columns.end();
}

std::optional<std::string> detect_stage_of(const json::Value& edit) {
  const std::string from = ranking_text(edit, "from");
  if (!from.starts_with(detect_prefix)) return std::nullopt;
  return from.substr(detect_prefix.size());
}

}  // namespace signalbox::eval
