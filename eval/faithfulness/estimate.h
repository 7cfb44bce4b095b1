// What a study would take, counted and timed before it does anything: faithfulness --dry-run.
//
// How many explanations are cut where is known only when they are written. A few are: those of the jobs that measure
// the speed. All stages behind the first are those of a study of these few, times the share that they are of all.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "engine/runner.h"
#include "eval/experiment/speed.h"
#include "eval/faithfulness/study.h"

namespace signalbox::eval {

struct StudyStageEstimate {
  std::string name;      // as in DIR/stages
  double jobs = 0;       // texts that are run, or sentences that a command is asked about
  double given = 0;      // tokens of forwards over what is given; shared beginnings count once
  double generated = 0;  // tokens, a forward each, at most
  double seconds = no_number, most_seconds = no_number;  // no_number: of a command
};

struct StudyEstimate {
  int64_t records = 0, texts = 0;          // of the shard; explanations to be written
  int64_t tried = 0, cut = 0;              // texts that were written to measure, and have an explanation
  std::vector<StudyStageEstimate> stages;  // the first alone where nothing was cut
  EngineSpeed speed;                       // measured
  bool known() const { return cut > 0; }   // what comes behind the first stage
  double seconds() const;                  // of the stages whose time is known
  double most_seconds() const;
};

// A study of these records with these options, all else as in the one that is asked for.
using MakeStudy = std::function<FaithfulnessStudy(std::vector<Record> records, const FaithfulnessOptions& options)>;

// Measures for a few seconds, by writing some of the explanations. Throws Error as run_jobs does. Writes nothing.
StudyEstimate estimate_study(const FaithfulnessStudy& study, const MakeStudy& make, const Tokenizer& tokenizer,
                             Forward& forward, const RunOptions& options);

}  // namespace signalbox::eval
