#include "eval/report/findings_index.h"

#include <algorithm>
#include <cmath>

#include "eval/findings/intervals.h"

namespace signalbox::eval {

std::string records_name(const std::string& condition) { return condition.empty() ? "all records" : condition; }

FindingsIndex::FindingsIndex(const RunFindings& run) : run_(run), main_(result_rows(run, RowChoice::main)) {
  for (const Intervention& one : run.interventions)
    if (one.control != ControlKind::none) controls_[{one.control_of, one.control}].push_back(one.name);
  for (const ConditionFindings& one : run.conditions) conditions_.push_back(one.condition);
  conditions_.push_back("");
  for (const std::string& condition : conditions_)
    for (ResultRow& row : result_rows(run, RowChoice::all, condition)) {
      if (condition.empty() && std::isfinite(row.p) && run.primary.has(row.intervention, row.metric)) ++family_;
      const auto key = std::tuple(condition, row.intervention, row.metric);
      all_[key] = std::move(row);
    }
}

bool FindingsIndex::shows(const ResultRow& row) const { return (std::isfinite(row.q) ? row.q : row.p) < test_level; }

bool FindingsIndex::has_controls(ControlKind kind) const {
  return std::any_of(controls_.begin(), controls_.end(), [&](const auto& one) { return one.first.second == kind; });
}

const ResultRow* FindingsIndex::row(const std::string& name, const std::string& metric,
                                    const std::string& condition) const {
  const auto found = all_.find({condition, name, metric});
  return found == all_.end() ? nullptr : &found->second;
}

bool FindingsIndex::changes_nothing(const std::string& name, const std::string& metric) const {
  for (const std::string& condition : conditions_) {
    const ResultRow* one = row(name, metric, condition);
    if (!one || one->difference.value != 0) return false;
  }
  return true;
}

bool FindingsIndex::moves(const std::string& metric) const {
  for (const std::string& name : main_names())
    if (!changes_nothing(name, metric)) return true;
  return false;
}

std::vector<TogetherTold> FindingsIndex::together() const {
  std::vector<TogetherTold> out;
  const std::vector<std::string> names = main_names();
  for (size_t begin = 0, end = 0; begin < names.size(); begin = end) {
    const std::string& entry = intervention(names[begin]).entry;
    while (end < names.size() && intervention(names[end]).entry == entry) ++end;
    const std::vector<std::string> points(names.begin() + static_cast<int64_t>(begin),
                                          names.begin() + static_cast<int64_t>(end));
    if (points.size() >= many_points)
      out.push_back({entry, points});
    else
      for (const std::string& name : points) out.push_back({entry, {name}});
  }
  return out;
}

std::vector<double> FindingsIndex::differences_of(const std::string& name, ControlKind kind, const std::string& metric,
                                                  const std::string& condition) const {
  std::vector<double> out;
  const auto found = controls_.find({name, kind});
  if (found == controls_.end()) return out;
  for (const std::string& control : found->second)
    if (const double difference = all_.at({condition, control, metric}).difference.value; std::isfinite(difference))
      out.push_back(difference);
  return out;
}

std::vector<double> FindingsIndex::uses_of(const std::string& name, ControlKind kind) const {
  std::vector<double> out;
  const auto found = controls_.find({name, kind});
  if (found == controls_.end()) return out;
  for (const std::string& control : found->second)
    if (const double use = intervention(control).use; std::isfinite(use)) out.push_back(use);
  return out;
}

std::vector<std::string> FindingsIndex::main_names() const {
  std::vector<std::string> out;
  for (const ResultRow& row : main_)
    if (row.metric == main_.front().metric) out.push_back(row.intervention);
  return out;
}

}  // namespace signalbox::eval
