// What findings are about where it is less than the whole run: the samples that were finished, the first records. Every
// table, report and file that is made of such findings says so.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/findings/findings.h"
#include "eval/findings/table.h"

namespace signalbox::eval {

// Lines for people, the first of each kind beginning with "partial: 412 of 624 samples" or "limited: "; none for the
// findings of a whole run.
std::vector<std::string> scope_lines(const RunFindings& findings);

// The same for the top of a terminal's text and of a Markdown file, with the blank line that follows; empty for a whole
// run.
std::string scope_text(const RunFindings& findings);
std::string scope_markdown(const RunFindings& findings);

// A table that leaves the company of those lines: a column `scope` in spreadsheets, comments in LaTeX.
void mark_scope(FindingsTable& table, const RunFindings& findings);

// "partial" = {samples, of, records, interventions: {NAME: records compared}} and "limit" = {n, records, whole} of
// metrics.json, each where it applies.
void append_scope(json::Value& metrics, const RunFindings& findings);
void read_scope(const json::Ref& metrics, RunFindings& findings);

// "limit" by itself, which plan.json holds too.
json::Value limit_json(const RecordLimit& limit);
RecordLimit read_limit(const json::Ref& limit);

}  // namespace signalbox::eval
