// The report of a causal map (`signalbox causal map`): what taking each expert's slot of each token out does.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

bool is_map_directory(const std::filesystem::path& dir);

// What a page takes of a map at most.
struct MapLimits {
  int64_t bytes = 4 * 1024 * 1024;  // of effects, estimates and ids, before base64
  int64_t record_tokens = 2000;     // the beginning of a longer record
};

// One HTML page of map.safetensors, texts.jsonl, experts.csv and summary.json: what was found in sentences, for every
// record its text and a map of tokens and layers, and the experts whose removal matters most. Throws Error naming the
// file that is missing or wrong.
std::string render_map_report(const std::filesystem::path& dir, const MapLimits& limits = {});

}  // namespace signalbox::eval
