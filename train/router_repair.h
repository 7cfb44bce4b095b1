// Routers of a compressed model that learn from the original: a router that lost rows, or whose experts were merged,
// sends tokens as if nothing had happened. All but the routers is frozen (arXiv 2603.02217).
#pragma once
#include "train/distillation.h"

namespace signalbox::train {

inline constexpr const char* router_schema = "signalbox.train-router/1";  // of manifest.json

struct RouterRepair {
  Session* original = nullptr;  // on a CPU
  const loaders::Rewrite* original_files = nullptr;
  std::filesystem::path student;  // the compressed checkpoint
  loaders::OpenOptions open;
  Splits splits;
  std::filesystem::path dir;
  Manifest manifest;
  Teacher teacher;  // its forward is made here
  TrainingSettings settings;
  std::optional<int32_t> end_token;
  std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)> on_progress;
  std::function<void(const std::string& line)> on_note;
  const std::atomic<bool>* interrupted = nullptr;
};

// Fills `dir`, which is a checkpoint in the end, with quality.csv (original, before, after), log.csv and stop.csv. A
// second call with the same inputs goes on, to the same bytes. Throws Error: another vocabulary, a student without
// routers or with routers that cannot learn, and as train() does.
TrainingEnd repair_routers(const RouterRepair& repair);

}  // namespace signalbox::train
