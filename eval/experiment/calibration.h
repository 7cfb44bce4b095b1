// A rule or a judge against texts that people have labelled, and the rates of a finished run corrected by them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/data/records.h"
#include "eval/findings/intervention.h"
#include "eval/score/corrected_rates.h"
#include "eval/score/judge.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

struct CalibrationOptions {
  // JSON lines, each with "label" (true, false, 1 or 0), a "text" and what the score looks at of a record; lines of a
  // run's samples.jsonl with a label beside will do.
  std::filesystem::path labelled;
  std::string score;                 // a scorer of single texts, or "judge:NAME" of a judge in `judges`
  std::vector<JudgeCommand> judges;  // need not hold a judge that the run has asked already
  std::filesystem::path run;         // a complete run; empty: none
  double threshold = 0.5;            // a score of at least this says yes
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  // The text of a record's prompt, for judges: of messages as the model's template prints them.
  std::function<std::string(const Record&)> shown_text;
};

struct CalibratedIntervention {
  Intervention about;
  CorrectedRate rate;
  CorrectedRate difference;  // from the baseline's; of the baseline itself 0
};

struct Calibration {
  std::string score;
  double threshold = 0.5;
  Confusion table;          // over all labels
  int64_t n_undefined = 0;  // labels for which the score is undefined: left out
  std::string baseline;     // of the run; empty: no run
  bool own = false;         // the labels name interventions of the run: each is corrected by its own
  std::vector<CalibratedIntervention> interventions;  // in the order of the run
  std::vector<std::string> notes;                     // what to mind, for people
};

// Where the labelled lines name an "intervention" and a run is given, they are samples of that run: of this
// intervention, "id", "seed" (may be left out where the run has one) and "sample" (0), whose text is taken from there.
// Lines of one example (a pair, a record or its wordings; in a run also copies of a prompt) are one cluster. Throws
// Error naming file and line: no label, no text, another text than the run's, a sample labelled twice or not in the
// run, some lines with and some without an intervention; a score that is no scorer of single texts, or not between 0
// and 1; what a judge says wrongly.
Calibration calibrate(const CalibrationOptions& options);

json::Value calibration_json(const Calibration& found);
// For a terminal: counts, shares, and the corrected rates of main interventions (Intervention::is_main).
std::string calibration_text(const Calibration& found);
// DIR/confusion.csv, and DIR/rates.csv where there is a run: every intervention, rates and differences. Makes DIR.
void write_calibration(const std::filesystem::path& dir, const Calibration& found);

}  // namespace signalbox::eval
