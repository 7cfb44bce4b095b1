// A small run directory as a finished run leaves it: grid, controls, an audit, conditions, detection, texts.
#pragma once
#include <filesystem>

#include "eval/findings/values.h"

namespace signalbox::test {

using namespace signalbox::eval;

// Interventions: baseline; <off> & co. (a name that needs escaping in HTML, Markdown and LaTeX) with 20 random controls
// and a bottom one; mis/policy=next_best|random,fraction=0.25|0.5|1; audit/L1E0 ... of six experts. Metrics em,
// repetition and refused over n_records records of two conditions.
RunValues sample_values(int64_t n_records = 60);

inline constexpr const char* odd_name = "off_a & <b>|100%";

// Writes metrics.json (with the audit), samples.jsonl, records.jsonl, manifest.json and detect/memory/rd.csv.
void write_sample_run(const std::filesystem::path& dir, const RunValues& values);

}  // namespace signalbox::test
