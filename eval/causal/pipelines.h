// Do experts that go together through depth act on each other? (docs/causal-pipelines.md)
//
// For a pair u -> v, at the tokens whose unedited route has u, and over records:
//
//   ban      u is banned: change of how often v is selected, and of its router logit; and at later tokens without u
//   direct   what u adds is taken from the stream that v's router reads, all between held (direct_edges.h): the same
//   two feeds    the same for what v computes, its route and weight held: size of the change / size of what v adds
//
// Each beside the same number of controls that are no message of u: of its size a random vector, what u adds at another
// token, and other experts of u's layer that are selected about as often.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/causal/estimates.h"
#include "eval/causal/expert_links.h"
#include "eval/data/record_jobs.h"

namespace signalbox::eval {

struct PipelineRequest {
  std::vector<ExpertLink> links;
  int64_t draws = 20;   // of random vectors, and of other tokens
  int64_t matched = 8;  // experts at most
  Resamples resamples;
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t records)> on_surveyed, on_measured;
};

// 95th percentiles of absolute values over the controls of a kind; no_number where there is none.
struct LinkControls {
  double random = no_number, matched = no_number, other_token = no_number;
};

enum class LinkVerdict : uint8_t {
  direct,          // selects (direct)
  through_others,  // selects (through others)
  made_up_for,     // selects (made up for): the direct part alone would, but under the ban nothing changes
  unspecific,      // selects (unspecific): directly for the most part, but a control does as much
  out_direct,      // keeps out (direct), and so on: banned, v comes more often
  out_through_others,
  out_unspecific,
  feeds,       // feeds only
  associated,  // associated only
  untested,    // fewer than two units select u
};
const char* verdict_text(LinkVerdict verdict);

inline constexpr double link_q = 0.05;

struct LinkEffects {
  int64_t tokens = 0, later_tokens = 0, both_tokens = 0;  // with u; later without u; with u and v
  int64_t matched = 0;                                    // experts among the controls
  double selected = no_number;                            // share of `tokens` with v, unedited
  PairedEstimate ban_selected, ban_logit;                 // changes; units: pairs of records, or records
  PairedEstimate later_selected, later_logit;
  PairedEstimate direct_selected, direct_logit;
  double direct_flipped = no_number;  // share of tokens at which v comes or goes
  MeanEstimate feeds;                 // sum of sizes of changes / sum of sizes of what v adds
  PairedEstimate feeds_over_random;   // less the same of random vectors
  double ban_matched = no_number;     // control of ban_logit
  LinkControls direct_controls, feeds_controls;
  LinkVerdict verdict = LinkVerdict::untested;
};

struct PipelineStudy {
  bool interrupted = false;
  int64_t records = 0, units = 0, tokens = 0, banned = 0;  // banned: distinct experts, those of controls included
  std::vector<LinkEffects> links;                          // as request.links
};

// Throws Error before the first forward for a ban that the model refuses.
PipelineStudy study_pipelines(const engine::Session& session, const std::vector<Record>& records,
                              const RecordJobs& made, const PipelineRequest& request);

// The verdict of numbers (docs/causal-pipelines.md).
LinkVerdict judge_link(const LinkEffects& effects);

// A sentence that tells what came out.
std::string pipelines_sentence(const PipelineStudy& study, const PipelineRequest& request);

// The files of a study: links.csv and summary.json. `input`, `tables`: what they are made of, with hashes.
std::vector<std::string> pipeline_study_files();
void write_pipeline_study(const std::filesystem::path& dir, const PipelineStudy& study, const PipelineRequest& request,
                          const engine::Session& session, const json::Value& sources);

}  // namespace signalbox::eval
