// What an evaluation asks of the engine, and in which order: for who runs it, and for who counts it before.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/namespaces.h"
#include "engine/jobs.h"
#include "eval/experiment/evaluate.h"

namespace signalbox::eval {

// Jobs handed to the engine at once: enough to keep batches full, few enough to hold.
inline constexpr size_t jobs_a_slice = 4096;

// Interventions (indices) that are run together over all records under one seed (index), the baseline first where it is
// one of them; a traced one by itself, with its trace before.
struct EvaluationPass {
  int64_t seed = 0;
  bool main = true;  // else controls and audit
  bool traced = false;
  std::vector<int64_t> interventions;
};

// What the run is about first, under all seeds, then what it is held against.
std::vector<EvaluationPass> passes_of(const Evaluation& evaluation);

// Jobs of samples, and whose they are.
class EvaluationJobs {
 public:
  enum class Part : uint8_t { text, target, option, reference };
  struct Use {
    size_t unit = 0;
    Part part = Part::text;
    size_t option = 0;
  };
  // A sample, and how many results it waits for.
  struct Unit {
    Place place;
    int64_t pending = 0;
  };
  using Has = std::function<bool(const Place& place)>;

  std::vector<Job> jobs;
  std::vector<Use> uses;    // [jobs]
  std::vector<Unit> units;  // those that were added

  void clear();
  // What is missing of these interventions of a record: the samples that are not `known`. The text of those that have
  // one is not asked for.
  void add_record(const Evaluation& evaluation, int64_t seed, int64_t record, const std::vector<int64_t>& interventions,
                  const Has& known, const Has& has_text);

 private:
  void add(Job job, Use use);
  void add_unit(const Evaluation& evaluation, const Place& place, const std::shared_ptr<const EditPlan>& plan,
                std::optional<int64_t>& reference, const Has& has_text);
};

// The jobs of a trace of one intervention and seed: what would be generated, or the given tokens. `samples`: the record
// and the sample of each.
std::vector<Job> trace_jobs(const Evaluation& evaluation, int64_t intervention, int64_t seed,
                            std::vector<std::pair<int64_t, int64_t>>& samples);

}  // namespace signalbox::eval
