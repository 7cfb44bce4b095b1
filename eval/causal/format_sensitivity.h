// Does a blank at the end of a prompt change what a model answers, and where? (docs/format-sensitivity.md)
//
// Questions stand in several formats: a base and variants. Behaviour comes first: the log p of the same answer and the
// likeliest answer, in each format. Then what stands at the answer's position (the token that predicts the answer's
// first one) and at the tokens that both formats share behind the change, layer by layer. Last, the residual stream of
// one format takes the place of that of the other behind one layer: where is the difference made?
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/estimates.h"
#include "eval/data/record_jobs.h"
#include "eval/store/kept_work.h"

namespace signalbox::eval {

inline constexpr const char* base_format = "base";

struct FormatRequest {
  Resamples resamples;
  int64_t step_tokens = 512, step_cells = 64;  // of one step, at most (a run alone may have more tokens)
  Kept kept;                                   // finished comparisons
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t runs)> on_progress;  // of format_runs()
};

// Rows of behaviour.csv, states.csv and patches.csv; n counts questions. `over_others`: the same less the mean over the
// other variants of the same question, undefined for an only variant.
struct FormatBehaviour {
  std::string variant;
  int64_t n = 0, same_tokens = 0;        // same_tokens: questions whose tokens the format does not change
  double base_logprob = 0, logprob = 0;  // means, of the answer
  PairedEstimate delta, over_others;     // q over the variants
  double flips = 0;                      // share of questions whose likeliest answer is another than in base
  double base_right = 0, right = 0;      // share of questions whose likeliest answer is the target
};
struct FormatStates {
  int32_t layer = 0;
  std::string variant, place;  // answer, or shared: the tokens behind the change, the answer's position left out
  int64_t n = 0;
  double cosine = 0;      // centred: on the mean of the base records there (answer), or of all their tokens (shared)
  double rel_change = 0;  // size of the change / size of the base's stream
  double jaccard = 0;     // of the routes; NaN for layers without a router
  double identified = 0;  // share of other questions whose base is less alike than the own one; NaN for shared
  PairedEstimate over_others;  // of the cosine; q over the layers
};
struct FormatPatch {
  int32_t layer = 0;
  std::string variant;
  std::string place;      // answer, or aligned: the shared tokens too
  std::string direction;  // denoising: the variant with the base's stream; noising: the base with the variant's
  int64_t n = 0;
  PairedEstimate effect;  // log p - unpatched; q over the layers
  MeanEstimate share;     // of the difference between the formats, as a ratio of means
};
struct FormatStudy {
  bool interrupted = false;
  int64_t questions = 0;
  std::vector<FormatBehaviour> behaviour;
  std::vector<FormatStates> states;
  std::vector<FormatPatch> patches;
};

// "Compute 2*3=" to "Compute 9*8=" with their products, 56 questions.
std::vector<Record> format_questions();

// Records as they are where some have a condition: then each has one and a pair, the question, and one of each pair's
// is `base`. Otherwise every prompt becomes a question with the variants trailing_blank, trailing_newline,
// leading_blank and, where it has a blank inside, inner_blank (the first one doubled). Throws Error naming the record's
// place: no target; what is missing of the former; another target than the base's; a record without a prompt.
std::vector<Record> formatted_records(std::vector<Record> records);

int64_t format_runs(const engine::Session& session, const std::vector<Record>& records);  // for progress
FormatStudy study_format(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                         const FormatRequest& request);

inline constexpr const char* format_schema = "signalbox.format/1";  // of the manifest and the summary
// The files of a study: behaviour.csv, states.csv, patches.csv and summary.json.
std::vector<std::string> format_files();
void write_format(const std::filesystem::path& dir, const FormatStudy& study, const FormatRequest& request,
                  const engine::Session& session, const std::string& input);

}  // namespace signalbox::eval
