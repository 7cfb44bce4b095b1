// What an intervention of a run is, whatever is done with it: specs, schedules, bound edits, values and findings all
// describe it with this.
#pragma once
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "base/no_number.h"

namespace signalbox::eval {

enum class ControlKind : uint8_t { none, random, frequency_matched, bottom };

// "random", ...; none: "none".
const char* control_name(ControlKind kind);
// Throws Error at `name` when it is no kind of control.
ControlKind parse_control(const json::Ref& name);

// Keys and values of one point of a grid, in the order of the grid's keys.
using GridPoint = std::vector<std::pair<std::string, json::Value>>;

struct ExpertId {
  int32_t layer = 0, expert = 0;
  auto operator<=>(const ExpertId&) const = default;
};

struct Intervention {
  std::string name;         // "off", "mis/policy=random,fraction=0.25", "off/random-0", "audit/L3E5"
  std::string entry;        // of the spec: the name up to its first '/'; "audit" for the audit's
  std::string description;  // for people: "ban 8 experts in layers 1-5"
  std::string control_of;   // name of the intervention that this one is a control of; empty: not a control
  ControlKind control = ControlKind::none;
  GridPoint grid;                   // empty: no point of a grid
  std::vector<ExpertId> experts;    // that its edits name, ascending; not kept of controls and the audit's
  std::optional<ExpertId> audited;  // the audit's: the expert that is ablated by itself
  double use = no_number;  // share of the baseline's tokens that select one of its experts, a mean over them; undefined
                           // where it names none, or use was not counted
  int64_t shared = 0;      // a drawn control's: how many of its experts are named ones, for want of others
  bool first_seed_only = false;  // of several seeds no other would change anything

  // Neither a control nor one of the audit's: what tables and reports show in rows of its own.
  bool is_main() const { return control_of.empty() && !audited; }
};

// "audit/L3E5", and back; nullopt for every other name.
std::string audit_name(const ExpertId& expert);
std::optional<ExpertId> parse_audit_name(std::string_view name);

// {"3": [5, 17]}, by layer, and back; `experts` ascending.
json::Value experts_json(const std::vector<ExpertId>& experts);
std::vector<ExpertId> parse_experts(const json::Ref& by_layer);  // throws Error
// "layer 3: 5, 17; layer 4: 2"
std::string experts_text(const std::vector<ExpertId>& experts);

// "ban 8 experts in layers 1-3 (layer 1: 0, 6; ...)": the description, and its experts where they are no more than
// few_experts.
std::string intervention_text(const Intervention& intervention);
inline constexpr size_t few_experts = 32;

// "detect:NAME" in an edit's "from" is the ranking of a stage of detection.
inline constexpr std::string_view detect_prefix = "detect:";
// A text among the keys of an edit's ranking: "from", "by"; empty where the edit has none.
std::string ranking_text(const json::Value& edit, const char* key);
// Whether it ranks by a column that only tells how often experts are selected.
bool ranks_by_selection(const json::Value& edit);
// The stage of detection that an edit takes its experts from; nullopt: none.
std::optional<std::string> detect_stage_of(const json::Value& edit);

}  // namespace signalbox::eval
