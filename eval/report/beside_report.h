// Two traces of the same records side by side: which tokens have other experts in one than in the other.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"
#include "eval/routing/trace_diff.h"

namespace signalbox::eval {

// compare_traces of two trace directories. Throws Error naming the file where a trace has no routes, where models or
// layers differ (TraceSet), where the samples are not the same in the same order, and where the given tokens of a
// sample are not the same.
TraceComparison compare_beside(const std::filesystem::path& first, const std::filesystem::path& second);

// The page of both. Throws what compare_beside throws.
std::string render_beside(const std::filesystem::path& first, const std::filesystem::path& second);

}  // namespace signalbox::eval
