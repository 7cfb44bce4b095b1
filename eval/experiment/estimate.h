// What a run will do, counted and timed before it does anything: --dry-run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/experiment/conduct.h"
#include "eval/experiment/experiment.h"
#include "eval/store/shard.h"
#include "probes/points.h"

namespace signalbox::eval {

// Records that serve one purpose under one condition (of prompt programs: the program).
struct EstimatedPart {
  std::string split;      // "detect", "tune", "test"
  std::string condition;  // empty: none
  int64_t records = 0;
};

// An entry of the spec, or the audit.
struct EstimatedEntry {
  std::string entry;
  int64_t points = 0;  // interventions of its own: more than one of a grid
  int64_t random = 0, frequency_matched = 0, bottom = 0;
  bool detected = false;  // its experts come from detection: numbers are the most that there can be
  int64_t all() const { return points + random + frequency_matched + bottom; }
};

// Tokens to run at most: beginnings that jobs share are counted once, as they are run once where memory suffices, and
// every text goes on to its last token.
struct TokenCount {
  int64_t given = 0, generated = 0;
};

struct EstimatedStage {
  std::string name;
  bool tested = false;  // its samples are those of the run
  int64_t interventions = 0, records = 0, samples = 0;
  TokenCount tokens;
  int64_t resamples = 0;  // of statistics
  // Seconds: with texts as long as those that were measured, and with all of the greatest length. no_number before
  // estimate_times, and where the time is not known (judges).
  double seconds = no_number, most_seconds = no_number;
};

// What was measured with this model on this machine.
struct MeasuredSpeed {
  double given = no_number, generated = no_number;  // tokens a second
  double host = 0;                                  // seconds a sample takes beside the model: scores, lines
  double length = 1;                                // tokens of the measured texts, of the most that they could have
  int64_t given_tokens = 0, generated_tokens = 0;   // that were run
  int64_t texts = 0;                                // that came to their end
  double seconds = 0;                               // that measuring took
};

struct RunEstimate {
  std::vector<EstimatedPart> parts;
  std::vector<EstimatedEntry> entries;
  int64_t interventions = 0, seeds = 1, deals = 1;  // of the tests; those of a cross-fitted run: of each deal
  std::vector<EstimatedStage> stages;
  int64_t judged = 0;  // texts that judges are asked about at most, whose time is not known
  // Bytes. Of samples and traces: with texts of the measured length, and at most. The journal is as large as
  // samples.jsonl again until the run ends, and a trace's spool as the trace.
  double samples_bytes = 0, most_samples_bytes = 0, traces_bytes = 0, most_traces_bytes = 0;
  int64_t weights_bytes = 0, cache_bytes = 0, logits_bytes = 0;
  MeasuredSpeed speed;
  std::vector<std::string> notes;  // what the numbers depend on

  int64_t samples() const;  // of the tests
  double seconds() const;
  double most_seconds() const;
};

// Checks all that a run checks before its first token, and counts. Where experts are chosen by detection, others stand
// in for them: as many, spread over the layers. Throws Error as conduct() does. Writes nothing.
RunEstimate estimate_run(const Experiment& experiment, const Session& session, const Shard& shard, int threads);

// Bytes of a token in a trace of these points, where the longest sample has `longest` tokens; of the ids, edited twice.
double trace_bytes(const PointSet& points, const ModelShape& shape, int32_t n_slots, bool edited, int64_t longest);

}  // namespace signalbox::eval
