// Which prompts chose the experts that a spec takes from files, and that none of them is tested.
#pragma once
#include <string>
#include <vector>

#include "eval/data/records.h"
#include "eval/experiment/spec.h"
#include "eval/findings/data_facts.h"

namespace signalbox::eval {

// A record that is to be tested or tuned on, with the hashes by which its prompt may be known (prompt_hashes; without a
// model that of its line).
struct EvaluatedRecord {
  const Record* record = nullptr;
  std::vector<std::string> hashes;
};

// What is known without a model: those of the line, and of what a prompt program changed.
EvaluatedRecord evaluated_without_model(const Record& record);

// Throws Error where a ranking's file is not there; where the summary.json beside it has "prompts" and one of them is
// evaluated, naming the records and the ranking (for rd.csv those of its contrast, for other tables of that directory
// also those of "not_in_contrast"); where it lists "records" alone, as analyses did before, and one of these ids is.
// Returns every file once, with what is not known of its origin.
std::vector<RankingOrigin> check_rankings(const ExperimentSpec& spec, const std::vector<EvaluatedRecord>& evaluated);

}  // namespace signalbox::eval
