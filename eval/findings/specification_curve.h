// A specification curve (Simonsohn, Simmons and Nelson 2020): the effect of one intervention under every choice that
// its detection could have made, in the order of their size.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

// The points of one entry in one metric.
struct SpecificationCurve {
  std::string entry, metric;
  std::vector<size_t> order;  // interventions (indices) with a defined difference, ascending; equal ones as in the run
  int64_t points = 0;         // all of the entry, undefined ones too
  int64_t negative = 0, positive = 0, zero = 0;
  int64_t negative_p = 0, positive_p = 0;  // of those, with p < 0.05
  double median = no_number, least = no_number, greatest = no_number;
};

// Of RunFindings::curves, entry by entry and metric by metric.
std::vector<SpecificationCurve> specification_curves(const RunFindings& findings);

// "22 of 24 choices lower em, 2 raise it; p < 0.05 in 15 of those that lower it and in 0 of those that raise it. Median
// -0.080, from -0.150 to +0.010."
std::string curve_sentence(const SpecificationCurve& curve);

// entry, metric, place (from 1, ascending), intervention, a column "choice_KEY" for each key of the grids (the value as
// text, null as it is; empty where the entry has no such key), diff, ci_lo, ci_hi, p, q, n. Undefined differences come
// last, without a place.
std::string specification_curve_csv(const RunFindings& findings);

// The entries of a resolved spec (Manifest::identity) that take experts from a stage of detection of the run, and have
// at least two points.
std::vector<std::string> curve_entries(const json::Value& spec, const RunFindings& findings);

// Sets findings.curves by the manifest in `dir`, and writes OUT/specification_curve.csv where there are any.
void write_specification_curves(const std::filesystem::path& dir, const std::filesystem::path& out,
                                RunFindings& findings);

}  // namespace signalbox::eval
