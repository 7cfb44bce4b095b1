// What a run computes once for several jobs: the beginnings that they have in common, and results that are another's.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "engine/jobs.h"

namespace signalbox::engine {

// Given tokens whose keys and values several jobs start from. They are run by themselves, without logits.
struct SharedPrefix {
  size_t job = 0;       // a job that begins so: its tokens are run
  bool edited = false;  // with its edits; else without
  int64_t parent = -1;  // the prefix that it starts from, later in the list; -1: none
  int64_t start = 0;    // positions taken from the parent
  int64_t length = 0;   // positions that it holds
  int64_t n_users = 0;  // jobs and prefixes that start from it
};

struct PlannedJob {
  int64_t n_rows = 0;               // given tokens that are run, those of the prefix included
  int64_t n_needed = 0;             // of these, the results depend on the first so many; others are for a recording
  int64_t first_logits = 0;         // score: logits are made of rows first_logits ..
  int64_t n_logits = 0;             // score: of so many
  int64_t n_scored = 0;             // score: log-probabilities that come of them
  int64_t prefix = -1, shared = 0;  // starts with `shared` positions of a prefix
  int64_t reference = -1;           // place in the list of jobs; -1: none
  bool copies = false;       // the results are the reference's: no edit acts on either, and the tokens are the same
  int64_t n_followers = 0;   // other jobs whose reference this is
  bool rows_wanted = false;  // one of them compares its logits with this job's
};

struct RunPlan {
  std::vector<PlannedJob> jobs;  // in the order of the list
  std::vector<SharedPrefix> prefixes;
  std::vector<size_t> order;  // all jobs: those that share next to each other, references before their followers
};

// `recorded`: a sink takes every row of every job, so that nothing is shared. Throws Error for jobs without tokens, a
// prefix that a job does not begin with, and references that are missing, of another shape or in a circle.
//
// A job starts from a shared part of its prefix: unedited keys and values, up to its own first edit, and no further
// than the first row whose logits it wants. Jobs under one plan whose edits begin before that share a part of their
// own, made under the edits, where these do the same to all of them.
RunPlan plan_run(const std::vector<Job>& jobs, bool recorded);

// Tokens that these jobs will run at most, handed over together, where sharing is taken into account and no end token
// comes early. `recorded`: with a sink. Where memory is too scarce for sharing more are run.
int64_t planned_tokens(const std::vector<Job>& jobs, bool recorded = false);

}  // namespace signalbox::engine
