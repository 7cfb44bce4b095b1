// The experiment spec that `run` reads: docs/experiments.md. Everything here is known without a model and without data.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/programs.h"
#include "eval/experiment/grid.h"
#include "eval/score/scorer.h"
#include "eval/statistics/resampling.h"
#include "probes/edit_spec.h"
#include "probes/points.h"

namespace signalbox::eval {

struct GenerateSpec {
  int64_t max_tokens = 64;
  Sampling sampling;  // its seed is one of the run's
  int64_t samples = 1;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

// One stage of detection, or one point of its grid: the baseline is traced, and risk differences between two conditions
// are taken.
struct DetectSpec {
  std::string name;   // "memory", "memory/span=question,length_match=true"
  std::string entry;  // of the spec: the name up to its first '/'
  GridPoint grid;     // empty: no point of a grid
  std::string a, b;   // conditions
  std::string span;   // empty: all tokens
  Phase phase = Phase::given;
  bool length_match = false;
  std::optional<int64_t> stable_top;
  bool held_out = false;       // the same contrast is also measured on the records of the test split
  bool contributions = false;  // what experts give is recorded, whether or not something ranks by it
};

struct ControlsSpec {
  int64_t random = 0;             // sets drawn uniformly
  int64_t frequency_matched = 0;  // sets drawn among experts of nearest usage
  bool bottom = false;            // the other end of the ranking
  bool any() const { return random > 0 || frequency_matched > 0 || bottom; }
};
inline constexpr ControlsSpec default_controls = {20, 0, true};

// One intervention: an entry of the spec, or one point of its grid.
struct InterventionSpec : Intervention {     // without a description plan_interventions makes one
  std::string path;                          // "interventions[2]", for messages; with its point where there is a grid
  json::Value edits = json::Value::array();  // "$key"s replaced; may hold "from": "detect:NAME"
  ControlsSpec controls;
  bool names_experts = false;  // some edit has experts, so that controls make sense
  bool lists_experts = false;  // and not from a ranking
};

// Ablates single experts, each as an intervention "audit/L3E5".
struct AuditSpec {
  // Deactivate or scale_expert edits that name the candidates: one, or one for each of several stages of detection,
  // alike but for their rankings. Of `all`, one that names expert 0 of its layers and stands for all of them.
  std::vector<json::Value> edits;
  bool all = false;
  std::string path = "audit";
};

// The contrasts that a run is about; an empty list: all that can be.
struct PrimarySpec {
  std::vector<std::string> interventions;  // names of entries (all points of a grid) or of points
  std::vector<std::string> metrics;
};

// How small a difference counts as none.
struct EquivalenceSpec {
  std::optional<double> margin;  // of every metric that has none of its own
  std::vector<std::pair<std::string, double>> by_metric;
  std::optional<double> of(std::string_view metric) const;
};

struct SplitSpec {
  std::string key = "split";
  std::string detect, tune;  // values of the key; empty: none
  std::string test;
  double share = 0;   // > 0: records have no split and are dealt out in the run, this share of them to detect
  uint64_t seed = 0;  // of that deal
};

// Several deals of the records into detection and test, in place of a split.
struct CrossFitSpec {
  int64_t deals = 0;
  double share = 0.5;  // of the examples, for detection
};

struct TuneSpec {
  std::string metric;
  bool higher = false;  // the goal
};

struct JudgeSpec {
  std::string name;
  std::vector<std::string> given;    // "command" as written
  std::vector<std::string> command;  // words that name a file beside the spec (the program: with a '/') are that file
  double timeout = 60;               // seconds for a run of it
  int64_t batch = 0;                 // texts for a run of it; 0: one, as it is
};

struct TraceSpec {
  bool on = false;
  std::string points = std::string(default_points);
  bool all = true;              // every intervention, controls and audit included
  std::vector<std::string> of;  // else: names of entries (all points of a grid), of points, or "audit"
};

struct ExperimentSpec {
  std::string where;                  // the file, for messages
  std::filesystem::path base_dir;     // relative paths of edits are relative to it
  json::Value source;                 // as given
  std::string model;                  // a directory, org/name[@revision] or builtin; resolved against base_dir
  std::vector<std::string> adapters;  // directories of LoRA adapters of it, as given
  std::filesystem::path adapter_dir(const std::string& given) const { return base_dir / given; }
  std::filesystem::path data;
  std::optional<GenerateSpec> generate;  // none: teacher-forced only
  std::vector<Program> programs;         // empty: records are run as they are
  std::vector<DetectSpec> detect;
  std::vector<InterventionSpec> interventions;  // in the order of the spec, grids expanded; the baseline among them
  std::string baseline = "baseline";
  std::optional<AuditSpec> audit;
  std::vector<std::string> metrics;  // as given, or what default_metrics() chose; empty until then
  bool metrics_given = false;
  std::vector<uint64_t> seeds = {0};
  std::optional<SplitSpec> split;
  std::optional<CrossFitSpec> cross_fit;
  std::optional<TuneSpec> tune;
  std::optional<PrimarySpec> primary;
  EquivalenceSpec equivalence;
  TraceSpec traces;
  std::vector<JudgeSpec> judges;
  int64_t resamples = default_resamples;
  uint64_t seed = 0;  // of resampling

  const DetectSpec* find_detect(std::string_view name) const;
  const JudgeSpec* find_judge(std::string_view name) const;
  // Whether an intervention of that entry and name ("off/random-0" is of "off" and traced with it only where all are)
  // is traced.
  bool traced(std::string_view entry, std::string_view name) const;
};

// Throws Error for everything that is wrong whatever the model and the data: unknown keys, types, ranges, names, edits
// (each through EditSpec::parse after its grid is expanded), unknown metrics (with the nearest names), metrics that
// need text without "generate", stages of detection that are not there, splits that are needed and missing.
ExperimentSpec parse_experiment(const json::Ref& spec, const std::filesystem::path& base_dir);
ExperimentSpec load_experiment(const std::filesystem::path& file);

// Throws Error for a primary metric, or one with a margin, that is none of `metrics`, those of the run.
void check_chosen_metrics(const ExperimentSpec& spec, const std::vector<std::string>& metrics);

// What a metric of a spec looks at; "judge:NAME" looks at text. The name must be that of a metric.
Needs metric_needs(std::string_view metric);

// The spec with every default filled in, the model and data as given: equal for two specs that mean the same run.
json::Value resolved_json(const ExperimentSpec& spec);

// "judge:NAME" among the metrics is a judge of the spec.
inline constexpr std::string_view judge_prefix = "judge:";

// Where the experts of a ranking come from: every "experts" of edits (and the audit's) that holds "from".
struct RankingUse {
  std::string path;            // "interventions[1].edits[0].experts.from"
  std::string detect;          // NAME of "detect:NAME"; else empty
  std::filesystem::path file;  // else
  std::string given;           // what "from" says
};
std::vector<RankingUse> rankings_of(const ExperimentSpec& spec);

}  // namespace signalbox::eval
