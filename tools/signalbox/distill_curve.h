// Quality against size: students of several sizes that train distill makes one after the other, in one table and one
// picture (docs/distillation.md).
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/namespaces.h"
#include "eval/store/manifest.h"
#include "train/training.h"

namespace signalbox::tools {

inline constexpr const char* distill_curve_schema = "signalbox.distill-curve/1";  // of manifest.json

struct DistillCurve {
  std::filesystem::path dir;
  std::vector<int64_t> keep;  // ascending
  Manifest manifest;
  // Fills `dir` with the student of one size, as a command for that size alone does, or goes on there.
  std::function<train::TrainingEnd(int64_t keep, const std::filesystem::path& dir)> distil;
};

// dir/keep-K of every size; quality.csv, of the original and then of each size its other rows, and likewise
// quality_other.csv where there are other domains; curve.svg; report.html. Throws what `distil` and WorkDirectory do,
// and Error where the students' originals are not the same.
train::TrainingEnd distil_curve(const DistillCurve& curve);

// As a table and where the files lie; or, for --json, as one line.
void show_curve(const std::filesystem::path& dir, bool json);

}  // namespace signalbox::tools
