#include "eval/findings/findings.h"

#include <algorithm>

#include "base/error.h"
#include "base/near_names.h"

namespace signalbox::eval {

namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& name) {
  throw Error("metrics.json", what + ": expected the key \"" + name + "\", found none");
}

}  // namespace

bool PrimaryContrasts::has(std::string_view intervention, std::string_view metric) const {
  return std::find(interventions.begin(), interventions.end(), intervention) != interventions.end() &&
         std::find(metrics.begin(), metrics.end(), metric) != metrics.end();
}

size_t RunFindings::intervention_index(const std::string& name) const {
  for (size_t i = 0; i < interventions.size(); ++i)
    if (interventions[i].name == name) return i;
  refuse("interventions", name);
}

size_t RunFindings::metric_index(const std::string& name) const {
  const auto found = std::find(metrics.begin(), metrics.end(), name);
  if (found == metrics.end()) refuse("metrics", name);
  return static_cast<size_t>(found - metrics.begin());
}

const RecordFindings& RunFindings::of_condition(const std::string& condition) const {
  if (condition.empty()) return all;
  for (const ConditionFindings& one : conditions)
    if (one.condition == condition) return one.found;
  throw Error("condition", wrong_name("a condition of the run's records", condition,
                                      names_of(conditions, &ConditionFindings::condition)));
}

}  // namespace signalbox::eval
