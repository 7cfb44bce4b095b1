// The forced form of the tests: answers are given behind each altered explanation, and their log p is what counts. So
// nothing is parsed, and a model that writes something else than an answer does not count as one that changed its
// answer.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/faithfulness/curves.h"
#include "eval/faithfulness/study.h"

namespace signalbox::eval {

// Whose log p is looked at.
//   own     the answer that the full explanation gives
//   gold    the record's answer; of several the one with the largest log p behind the explanation at hand
//   choice  with `choices`: the option that is the most probable behind the full explanation; p is its share of the
//           options' p
//   chosen  1 where the most probable option is that one, else 0
//   right   1 where the most probable option is the record's `choice`, else 0
enum class ForcedMeasure : uint8_t { own, gold, choice, chosen, right };
inline constexpr ForcedMeasure forced_measures[] = {ForcedMeasure::own, ForcedMeasure::gold, ForcedMeasure::choice,
                                                    ForcedMeasure::chosen, ForcedMeasure::right};
const char* forced_measure_name(ForcedMeasure measure);

struct ForcedValue {
  double p = 0;
  double logprob = 0;  // natural log; NaN for chosen and right
};
// Of a case that was scored; nullopt where it was not, or the measure has nothing to look at.
std::optional<ForcedValue> forced_value(const FaithfulnessStudy& study, const FaithCase& one, ForcedMeasure measure);

struct ForcedRow {
  std::string test, policy;
  double fraction = 0;  // of a misrouting; else NaN
  ForcedMeasure measure = ForcedMeasure::own;
  MeanEstimate p, logprob;
  // log p behind the full explanation minus that behind the altered one, and p of its mean being 0 (sign flip); NaN for
  // chosen and right, and p for the full explanation.
  MeanEstimate drop;
  double p_drop = 0;
};

struct ForcedTest {
  FaithTest test;
  ForcedMeasure measure;
  std::vector<CurveRow> curve;  // same: p; correct: log p
  std::vector<AreaRow> areas;   // over p; the last row is all lengths
  std::vector<AreaRow> drops;   // of areas: the integral of the drop of log p over x, in nats; empty for chosen, right
};

struct ForcedFindings {
  std::vector<ForcedTest> tests;
  std::vector<ForcedRow> rows;  // the full explanations first
};

// Nothing where the forced form was not run.
ForcedFindings forced_findings(const FaithfulnessStudy& study);

// forced_curves.csv, forced_aoc.csv, forced.csv.
void write_forced(const ForcedFindings& findings, const std::filesystem::path& dir);
json::Value forced_summary(const ForcedFindings& findings);               // areas and drops by test and measure
std::string forced_table(const ForcedFindings& findings, int width = 0);  // for people

}  // namespace signalbox::eval
