// What a reader of findings should know of the data behind them: where experts were chosen, and how many of the tested
// records say something new.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/data/examples.h"

namespace signalbox::eval {

// A file that experts were taken from.
struct RankingOrigin {
  std::string path;     // the first place of the spec that names it: "interventions[1].edits[0].experts.from"
  std::string file;     // as the spec spells it
  std::string problem;  // why nobody knows which prompts chose it; empty: they are known, and none of them is tested
};

struct DataFacts {
  std::vector<RankingOrigin> rankings;
  int64_t shared_between_splits = 0;  // records whose prompt is one side of a different pair in another split
  std::string first_shared;           // id of one
  PromptCopies copies;                // among the tested records
};

// Sentences of caution, for standard error, log.txt and the report.
std::vector<std::string> cautions_of(const DataFacts& data);

// "data" of metrics.json, and of plan.json (where `copies` is not known and left out): {records, examples, copies,
// shared_prompts, first_repeated, named_examples, shared_between_splits, first_shared, rankings: [{path, file,
// problem}]}.
json::Value data_facts_json(const DataFacts& data);
DataFacts read_data_facts(const json::Ref& data);

}  // namespace signalbox::eval
