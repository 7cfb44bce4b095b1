// One edit as written, after everything that can be checked without a model: its keys, their types, their combination.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "kernels/router.h"
#include "probes/phase.h"
#include "probes/points.h"
#include "probes/ranking.h"

namespace signalbox::probes {

// "3-20,25" or "all".
struct LayerList {
  struct Item {
    int32_t first = 0, last = 0;
    bool range = false;  // written as a range: layers that the edit cannot act on are skipped
  };
  bool all = true;
  std::vector<Item> items;

  static LayerList parse(const json::Ref& text);
};
// "3-5,7" of ascending layers, as LayerList reads it.
std::string layer_ranges(const std::vector<int32_t>& layers);

// The key "experts".
struct ExpertList {
  enum class Kind : uint8_t { none, list, by_layer, ranking };
  Kind kind = Kind::none;
  std::vector<int32_t> list;
  std::vector<std::pair<int32_t, std::vector<int32_t>>> by_layer;
  Ranking ranking;

  static ExpertList parse(const json::Ref& experts, const std::filesystem::path& base_dir);
};

// The key "tokens": on which an edit acts. All that is given must hold.
struct TokenSelector {
  Phase phase = Phase::all;
  std::string span;                                              // empty: none asked for
  int64_t begin = 0, end = std::numeric_limits<int64_t>::max();  // positions
  double fraction = 1;
  float margin_below = std::numeric_limits<float>::infinity();
  float near_tie_below = std::numeric_limits<float>::infinity();

  // Depends on what the router makes of the token.
  bool by_margin() const {
    return margin_below != std::numeric_limits<float>::infinity() ||
           near_tie_below != std::numeric_limits<float>::infinity();
  }
  // Holds for every token, whatever the sequence.
  bool always() const {
    return phase == Phase::all && span.empty() && begin == 0 && end == std::numeric_limits<int64_t>::max() &&
           fraction >= 1 && !by_margin();
  }
  // Can hold for no token.
  bool never() const { return fraction <= 0 || margin_below <= 0 || near_tie_below <= 0; }

  static TokenSelector parse(const json::Ref& tokens);
};

// "FILE:tensor".
struct TensorSource {
  std::filesystem::path file;
  std::string tensor;
};

struct EditSpec {
  enum class Kind : uint8_t { router, ablate, add, patch };
  explicit EditSpec(json::Ref ref) : ref(std::move(ref)) {}
  json::Ref ref;  // edits[i], for messages
  Kind kind = Kind::router;
  EditOp op = EditOp::ban;  // router
  LayerList layers;
  bool layers_given = false;
  ExpertList experts;
  TokenSelector tokens;
  uint64_t seed = 0;
  WeightPolicy weights = WeightPolicy::model;
  double by = 0;  // bias, scales, shift; tau of gumbel; t of temperature; scale of add
  int64_t k = 0;  // top_k
  bool exclude_original = false;
  bool leave_past = false;
  bool within_kept = false;
  std::filesystem::path file;         // rates of frequency_matched; trace of replay, patch and mean_of
  std::string memory;                 // NAME of a recording or vector in memory instead; empty: none
  std::optional<std::string> sample;  // replay, patch, add: a record's id; none = the record's own
  Point point = Point::embed;         // ablate, add, patch
  enum class Value : uint8_t { zero, tensor, mean };
  Value value = Value::zero;     // ablate
  TensorSource source;           // ablate with a tensor, add
  bool adds_recording = false;   // add: "from", not "vector"
  std::vector<int32_t> neurons;  // ablate, patch
  bool neurons_given = false;
  bool needs_experts = false;  // the op is about experts; else "experts" is a filter, or does not belong

  // Throws Error where the edit is one of generated tokens alone and `only_given` says why none is run (empty: some
  // are).
  void refuse_no_token(const std::string& only_given) const;
  // Throws Error naming the key. `memory`: "memory:NAME" names values in memory, not a file.
  static EditSpec parse(const json::Ref& edit, const std::filesystem::path& base_dir, uint64_t seed,
                        bool memory = false);
};

}  // namespace signalbox::probes
