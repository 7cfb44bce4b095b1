// Routes, and the edits that act inside the router.
//
// One kernel routes all models: Router (kernels/params.h) says how logits become a route, RouterProgram says what
// experimenters changed. Everything is plain data so that a device can read it from tables without a recapture or a
// recompile.
#pragma once
#include <cstdint>
#include <limits>

#include "base/namespaces.h"
#include "kernels/params.h"

namespace signalbox::kernels {

enum class EditOp : uint8_t {
  // (1) logit edits, in listed order
  ban,
  steermoe_down,
  steermoe_up,
  bias,
  temperature,
  // (2) selection
  top_k,
  force,
  // (3) route edits, in listed order, each on the route that the last one left
  next_best,
  swap_last,
  worst,
  shift,
  permute,
  random,
  gumbel,
  frequency_matched,
  fixed,
  replay,
  // (5) scales
  scale_expert,
  scale_shared,
};

// (4) What the selected experts weigh; taken from the last edit that acted on the route or the selection, in order of
// application: logit edits, selection, route edits, each in listed order.
enum class WeightPolicy : uint8_t { model, keep_scores, renormalize, preserve_mass, keep_slot, hole, recorded };

// One edit at one layer. Steps stand in listed order; the kernel applies them by stage.
struct RouterStep {
  EditOp op = EditOp::ban;
  WeightPolicy weights = WeightPolicy::model;
  bool exclude_original = false;  // random: draw among the experts that the unedited router did not choose
  bool leave_past = false;        // replay: positions past the recording keep their route
  bool within_kept = false;       // policies that rank or draw: among the experts of the groups that are kept
  int32_t edit = 0;               // column of RouteBatch::active that says for which tokens the edit acts
  int32_t k = 0;                  // top_k: slots of the route
  float value = 0;                // bias: added to the logits; temperature: divides; gumbel: tau; scales: factor
  int32_t shift = 0;              // shift: e -> (e + shift) mod n_experts, 0 <= shift < n_experts
  float margin_below = std::numeric_limits<float>::infinity();  // acts only where the token's margin is below this
  // Acts only where the choice is nearer than this to another one: the smaller of group_margin and, among the experts
  // of the groups kept, the n_active-th minus the next largest of what the unedited top-k sees.
  float near_tie_below = std::numeric_limits<float>::infinity();
  uint64_t seed = 0;                 // random, gumbel, frequency_matched
  const int32_t* experts = nullptr;  // [n_listed] ascending (fixed: slot order); permute: [n_experts] e -> experts[e]
  int32_t n_listed = 0;
  const float* rates = nullptr;                // frequency_matched: [n_experts] share of tokens that select the expert
  const int32_t* replay_ids = nullptr;         // replay: [replay_positions, replay_k], -1 = unused slot
  const float* replay_weights = nullptr;       // replay: [replay_positions, replay_k], null unless weights = recorded
  const int32_t* replay_index = nullptr;       // replay: row of a position, or -1 where nothing was recorded
  int32_t replay_positions = 0, replay_k = 0;  // replay_positions: length of replay_index
};

// All edits of one sequence at one layer.
struct RouterProgram {
  const RouterStep* steps = nullptr;
  int32_t n_steps = 0;
};

// What the router kernel reads about the tokens of a batch.
struct RouteBatch {
  int64_t n_tokens = 0;
  const int32_t* positions = nullptr;       // [n_tokens]
  const int32_t* sequences = nullptr;       // [n_tokens] index into programs and draw keys
  const RouterProgram* programs = nullptr;  // [n_sequences] at this layer; null when no sequence has router edits
  const uint8_t* active = nullptr;          // [n_tokens, n_edits] 1 = the edit's condition holds (but for its margin)
  int32_t n_edits = 0;
  const uint64_t* record_hash =
      nullptr;                        // [n_sequences] draws are keyed by (seed, record_hash, sample, position, layer)
  const uint32_t* samples = nullptr;  // [n_sequences]
  int32_t layer = 0;
};

// Why a route could not be made, for an error message.
struct RouteFault {
  enum class Kind : int32_t {
    none,
    too_few_candidates,
    too_many_forced,
    banned_expert,
    repeated_expert,
    not_recorded,
    not_finite
  };
  Kind kind = Kind::none;
  int32_t layer = 0, token = 0, edit = -1, expert = -1;
};

// A fault as one number, so that kernels keep the first of a sequence by an atomic minimum: the earliest layer, then
// the lowest token. no_fault is larger than all others. edit and expert lie between -1 and 4094, layer below 4096.
constexpr uint64_t no_fault = ~uint64_t{0};
constexpr int32_t max_fault_index = 4094;
constexpr uint64_t pack_fault(const RouteFault& f) {
  return static_cast<uint64_t>(f.layer) << 52 | static_cast<uint64_t>(f.token) << 28 |
         static_cast<uint64_t>(f.kind) << 24 | static_cast<uint64_t>(f.edit + 1) << 12 |
         static_cast<uint64_t>(f.expert + 1);
}
constexpr RouteFault unpack_fault(uint64_t packed) {
  if (packed == no_fault) return {};
  return {static_cast<RouteFault::Kind>(packed >> 24 & 15), static_cast<int32_t>(packed >> 52),
          static_cast<int32_t>(packed >> 28 & 0xffffff), static_cast<int32_t>(packed >> 12 & 4095) - 1,
          static_cast<int32_t>(packed & 4095) - 1};
}

// What edits did to a token's route, added up over the layers of a step. Slots are those of the wider of the two
// routes, the unedited one and the one applied; one is unchanged where an expert stands in both with the same weight.
struct TokenEdits {
  uint32_t layers = 0;   // in which some step acted (step_acts; a replay acts where something was recorded)
  uint32_t changed = 0;  // slots
  uint32_t added = 0;    // slots of the applied route beyond the number of the unedited one
};

// A ring in device memory that keeps the routes of the last steps until they are drained. The slot of a step is
// *step % n_steps: a number in device memory, so that a captured graph records into the next slot when it is replayed.
// Null members are not recorded. The entry of token t of this layer is [slot * step_stride + t] (times the width).
struct RouteRecord {
  const uint32_t* step = nullptr;  // null: nothing is recorded
  uint32_t n_steps = 1;
  int64_t step_stride = 0;          // entries (tokens) from one slot to the next
  int32_t* ids = nullptr;           // [.., n_slots]
  int32_t* original_ids = nullptr;  // [.., n_slots]
  float* weights = nullptr;         // [.., n_slots]
  float* margin = nullptr;          // [..]
  float* group_margin = nullptr;    // [..]
  float* logits = nullptr;          // [.., n_experts]
  float* scores = nullptr;          // [.., n_experts]
};

// What the router kernel writes. Slots beyond a token's own k hold id -1 and weight 0.
struct Route {
  int32_t n_slots = 0;              // slots a token: the largest k of any sequence in the run
  int32_t* ids = nullptr;           // [n_tokens, n_slots] as applied, slot order
  float* weights = nullptr;         // [n_tokens, n_slots] as applied, scale and scale_expert included
  int32_t* original_ids = nullptr;  // [n_tokens, n_slots] what the unedited router chose; may be null
  float* margin = nullptr;          // [n_tokens] n_active-th minus next largest unedited logit; inf if there is none
  float* group_margin = nullptr;    // [n_tokens] unedited: least group kept minus best dropped, in scores; may be null
  float* scores = nullptr;          // [n_tokens, n_experts] what the unedited top-k sees; may be null
  float* shared_scale = nullptr;    // [n_tokens] factor of the shared expert's output (scale_shared); may be null
  uint8_t* banned = nullptr;    // [n_tokens, n_experts] 1 = a ban acts; the expert kernels count those that ran. 0 for
                                // a token without a route, which runs what the unedited router chose
  uint64_t* faults = nullptr;   // [n_sequences] pack_fault of its first token that has no route; kept if smaller
  TokenEdits* edits = nullptr;  // [n_tokens] added to where some step acts; may be null
  RouteRecord record;
};

}  // namespace signalbox::kernels
