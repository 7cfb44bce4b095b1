// What the edits of interventions did, summed over samples: files, tables, and what a reader should be careful with.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/findings/findings.h"
#include "eval/findings/table.h"
#include "eval/findings/values.h"

namespace signalbox::eval {

// Over the records that are kept ([record] 1 = is); nullopt where no sample of them was counted.
std::optional<EditTotals> total_edits(const InterventionValues& intervention, const std::vector<uint8_t>& kept);

// {edits, edits_routes, run_tokens, edited_tokens, token_share, run_slots, edited_slots, slot_share, records,
// untouched_records}; shares of nothing are null. And back; throws Error naming the key.
json::Value edit_totals_json(const EditTotals& totals);
EditTotals read_edit_totals(const json::Ref& object);

// Main interventions that have edits: tokens edited of those run, slots changed, records without an edited token. No
// rows where nothing was counted.
FindingsTable edit_table(const RunFindings& findings);

// One text each, for people: edits that acted on no token, or changed no slot, and records that they did not reach.
std::vector<std::string> edit_cautions(const RunFindings& findings);

}  // namespace signalbox::eval
