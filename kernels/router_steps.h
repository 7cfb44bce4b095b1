// When an edit of a route acts, and in which stage: the same on every device.
#pragma once
#include "base/namespaces.h"
#include "kernels/host_device.h"
#include "kernels/router.h"

namespace signalbox::kernels {

// In order of application; within a stage, as listed.
enum class EditStage : uint8_t { logits, selection, route, scales };

SIGNALBOX_HOST_DEVICE inline EditStage stage_of(EditOp op) {
  switch (op) {
    case EditOp::ban:
    case EditOp::steermoe_down:
    case EditOp::steermoe_up:
    case EditOp::bias:
    case EditOp::temperature: return EditStage::logits;
    case EditOp::top_k:
    case EditOp::force: return EditStage::selection;
    case EditOp::scale_expert:
    case EditOp::scale_shared: return EditStage::scales;
    default: return EditStage::route;
  }
}

// An edit whose numbers say that nothing changes does not act, whatever its weights policy.
SIGNALBOX_HOST_DEVICE inline bool is_no_op(const RouterStep& step) {
  switch (step.op) {
    case EditOp::ban:
    case EditOp::steermoe_down:
    case EditOp::steermoe_up:
    case EditOp::force: return step.n_listed == 0;
    case EditOp::bias: return step.value == 0 || step.n_listed == 0;
    case EditOp::temperature:
    case EditOp::scale_shared: return step.value == 1;
    case EditOp::scale_expert: return step.value == 1 || step.n_listed == 0;
    case EditOp::shift: return step.shift == 0;
    default: return false;
  }
}

inline constexpr float any_margin = std::numeric_limits<float>::infinity();

// How near a token's choice at this layer is to another one, unedited.
struct RouteMargins {
  float logits = 0;    // Route::margin
  float near_tie = 0;  // RouterStep::near_tie_below; any_margin where no step of the program asks
};

// active: columns of the token's conditions, null: all hold.
SIGNALBOX_HOST_DEVICE inline bool step_acts(const RouterStep& step, const uint8_t* active,
                                            const RouteMargins& margins) {
  if (is_no_op(step) || (active && !active[step.edit])) return false;
  return (step.margin_below == any_margin || margins.logits < step.margin_below) &&
         (step.near_tie_below == any_margin || margins.near_tie < step.near_tie_below);
}

SIGNALBOX_HOST_DEVICE inline bool asks_for_near_ties(const RouterProgram& program) {
  for (int32_t i = 0; i < program.n_steps; ++i) {
    if (program.steps[i].near_tie_below != any_margin) return true;
  }
  return false;
}

// Whether any step of the program acts on this token.
SIGNALBOX_HOST_DEVICE inline bool program_acts(const RouterProgram& program, const uint8_t* active,
                                               const RouteMargins& margins) {
  for (int32_t i = 0; i < program.n_steps; ++i) {
    if (step_acts(program.steps[i], active, margins)) return true;
  }
  return false;
}

}  // namespace signalbox::kernels
