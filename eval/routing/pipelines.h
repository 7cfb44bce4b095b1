// Chains of experts through depth, each linked to the next: pipelines.csv.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/routing/links.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

inline constexpr double pipeline_q = 0.05;         // of pipelines that are reported
inline constexpr double pipeline_link_z = 4;       // of links that chains are made of
inline constexpr double pipeline_domain_q = 0.05;  // of domains that are named

struct PipelineStep {
  int32_t layer = 0, expert = 0;  // absolute layer
  double phi = no_number;         // of the link from the step before, over all tokens; none for the first
  double phi_partial = no_number, p_link = no_number;  // partial on token identity; p of this link alone
};

struct Pipeline {
  std::vector<PipelineStep> steps;
  // That each link holds: the largest p of its links, in tokens that did not choose them; q by Benjamini-Hochberg over
  // all candidates.
  double p = no_number, q = no_number;
  double p_partial = no_number;  // the same of links that are partial on token identity
  // The domain of the highest rate ratio of tokens that pass a link (both ends), a token counted once for each.
  std::string domain;  // empty where domain_q is above pipeline_domain_q
  double domain_ratio = no_number, domain_p = no_number, domain_q = no_number;
};

struct Pipelines {
  std::vector<Pipeline> found;  // with q <= pipeline_q, by layer and expert of their first steps
  int64_t links = 0;            // that chains were made of
  int64_t candidates = 0;       // chains that were tested
};

// One half of the units (units.h) proposes: links that are each other's best partners (candidate_links) and whose
// count stands pipeline_link_z standard deviations above its mean when turned. They form chains, as long as they go;
// those of at least three experts (two where only two layers are recorded) are candidates. The other half tests them.
// None with fewer than two units or layers.
Pipelines pipelines(const TraceSet& set, const RouteOptions& options);

void write_pipelines_csv(const std::filesystem::path& file, const std::vector<Pipeline>& rows);

}  // namespace signalbox::eval
