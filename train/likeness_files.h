// What a comparison of two models' experts leaves: similarity.csv, similarity.json, and what a terminal shows.
#pragma once
#include <filesystem>
#include <string>

#include "base/json.h"
#include "train/expert_similarity.h"

namespace signalbox::train {

inline constexpr const char* likeness_files[] = {"similarity.csv", "similarity.json"};

// {"kind", "scale", "tokens_fitted", "tokens_judged", "residual", "error_none", ...}; what was not tried is null.
json::Value basis_json(const BasisMap& map);
// "procrustes (error 0.031, as they are 0.980)", for people.
std::string basis_text(const BasisMap& map);

// `about`: members of similarity.json that the caller knows (models, command line, hashes).
void write_likeness(const LikenessResult& result, json::Value about, const std::filesystem::path& directory);

// A row for each two layers. `width`: columns of the terminal, 0: any.
std::string likeness_table(const LikenessResult& result, int width);

}  // namespace signalbox::train
