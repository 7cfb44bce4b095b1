// The stages of the router, one function each, for one token. router.cpp holds what a model does by itself,
// router_edits.cpp what experimenters change.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "kernels/router.h"
#include "kernels/router_steps.h"

namespace signalbox::kernels::cpu {

// What a row of logits says about every expert.
struct Scored {
  std::vector<float> scores;     // [n_experts] what weights are made of; 0 for experts of groups that are not kept
  std::vector<float> values;     // [n_experts] what the top-k sees
  float group_margin = 0;        // least group kept minus best group dropped; infinity where no group is dropped
  std::vector<uint8_t> dropped;  // [n_experts] 1 = of a group that is not kept; empty: no group is dropped
};

// scores and values of logits [n_experts]. Experts with banned[e] (null: none) do not speak for their group.
void score_experts(Scored& out, const Router& router, const float* logits, const float* selection_bias,
                   const uint8_t* banned);

// The n_ranked best experts that are not banned, or all of them if fewer: value descending, ties to the lowest index.
void rank_experts(std::vector<int32_t>& order, const float* values, const uint8_t* banned, int64_t n_experts,
                  int64_t n_ranked);

// The family's own weights of the experts ids [k]: scores, or softmax over the selected logits; then renormalisation
// and scale.
void weigh_experts(float* weights, const Router& router, const Scored& scored, const float* logits, const int32_t* ids,
                   int64_t k);

// How the weights of a token came about, for whoever wants their gradient.
struct Weighing {
  const float* logits = nullptr;   // that they were made of
  const Scored* scored = nullptr;  // of these
  WeightPolicy policy = WeightPolicy::model;
  bool recorded = false;  // they are those of a recording
  bool steered = false;   // a steermoe edit has acted on `logits`
  float temperature = 1;  // by which `logits` were divided
};

// A token's route and everything the edits of one layer need to know about it.
struct EditedToken {
  // What the unedited router made of the token.
  const float* logits = nullptr;  // [n_experts]
  const Scored* scored = nullptr;
  const int32_t* original_ids = nullptr;    // [n_active]
  const float* original_weights = nullptr;  // [n_active]
  RouteMargins margins;
  // Where the token stands.
  int32_t position = 0, layer = 0;
  uint64_t record_hash = 0;
  uint32_t sample = 0;
  const uint8_t* active = nullptr;  // [n_edits] conditions that hold, null: all
  // Results.
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<float> factors;  // of each weight, by edits of stage 5
  Weighing weighing;
  float shared_scale = 1;
  bool acted = false;         // some step of the program did
  uint8_t* banned = nullptr;  // [n_experts], zero on entry
};

// Memory of one thread, kept between tokens.
struct RouterWorkspace {
  Scored scored, edited_scored;
  std::vector<float> edited_logits, original_weights, perturbed;
  std::vector<int32_t> order, candidates, original_ids, ranking;
  std::vector<uint8_t> banned, taken, beyond;
  EditedToken token;
};

// Applies a program to a token. Throws RouteFault (kind, edit, expert) where the edits cannot be applied.
void apply_program(EditedToken& token, RouterWorkspace& workspace, const Router& router, const float* selection_bias,
                   const RouterProgram& program);

// Routes token t of the batch as the router does: w.scored, w.original_ids and w.original_weights, and where an edit
// acts (the result) w.token. logits [n_experts]. Throws RouteFault where the edits cannot be applied.
bool edit_token(RouterWorkspace& w, int64_t t, const float* logits, const Router& router, const float* selection_bias,
                const RouteBatch& batch);

}  // namespace signalbox::kernels::cpu
