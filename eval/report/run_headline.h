// The head of a run's report: what the experiment is called, what it asks, and what it found, in sentences with the
// run's own numbers.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/report/findings_index.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

struct RunTitle {
  std::string title, question;
};

// "title" and "question" of the spec; where it has none, made of the interventions, metrics and conditions.
RunTitle title_of(const FindingsIndex& findings, const std::optional<Manifest>& manifest);

// What was found about one intervention, in two or three sentences that are true whatever was found: its difference in
// the run's first metric under each condition, with interval and place among the random controls; how far the first two
// conditions differ in that; and what the other metrics show. Plain text.
std::vector<std::string> intervention_sentences(const FindingsIndex& findings, const std::string& name);

// The same of the points of a grid together: which lowers and which raises the first metric most, and how many of them
// differ from the baseline at all. Plain text.
std::vector<std::string> grid_sentences(const FindingsIndex& findings, const std::vector<std::string>& points);

// The section of all of these, with what each intervention does to which experts. HTML; empty for a baseline alone.
std::string found_section(const FindingsIndex& findings);

// The command that the run was made with, for a shell; without what changes no result (threads, batch, the directory, a
// shard). Empty where the manifest does not say it.
std::string command_of(const Manifest& manifest);

}  // namespace signalbox::eval
