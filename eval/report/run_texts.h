// The texts of a run: a browser over all that there is room for, and a few as a table where no script runs.
#pragma once
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/report/sample_digest.h"

namespace signalbox::eval {

// {baseline first: "interventions", "metrics", "conditions", "strings": texts, each once, "records": [{"id",
// "condition": index, "question", "prompt": indices of strings, "texts": by intervention [string, finish reason, score,
// ...], or null where there is none}]}; an undefined score is null.
json::Value texts_json(const SampleDigest& digest);

// HTML; empty where the run has no texts.
std::string texts_section(const SampleDigest& digest);

}  // namespace signalbox::eval
