// What a run found, in five plain sentences: for people before they read a table.
#pragma once
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

// One effect of a run, and words for it. The metric is a share: its values are 0 or 1.
struct EffectStory {
  std::string asked;          // the question that the run answers
  std::string intervention;   // name
  std::string changed;        // what it does: "with these 8 experts switched off"
  std::string metric;         // name
  std::string condition;      // of the records where the effect is expected; empty: all
  std::string counted;        // what the metric counts there: "right answers without a document"
  std::string elsewhere;      // condition where no effect is expected; empty: none
  std::string counted_there;  // "right answers with a document"
};

// Five sentences that are true whatever was found, also when nothing was: what was asked; what was found, with interval
// and p; what the controls did; how sure that is; where the report lies. Throws Error when the findings have no such
// intervention, metric or condition.
std::vector<std::string> effect_sentences(const RunFindings& findings, const EffectStory& story,
                                          const std::string& report);

}  // namespace signalbox::eval
