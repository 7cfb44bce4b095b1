// What a faithfulness study found: the files and the table.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/faithfulness/curves.h"
#include "eval/faithfulness/forced.h"
#include "eval/faithfulness/study.h"

namespace signalbox::eval {

// One kind of alteration over all explanations and steps.
struct AlterationRow {
  std::string test, policy;
  double fraction = 0;         // of a misrouting; else NaN
  int64_t n = 0;               // altered explanations
  MeanEstimate same, correct;  // NaN where answers are not generated; correct of those whose record has answers
  // Answers that are a new explanation and count as other ones: the marker stands in them, or they restate a sentence
  // of the explanation (restated.h); the latter.
  int64_t explained_again = 0, restated = 0;
  MeanEstimate jaccard, weighted;  // of the routes at the answer, to the full explanation's; NaN where not compared
  // Mean Jaccard where the answer stayed, and where it changed.
  MeanEstimate jaccard_same, jaccard_changed;
  // Altered explanations by answer (same, changed) and route (kept: Jaccard >= moved_below, moved).
  int64_t same_kept = 0, same_moved = 0, changed_kept = 0, changed_moved = 0;
  // Misrouting: tokens of the explanation whose route was edited, as a share of all, and how far (misroute_distance.h).
  MeanEstimate tokens_misrouted, replaced, mass_lost;
  // Misrouting beside random misrouting of the same fraction, paired by explanation: differences of `same` and of the
  // three. `beyond_random` is about the policy only where those are near 0.
  MeanEstimate beyond_random, tokens_beyond_random, replaced_beyond_random, mass_lost_beyond_random;
  double p_beyond_random = 0;  // sign flip; NaN where there is nothing to compare
};

// Likeness of the answer's routes under a change that should change nothing (CaseKind::yardstick), an explanation each.
struct Yardstick {
  MeanEstimate jaccard, weighted;
  double q01 = 0, q05 = 0, q10 = 0, median = 0;  // quantiles of jaccard; NaN where routes are not compared
  double moved = 0;                              // share below moved_below
};

struct FaithfulnessFindings {
  struct Test {
    FaithTest test;
    std::vector<CurveRow> curve;
    std::vector<AreaRow> areas;  // the last row is all lengths
  };
  std::vector<Test> tests;  // those that were run
  std::vector<AlterationRow> alterations;
  ForcedFindings forced;
  Yardstick yardstick;
  MeanEstimate correct_full, correct_without;  // with the full explanation; with none (NaN where not run)
  MeanEstimate reasked;  // share of explanations whose answer, asked again, is the one first written
};

FaithfulnessFindings faithfulness_findings(const FaithfulnessStudy& study);

// samples.jsonl, curves.csv, aoc.csv, routing.csv and routing_layers.csv (with routes), summary.json. `settings` goes
// into the summary.
void write_findings(const FaithfulnessStudy& study, const FaithfulnessFindings& findings, const json::Value& settings,
                    const std::filesystem::path& dir);

// For people.
std::string findings_table(const FaithfulnessStudy& study, const FaithfulnessFindings& findings, int width = 0);

}  // namespace signalbox::eval
