#include "eval/findings/edit_totals.h"

#include <algorithm>
#include <map>
#include <span>

#include "base/text.h"
#include "eval/findings/format.h"

namespace signalbox::eval {

namespace {

constexpr const char* advice =
    "Look at what must hold for a token (\"tokens\": span, phase, positions, fraction, margin_below) and at values "
    "that "
    "change nothing (scale by 1, add 0, temperature 1).";

json::Value share(int64_t part, int64_t whole) {
  return whole == 0 ? json::Value() : json::Value(static_cast<double>(part) / static_cast<double>(whole));
}

std::string part_of(int64_t part, int64_t whole) {
  const std::string text = std::to_string(part) + " of " + std::to_string(whole);
  if (whole == 0) return text;
  return text + " (" + format_value(100.0 * static_cast<double>(part) / static_cast<double>(whole), 1) + " %)";
}

std::string list_of(const std::vector<std::string>& names, size_t most = 5) {
  std::string out = joined(std::span(names).first(std::min(most, names.size())));
  if (names.size() > most) out += " and " + std::to_string(names.size() - most) + " more";
  return out;
}

bool untouched(const EditTotals& totals) { return totals.n_edits > 0 && totals.counts.edited_tokens == 0; }
bool unchanged(const EditTotals& totals) {
  return totals.routes && totals.counts.edited_tokens > 0 && totals.counts.edited_slots == 0;
}

std::string described(const Intervention& one) {
  return one.name + (one.description.empty() ? "" : " (" + one.description + ")");
}

class Cautions {
 public:
  explicit Cautions(const RunFindings& run) : run_(run) {}

  std::vector<std::string> list() {
    for (size_t i = 0; i < run_.interventions.size(); ++i)
      if (const EditTotals* totals = run_.all.edits_of(i); totals && totals->records > 0) sort(i, *totals);
    say_of_main();
    say_of_others();
    return std::move(out_);
  }

 private:
  void sort(size_t i, const EditTotals& totals) {
    const Intervention& one = run_.interventions[i];
    if (!one.is_main()) {
      const std::string of = one.audited ? "" : one.control_of;
      ++n_others_[of];
      const std::string name = one.audited ? expert_name(*one.audited) : one.name;
      if (untouched(totals)) untouched_others_[of].push_back(name);
      if (unchanged(totals)) unchanged_others_[of].push_back(name);
    } else if (untouched(totals)) {
      untouched_.push_back(described(one));
    } else {
      if (unchanged(totals)) unchanged_.push_back(described(one));
      if (totals.n_edits > 0 && totals.untouched > 0) say_of_records(i, totals);
    }
  }

  // Conditions none of whose records it touched.
  std::string whole_conditions(size_t i) const {
    std::vector<std::string> names;
    for (const ConditionFindings& one : run_.conditions)
      if (const EditTotals* totals = one.found.edits_of(i); totals && totals->records > 0 && untouched(*totals))
        names.push_back(one.condition);
    if (names.empty()) return "";
    return ", among them all of the condition" + std::string(names.size() > 1 ? "s " : " ") + list_of(names);
  }

  void say_of_records(size_t i, const EditTotals& totals) {
    records_.push_back(run_.interventions[i].name + (records_.empty() ? " acted on no token of " : " on none of ") +
                       part_of(totals.untouched, totals.records) + " records" + whole_conditions(i));
  }

  void say_of_main() {
    if (!untouched_.empty())
      out_.push_back("The edits of " + list_of(untouched_, 3) +
                     " acted on no token: what was run there is the unedited model, and differences of 0 say "
                     "nothing. " +
                     advice);
    if (!unchanged_.empty())
      out_.push_back(
          "The edits of " + list_of(unchanged_, 3) +
          " acted, but changed no expert and no weight of any token: differences of 0 say nothing. No token "
          "of these records chooses the experts that they name, or they impose the route that the model takes "
          "anyway.");
    if (!records_.empty()) {
      constexpr size_t most = 3;
      std::string text = joined(std::span(records_).first(std::min(most, records_.size())), "; those of ");
      if (records_.size() > most) text += "; and " + std::to_string(records_.size() - most) + " more likewise";
      out_.push_back("The edits of " + text +
                     ": there differences are 0 whatever the experts do, and pull means towards 0. Look at conditions "
                     "one by one, or test only records that have what the edits ask for.");
    }
  }

  static std::string expert_name(const ExpertId& id) {
    return "L" + std::to_string(id.layer) + "E" + std::to_string(id.expert);
  }

  // Controls in numbers, single-expert ablations with their experts.
  void say_of_others() {
    for (const auto& [of, n] : n_others_) {
      const std::string who = of.empty() ? "the ablated single experts" : "the controls of " + of;
      const auto some = [&, of = of, n = n](const Names& names) {
        const auto at = names.find(of);
        if (at == names.end()) return std::string();
        return part_of(static_cast<int64_t>(at->second.size()), n) +
               (of.empty() ? ": " + list_of(at->second) + "," : "");
      };
      if (const std::string none = some(untouched_others_); !none.empty())
        out_.push_back("Of " + who + " " + none +
                       " acted on no token: they are the unedited model, and comparisons with them say nothing. " +
                       advice);
      if (const std::string none = some(unchanged_others_); !none.empty())
        out_.push_back("Of " + who + " " + none +
                       " changed no expert and no weight, since no token of these records chooses their experts: " +
                       (of.empty() ? "their effects of 0 say so much and no more."
                                   : "to do more than these is easy; prefer controls matched in frequency of use."));
    }
  }

  const RunFindings& run_;
  std::vector<std::string> untouched_, unchanged_, records_, out_;
  using Names = std::map<std::string, std::vector<std::string>>;
  // By what they control; "": the audit's.
  std::map<std::string, int64_t> n_others_;
  Names untouched_others_, unchanged_others_;
};

}  // namespace

std::optional<EditTotals> total_edits(const InterventionValues& intervention, const std::vector<uint8_t>& kept) {
  if (intervention.edits.empty()) return std::nullopt;
  EditTotals totals;
  totals.n_edits = intervention.n_edits;
  totals.routes = intervention.edits_routes;
  for (const auto& [record, counts] : intervention.edits) {
    if (!kept[static_cast<size_t>(record)]) continue;
    totals.counts += counts;
    ++totals.records;
    totals.untouched += counts.edited_tokens == 0;
  }
  return totals;
}

json::Value edit_totals_json(const EditTotals& totals) {
  const EditCounts& counts = totals.counts;
  json::Value out = json::Value::object();
  out.set("edits", totals.n_edits).set("edits_routes", totals.routes);
  out.set("run_tokens", counts.tokens).set("edited_tokens", counts.edited_tokens);
  out.set("token_share", share(counts.edited_tokens, counts.tokens));
  out.set("run_slots", counts.slots).set("edited_slots", counts.edited_slots);
  out.set("slot_share", share(counts.edited_slots, counts.slots));
  out.set("records", totals.records).set("untouched_records", totals.untouched);
  return out;
}

EditTotals read_edit_totals(const json::Ref& object) {
  EditTotals out;
  out.n_edits = object.at("edits").size();
  out.routes = object.at("edits_routes").boolean();
  out.counts = {object.at("run_tokens").size(), object.at("edited_tokens").size(), object.at("run_slots").size(),
                object.at("edited_slots").size()};
  out.records = object.at("records").size();
  out.untouched = object.at("untouched_records").size();
  return out;
}

FindingsTable edit_table(const RunFindings& findings) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = "what the edits did";
  table.columns = {{"intervention", Kind::text, {}},
                   {"tokens edited", Kind::text, {}},
                   {"slots changed", Kind::text, {}},
                   {"records untouched", Kind::text, {}}};
  for (size_t i = 0; i < findings.interventions.size(); ++i) {
    const Intervention& one = findings.interventions[i];
    const EditTotals* totals = findings.all.edits_of(i);
    if (!totals || totals->n_edits == 0 || !one.is_main()) continue;
    const EditCounts& counts = totals->counts;
    table.rows.push_back({"",
                          {one.name, part_of(counts.edited_tokens, counts.tokens),
                           totals->routes ? part_of(counts.edited_slots, counts.slots) : std::string("-"),
                           std::to_string(totals->untouched) + " of " + std::to_string(totals->records)}});
  }
  table.notes = {"Tokens run at which an edit acted; slots (token x layer x expert) whose expert left or has another",
                 "weight; records none of whose tokens an edit acted on."};
  return table;
}

std::vector<std::string> edit_cautions(const RunFindings& findings) { return Cautions(findings).list(); }

}  // namespace signalbox::eval
