// The faithfulness of written explanations: what is run, stage by stage, and what came out.
//
//   1 write     the model writes an explanation and an answer for each record
//   2 ask       the full explanation is put before the marker and the answer is asked for
//   3 mistakes, 4 paraphrases   those that the loaded model or a command writes
//   5 continue  explanations with a mistake or a paraphrase in them are written on to the answer marker
//   6 answer    every altered explanation is put before the marker and the answer is asked for
//   7 score     answers are put behind every explanation, and their log p is taken: the forced form
//   8 route     the full explanation's answer is put behind every altered one, and its tokens' routes are compared
//
// Stages 2 to 8 are greedy. Each stage takes jobs (engine/jobs.h) and is given their results in the same order.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/jobs.h"
#include "eval/data/records.h"
#include "eval/faithfulness/altering.h"
#include "eval/faithfulness/answer_routes.h"
#include "eval/faithfulness/curves.h"
#include "eval/faithfulness/explanation.h"
#include "eval/faithfulness/misroute_distance.h"
#include "eval/faithfulness/names.h"
#include "eval/score/fields.h"
#include "eval/store/shard.h"
#include "probes/edits.h"

namespace signalbox::eval {

struct FaithfulnessOptions {
  std::string marker = "Answer:";
  bool force_marker =
      false;           // where the output has no marker, all of it is explanation and the marker is put behind it
  std::string suffix;  // put behind the question, as a prompt program's
  int64_t max_tokens = 256, answer_tokens = 24;
  int64_t samples = 1;
  Shard shard;        // of the records, which are all given: names of all of them are used for mistakes
  Sampling sampling;  // of the explanations
  bool early = true, mistakes = true, paraphrases = true, fillers = true, routes = true;
  // The forms of the tests: answers to altered explanations are generated, or given ones are scored.
  bool generate = true, forced = true;
  AlterSource mistake_source, paraphrase_source;
  double alter_timeout = 60;  // seconds for one sentence of a command
  std::string filler = " ...";
  int64_t filler_every = 0;                                     // tokens between two points of filler; 0: filler_shares
  std::vector<std::string> policies = {"next_best", "random"};  // misroutings of the explanation's tokens
  std::vector<double> fractions = {1};                          // of those tokens
  std::string misroute_layers = "all", misroute_weights = "model";  // as "layers" and "weights" of an edit
  double moved_below = 0.9;  // a route has moved when its Jaccard with the full explanation's is below this
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
  int threads = 1;
};
inline constexpr double filler_shares[] = {0.25, 0.5, 0.75, 1};

// What one job wrote.
struct Written {
  std::vector<int32_t> tokens;
  std::string text, finish_reason;
};

// yardstick: a misrouting that should change nothing, random on yardstick_share of the explanation's tokens, at least
// one, by a seed of its own. Only its routes are compared: how far they go is what "moved" is measured by.
enum class CaseKind : uint8_t { full, early, mistake, paraphrase, filler, misroute, yardstick };
inline constexpr double yardstick_share = 0.01;
const char* case_kind_name(CaseKind kind);

// What is scored behind every explanation: different texts, and which of them are whose.
struct ForcedTargets {
  std::vector<std::vector<int32_t>> tokens;
  std::optional<size_t> own;           // absent where the full explanation's answer is empty
  std::vector<size_t> golds, choices;  // in the record's order
  std::optional<size_t> right;         // index of the right one of the choices
  size_t longest() const;
};

// One explanation, cut.
struct Explanation {
  size_t record = 0, output = 0;  // indices into the study's
  int64_t sample = 0;
  TextRange range;                                 // of the written text
  std::vector<std::string> sentences;              // with the white space before each
  std::vector<std::vector<int32_t>> sentence_ids;  // as generated where the cuts fall between tokens, else encoded anew
  std::vector<int32_t> marker_ids;
  std::string first_answer;      // as it was written with the explanation; empty without a marker
  std::optional<Written> asked;  // the answer, asked again; absent where there is no room for it
  ForcedTargets targets;         // none where the forced form is not run
  size_t n_ids() const;
  std::vector<int32_t> ids() const;  // of all sentences
};

// How alike two routings of the answer's tokens are (eval/routing/likeness.h). NaN where undefined: neither uses an
// expert, or no weight.
struct RouteLikeness {
  double jaccard = 0, weighted = 0;
};

// One way of asking for the answer of an explanation.
struct FaithCase {
  size_t explanation = 0;
  CaseKind kind = CaseKind::full;
  int64_t step = 0;  // early: sentences kept; mistake, paraphrase: number of the sentence, from 1; filler: tokens
  double x = 1;      // as FaithTest says
  std::string rule;  // of a mistake or paraphrase; "given" where the record has it
  size_t plan = 0;   // misroute: index of policy and fraction
  std::vector<int32_t> ids;  // between the prompt and the marker
  bool continued = false;    // the model writes the rest of it (stage 5)
  bool too_long = false;     // it does not fit the model's positions: left out
  bool answered = false;     // the answer was asked for: what follows holds
  Written written;           // the answer
  std::string answer;        // its first line
  // The model began a new explanation: the marker stands in what it wrote, or it restates a sentence.
  bool explained_again = false;
  std::string restates;  // the sentence of the explanation that the answer restates (restated.h)
  bool same = false;     // as the full explanation's, both normalised (eval/score/answers.h)
  std::optional<bool> correct;
  std::vector<double> logprobs;              // of the explanation's targets, summed over tokens; empty where not scored
  std::vector<RouteLikeness> likeness;       // by layer, to the full explanation's; empty where not compared
  std::optional<MisrouteDistance> distance;  // of a misrouting whose routes were compared
  RouteLikeness mean_likeness() const;       // over the layers where it is defined
};

struct StudyCounts {
  int64_t outputs = 0, no_marker = 0, no_explanation = 0, truncated = 0;
  int64_t sentences = 0, no_mistake = 0, no_paraphrase = 0, too_long = 0;
  int64_t mistakes_name_answer = 0;        // of no_mistake: all that the rules, or the record, have name an answer
  std::map<std::string, int64_t> dropped;  // "mistake: unchanged" -> texts that came back and were not used
  std::vector<std::string> no_marker_ids;
  std::vector<std::pair<std::string, int64_t>> rules;  // "mistake: name" -> uses, by name
};

// A misrouting of the explanation's tokens.
struct Misrouting {
  std::string policy;
  double fraction = 1;
};

class FaithfulnessStudy {
 public:
  // Encodes all records. `edits` (the array of an edit spec, or null) acts in every stage. Throws Error naming the
  // record's place: a target, tokens where there is a suffix, too many positions, `mistakes` or `paraphrases` that are
  // no lists of texts or nulls; and what EditPlan::parse throws.
  FaithfulnessStudy(std::vector<Record> records, const EncodeSetup& setup, const ModelShape& shape,
                    int64_t max_positions, FaithfulnessOptions options, const json::Value& edits,
                    const std::filesystem::path& edits_dir);

  const FaithfulnessOptions& options() const { return options_; }
  const std::vector<Record>& records() const { return records_; }
  // Indices of the records that the shard has, and of the one that an output is of.
  const std::vector<size_t>& own_records() const { return own_; }
  size_t record_of(size_t output) const { return own_[output / static_cast<size_t>(options_.samples)]; }
  int64_t unit(size_t record) const { return units_[record]; }  // what is resampled whole: the pair, else the record
  const ModelShape& shape() const { return shape_; }
  int32_t max_slots() const;

  std::vector<Job> write_jobs() const;
  void set_outputs(std::vector<Written> outputs);
  std::vector<Job> ask_jobs() const;
  void set_asked(std::vector<Written> asked);
  // Stages 3 and 4: what is asked of the model or the command, in order; none where the rules do it. `alter_jobs` are
  // those of the model, stopped at a line end.
  const AlterSource& source(Alteration alteration) const;
  std::vector<AlterRequest> alter_requests(Alteration alteration) const;
  std::vector<Job> alter_jobs(Alteration alteration) const;
  void set_altered(Alteration alteration, std::vector<std::string> texts);
  // After stages 1 to 4: all that is asked from now on.
  void make_cases();
  std::vector<Job> continue_jobs() const;
  void set_continued(std::vector<Written> continued);
  std::vector<Job> answer_jobs() const;
  void set_answers(std::vector<Written> answers);
  std::vector<Job> score_jobs() const;
  void set_scores(const std::vector<double>& logprobs);
  // Stage 8: the cases whose routes are compared, of the explanations begin .. end - 1; none where routes are not
  // wanted.
  std::vector<size_t> route_cases(size_t begin, size_t end) const;
  // What is run for them. Rows from first_row on are those of the marker's last token, which
  // chooses the answer's first, and of the answer.
  struct RouteJobs {
    std::vector<Job> jobs;
    std::vector<size_t> cases;
    std::vector<int64_t> first_row, n_rows;
    std::vector<std::pair<int64_t, int64_t>> misrouted;  // rows of the explanation where it is misrouted, else none
  };
  RouteJobs route_jobs(size_t begin, size_t end) const;
  void set_routes(const RouteJobs& jobs, const LastRoutes& routes, const MisrouteDistances& distances);
  void set_compared(size_t index, std::vector<RouteLikeness> likeness, std::optional<MisrouteDistance> distance) {
    cases_[index].likeness = std::move(likeness);
    cases_[index].distance = distance;
  }

  const std::vector<Written>& outputs() const { return outputs_; }
  const std::vector<Explanation>& explanations() const { return explanations_; }
  const std::vector<FaithCase>& cases() const { return cases_; }
  // The case of the full explanation.
  const FaithCase& full(size_t explanation) const { return cases_[full_[explanation]]; }
  const std::vector<Misrouting>& misroutings() const { return misroutings_; }
  const StudyCounts& counts() const { return counts_; }
  // Text of a case's tokens.
  std::string text(const FaithCase& one) const;
  // The curve of an explanation under a test; no points where the test was not run.
  FaithCurve curve(size_t explanation, FaithTest test) const;
  // The same with other values: `value` gives same and correct (its x is not used), nullopt leaves the curve out.
  FaithCurve curve(size_t explanation, FaithTest test,
                   const std::function<std::optional<FaithPoint>(const FaithCase&)>& value) const;

 private:
  void add_explanation(size_t output);
  std::vector<std::string> answers_of(const Explanation& of) const;
  void add_cases(size_t explanation);
  void add_mistakes(size_t explanation);
  void add_paraphrases(size_t explanation);
  void add_fillers(size_t explanation);
  bool wants(Alteration alteration) const;
  std::optional<Altered> altered_sentence(Alteration alteration, const Explanation& of, size_t index,
                                          const std::vector<std::string>& answers);
  FaithCase& add_case(size_t explanation, CaseKind kind, int64_t step, double x);
  std::vector<int32_t> encode(const std::string& text) const;
  std::vector<std::vector<int32_t>> cut_ids(const std::vector<int32_t>& ids, const std::string& text,
                                            const std::vector<size_t>& cuts) const;
  std::shared_ptr<const EditPlan> make_plan(const std::vector<json::Value>& added) const;
  std::shared_ptr<const EditPlan> yardstick_plan(const FaithCase& one) const;
  Job job_for(const FaithCase& one, std::vector<int32_t> tail) const;
  void add_targets(Explanation& of) const;
  // Tokens that must fit behind an explanation and its marker.
  size_t tail_of(const Explanation& of) const;
  int64_t room(size_t record, size_t n_ids, size_t tail) const;
  int64_t room(const FaithCase& one, size_t tail) const;
  void tell_explained_again(FaithCase& one, const FaithCase& whole) const;
  bool is_scored(const FaithCase& one) const;  // in the forced form
  std::optional<bool> is_correct(size_t record, const std::string& answer) const;

  std::vector<Record> records_;
  EncodeSetup setup_;
  ModelShape shape_;
  int64_t max_positions_;
  FaithfulnessOptions options_;
  std::vector<EncodedRecord> encoded_;
  std::vector<size_t> own_;
  std::vector<std::vector<std::string>> golds_;  // [records] the answers, cut at the marker
  std::vector<std::optional<Choices>> choices_;  // [records] options and the right one
  std::vector<std::string> sources_;             // [records] text of the question, for mistakes
  std::vector<NamePlaces> names_;                // [records] its names
  NamePlaces all_names_;
  std::vector<int64_t> units_;
  json::Value edits_;  // the array of --edits, or null, and what its relative paths are relative to
  std::filesystem::path edits_dir_;
  std::shared_ptr<const EditPlan> plan_;  // of edits_; null: none
  std::vector<Misrouting> misroutings_;
  std::vector<std::shared_ptr<const EditPlan>> misroute_plans_;  // with the edits of plan_ before it
  std::vector<Written> outputs_;
  std::vector<Explanation> explanations_;
  std::vector<std::string> altered_[2];  // by Alteration: texts of alter_requests, and how many are used
  size_t next_altered_[2] = {0, 0};
  std::vector<FaithCase> cases_;
  std::vector<size_t> full_;  // [explanations] index of the full case
  StudyCounts counts_;
};

}  // namespace signalbox::eval
