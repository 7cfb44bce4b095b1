// Pairs of experts that go together, as `analyze` found them: what causal pipelines tests.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/causal/node.h"

namespace signalbox::eval {

inline constexpr double linked_q = 0.05;  // of rows of across_layers.csv that are taken

struct ExpertLink {
  CausalNode from, to;             // experts; from's layer is the lower one
  std::vector<int64_t> pipelines;  // ascending numbers of the pipelines that it is a step of; empty: a pair alone
  double phi = no_number;          // correlation of the two, as the table has it
};

// Consecutive steps of pipelines.csv, then rows of across_layers.csv with q < linked_q, each pair once, in order of
// layers and experts. A path may be the table or the directory of an analysis; empty: none. Throws Error naming file
// and line: tables of another form, no pair at all, experts that the model does not have, layers in which none of the
// others could take the place of a banned one.
std::vector<ExpertLink> read_expert_links(const std::filesystem::path& pipelines, const std::filesystem::path& pairs,
                                          const ModelShape& shape);

// Refuses the analysis of another model, where the directory's summary.json tells. Throws Error.
void require_analysis_of(const std::filesystem::path& analysis, const std::string& model_hash);

// The table that a path of read_expert_links means.
std::filesystem::path table_at(const std::filesystem::path& path, const char* name);

}  // namespace signalbox::eval
