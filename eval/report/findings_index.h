// The findings of a run by name, condition by condition, as the sections of its report ask for them.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/findings.h"
#include "eval/findings/tables.h"

namespace signalbox::eval {

// A condition's name, or "all records" for the empty one.
std::string records_name(const std::string& condition);

// From so many points on those of a grid are told together.
inline constexpr size_t many_points = 5;

// Main interventions that are told together: the points of a large grid, or one by itself.
struct TogetherTold {
  std::string entry;
  std::vector<std::string> names;
  bool grid() const { return names.size() >= many_points; }
};

class FindingsIndex {
 public:
  explicit FindingsIndex(const RunFindings& run);

  const RunFindings& run() const { return run_; }
  const std::string& baseline() const { return run_.baseline; }
  const std::vector<std::string>& metrics() const { return run_.metrics; }
  const std::vector<ResultRow>& main_rows() const { return main_; }  // over all records
  int64_t resamples() const { return run_.resamples; }
  int64_t family() const { return family_; }  // primary contrasts
  bool shows(const ResultRow& row) const;     // its q, or p where it has none, is below the level of tests
  bool has_controls(ControlKind kind) const;
  bool has_controls() const { return !controls_.empty(); }
  const Intervention& intervention(const std::string& name) const {
    return run_.interventions[run_.intervention_index(name)];
  }
  // The conditions, in the order of the run, and last "", all records together.
  const std::vector<std::string>& conditions() const { return conditions_; }
  // Over the records of a condition. Null for the baseline.
  const ResultRow* row(const std::string& name, const std::string& metric, const std::string& condition = "") const;
  // Whether any intervention differs from the baseline under any condition, or cannot be compared with it.
  bool moves(const std::string& metric) const;
  // Defined differences of an intervention's controls.
  std::vector<double> differences_of(const std::string& name, ControlKind kind, const std::string& metric,
                                     const std::string& condition = "") const;
  std::vector<double> uses_of(const std::string& name, ControlKind kind) const;
  // Neither controls nor the audit, in the order of the run.
  std::vector<std::string> main_names() const;
  std::vector<TogetherTold> together() const;
  // Whether its difference is exactly 0 under every condition.
  bool changes_nothing(const std::string& name, const std::string& metric) const;

 private:
  const RunFindings& run_;
  std::map<std::pair<std::string, ControlKind>, std::vector<std::string>> controls_;  // of, kind
  std::map<std::tuple<std::string, std::string, std::string>, ResultRow> all_;        // condition, intervention, metric
  std::vector<ResultRow> main_;
  std::vector<std::string> conditions_;
  int64_t family_ = 0;
};

}  // namespace signalbox::eval
