#include "eval/findings/scope.h"

#include <algorithm>
#include <span>

#include "base/text.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_named = 8;

// "12" where all are alike, else "8 to 12".
std::string range_text(const std::vector<int64_t>& numbers) {
  const auto [least, most] = std::minmax_element(numbers.begin(), numbers.end());
  return *least == *most ? std::to_string(*least) : std::to_string(*least) + " to " + std::to_string(*most);
}

// How many records are compared, of main interventions by name and of others by kind.
std::string compared_text(const RunFindings& findings, const PartialRun& partial) {
  std::vector<std::string> named;
  std::vector<int64_t> main, controls, audited;
  std::string baseline;
  for (size_t i = 0; i < findings.interventions.size(); ++i) {
    const Intervention& one = findings.interventions[i];
    const int64_t n = partial.compared.at(i);
    if (one.name == findings.baseline) {
      baseline = one.name + " " + std::to_string(n);
    } else if (one.audited) {
      audited.push_back(n);
    } else if (one.control != ControlKind::none) {
      controls.push_back(n);
    } else {
      main.push_back(n);
      named.push_back(one.name + " " + std::to_string(n));
    }
  }
  std::vector<std::string> parts = {baseline};
  if (named.size() > most_named)
    parts.push_back(std::to_string(named.size()) + " interventions " + range_text(main));
  else
    parts.insert(parts.end(), named.begin(), named.end());
  if (!controls.empty()) parts.push_back(std::to_string(controls.size()) + " controls " + range_text(controls));
  if (!audited.empty()) parts.push_back(std::to_string(audited.size()) + " of the audit " + range_text(audited));
  return joined(parts);
}

std::string short_scope(const RunFindings& findings) {
  std::string text;
  if (findings.partial)
    text = "partial " + std::to_string(findings.partial->samples) + "/" + std::to_string(findings.partial->of);
  if (findings.limit) text += (text.empty() ? "limit " : ", limit ") + std::to_string(findings.limit->n);
  return text;
}

}  // namespace

std::vector<std::string> scope_lines(const RunFindings& findings) {
  std::vector<std::string> lines;
  if (findings.partial) {
    const PartialRun& partial = *findings.partial;
    lines.push_back("partial: " + std::to_string(partial.samples) + " of " + std::to_string(partial.of) +
                    " samples; the run is not finished, and all numbers will change");
    lines.push_back("compared are records that an intervention and the baseline have finished, of " +
                    std::to_string(partial.records) + ": " + compared_text(findings, partial));
  }
  if (findings.limit)
    lines.push_back("limited: the first " + std::to_string(findings.limit->n) +
                    " records of each split and condition, " + std::to_string(findings.limit->records) + " of " +
                    std::to_string(findings.limit->whole) + " (--limit)");
  return lines;
}

std::string scope_text(const RunFindings& findings) {
  std::string text;
  for (const std::string& line : scope_lines(findings)) text += line + "\n";
  return text.empty() ? text : text + "\n";
}

std::string scope_markdown(const RunFindings& findings) {
  std::string text;
  for (const std::string& line : scope_lines(findings)) text += (text.empty() ? "> " : ">\n> ") + line + "\n";
  return text.empty() ? text : text + "\n";
}

void mark_scope(FindingsTable& table, const RunFindings& findings) {
  const std::string scope = short_scope(findings);
  if (scope.empty()) return;
  table.columns.push_back({"", TableColumn::Kind::text, {"scope"}});
  for (TableRow& row : table.rows) row.cells.emplace_back(scope);
  const std::vector<std::string> lines = scope_lines(findings);
  table.notes.insert(table.notes.begin(), lines.begin(), lines.end());
}

json::Value limit_json(const RecordLimit& limit) {
  return json::Value::object().set("n", limit.n).set("records", limit.records).set("whole", limit.whole);
}

RecordLimit read_limit(const json::Ref& limit) {
  return {limit.at("n").size(), limit.at("records").size(), limit.at("whole").size()};
}

void append_scope(json::Value& metrics, const RunFindings& findings) {
  if (findings.partial) {
    const PartialRun& partial = *findings.partial;
    json::Value compared = json::Value::object();
    for (size_t i = 0; i < findings.interventions.size(); ++i)
      compared.append_member(findings.interventions[i].name, partial.compared.at(i));
    json::Value one = json::Value::object();
    one.set("samples", partial.samples).set("of", partial.of).set("records", partial.records);
    metrics.append_member("partial", one.set("interventions", std::move(compared)));
  }
  if (findings.limit) metrics.append_member("limit", limit_json(*findings.limit));
}

void read_scope(const json::Ref& metrics, RunFindings& findings) {
  if (const auto found = metrics.find("partial")) {
    PartialRun partial = {found->at("samples").size(), found->at("of").size(), found->at("records").size(), {}};
    for (const Intervention& one : findings.interventions)
      partial.compared.push_back(found->at("interventions").at(one.name).size());
    findings.partial = std::move(partial);
  }
  if (const auto limit = metrics.find("limit")) findings.limit = read_limit(*limit);
}

}  // namespace signalbox::eval
