// What a map holds, on disk and in memory: its files, how cells of a sample are chosen, and what each expert's cells
// come to.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

inline constexpr const char* map_schema = "signalbox.map/1";  // of the manifest, the file and the summary
inline constexpr const char* map_file = "map.safetensors";
inline constexpr const char* map_summary_file = "summary.json";
inline constexpr const char* map_experts_file = "experts.csv";

// Which cells of a map are run where not all are: those whose first-order estimate is largest, and of the rest of every
// expert's cells a random sample. A cell's lot is a hash of seed, record, position, layer and expert, and those of the
// lowest lots are taken: so shards of the records can draw by themselves, and their union holds the sample of all.
struct MapSample {
  int64_t of_expert = 0;  // cells of each layer and expert, at least 2; all where there are fewer
  int64_t top = 0;        // cells of each record with the largest |estimate|
  uint64_t seed = 0;
};

// How a cell was chosen.
enum class Chosen : uint8_t { no = 0, top = 1, sampled = 2, all = 3 };

// [T, L, k] over the tokens of all records one after the other; L the layers of the map, k slots.
struct MapTable {
  json::Value settings = json::Value::object();       // metric, without, model, ...: members of the summary
  int64_t n_experts = 0, n_active = 0, n_layers = 0;  // of the model
  std::vector<int32_t> routed_layers;                 // of the model: those with a router
  std::vector<int32_t> layers;                        // of the map: absolute, ascending
  std::vector<std::string> ids;                       // of the records
  std::vector<int64_t> offsets = {0};                 // [records + 1]
  std::vector<double> base;                           // [records]
  std::vector<int32_t> tokens;                        // [T]
  std::vector<int32_t> experts;                       // [T, L, k] -1: unused slot
  std::vector<float> effect;                          // NaN: not computed
  // Of later tokens and layers with a router, this token's own included: how often the set of experts is another
  // without the slot. -1: not computed.
  std::vector<int32_t> flips;
  std::optional<MapSample> sample;
  std::vector<float> estimate;  // with a sample: first order, AtP; NaN: not asked for
  std::vector<uint8_t> chosen;  // with a sample: Chosen

  size_t row() const { return layers.size() * static_cast<size_t>(n_active); }
  size_t n_cells() const { return static_cast<size_t>(offsets.back()) * row(); }
};

// [T, L, k]: which cells are to be run, of the estimates and experts of these records. NaN estimates are none.
std::vector<uint8_t> choose_cells(const MapTable& table, const MapSample& sample);

// One expert's cells. Not sampled: mean over all cells. Sampled: with the N cells of the expert, those R that are not
// among the top, n of them sampled,
//   mean = (sum over the top of exact + sum over R of estimate + R mean over n of (exact - estimate)) / N
// which is unbiased over the draws of the sample, whatever the estimates are worth: they are a control variate. Its
// variance is (R / N)^2 s^2 / n (1 - n / R) with s^2 that of the n differences; the interval is Student's with n - 1
// degrees of freedom. It tells of the cells of these records that were not run, not of other records.
struct ExpertEffect {
  int32_t layer = 0, expert = 0;
  int64_t cells = 0, exact = 0, top = 0, sampled = 0;
  double mean_estimate = 0;  // NaN: not sampled
  double mean = 0, ci_lo = 0, ci_hi = 0;
  double variance = 0;  // of the mean
};
std::vector<ExpertEffect> expert_effects(const MapTable& table);  // by layer and expert; those with cells
// The mean over all cells, its interval with the degrees of freedom of Satterthwaite.
ExpertEffect all_effects(std::span<const ExpertEffect> experts);

struct MapCounts {
  int64_t cells = 0;                                 // run
  double layers_run = 0, layers_of_brute_force = 0;  // token-layers of these, attention's length left aside
  int64_t flipped = 0, flips = 0, places = 0;  // cells with a flip; flips, and later (token, layer) where one may be
  double share() const { return layers_of_brute_force > 0 ? layers_run / layers_of_brute_force : 0; }
};
MapCounts count_map(const MapTable& table);

// Writes map.safetensors, experts.csv and then summary.json: effect F32, flips I32, router.ids, tokens,
// sample_offsets, layers, base F64; with a sample atp F32 and chosen U8.
void write_map(const std::filesystem::path& dir, const MapTable& table);
MapTable read_map(const std::filesystem::path& dir);  // throws Error

// Writes `out` from the directories of all shards of a map (merge_runs). Throws Error.
void merge_maps(const std::filesystem::path& out, std::span<const std::filesystem::path> shards,
                const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace signalbox::eval
