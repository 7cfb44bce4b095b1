// What the tables of an analysis say about domains, stickiness and succession of experts, in sentences.
#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/findings/table.h"

namespace signalbox::eval {

struct DomainFindings {
  std::vector<std::string> sentences;  // each with the test that it rests on
  // The experts of each domain whose share of its tokens exceeds that of the other domains' tokens the most, by the
  // difference; where the analysis has specialists.csv, the rate ratio of those that it finds specialists of that
  // domain, with its interval and q. Empty where fewer than two domains are known.
  FindingsTable experts;
  json::Value values;  // the numbers of the sentences, for machines
};

// Of `analysis`, a directory that `analyze --tables all` wrote; `top` experts of each domain. Throws Error naming the
// table that is missing or wrong.
DomainFindings domain_findings(const std::filesystem::path& analysis, size_t top);

}  // namespace signalbox::eval
