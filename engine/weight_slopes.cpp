#include "engine/weight_slopes.h"

namespace signalbox::engine {

namespace {

std::string_view role_name(Role role) {
  switch (role) {
    case Role::embed: return "embed";
    case Role::final_norm: return "final_norm";
    case Role::lm_head: return "lm_head";
    case Role::attn_norm: return "attn_norm";
    case Role::ffn_norm: return "ffn_norm";
    case Role::q: return "q";
    case Role::k: return "k";
    case Role::v: return "v";
    case Role::o: return "o";
    case Role::q_bias: return "q.bias";
    case Role::k_bias: return "k.bias";
    case Role::v_bias: return "v.bias";
    case Role::o_bias: return "o.bias";
    case Role::q_norm: return "q_norm";
    case Role::k_norm: return "k_norm";
    case Role::sinks: return "sinks";
    case Role::q_a: return "q_a";
    case Role::q_a_bias: return "q_a.bias";
    case Role::q_a_norm: return "q_a_norm";
    case Role::q_b: return "q_b";
    case Role::kv_a: return "kv_a";
    case Role::kv_a_bias: return "kv_a.bias";
    case Role::kv_a_norm: return "kv_a_norm";
    case Role::kv_b: return "kv_b";
    case Role::dense_gate: return "dense.gate";
    case Role::dense_up: return "dense.up";
    case Role::dense_down: return "dense.down";
    case Role::router: return "router";
    case Role::router_bias: return "router.bias";
    case Role::selection_bias: return "router.selection_bias";
    case Role::expert_gate: return "gate";
    case Role::expert_up: return "up";
    case Role::expert_down: return "down";
    case Role::expert_gate_bias: return "gate.bias";
    case Role::expert_up_bias: return "up.bias";
    case Role::expert_down_bias: return "down.bias";
    case Role::shared_gate: return "shared.gate";
    case Role::shared_up: return "shared.up";
    case Role::shared_down: return "shared.down";
    case Role::shared_scale: return "shared.scale";
  }
  return "";
}

}  // namespace

std::string weight_name(const TensorId& id) {
  std::string name;
  if (id.layer >= 0) name += "layer." + std::to_string(id.layer) + ".";
  if (id.expert >= 0) name += "expert." + std::to_string(id.expert) + ".";
  return name + std::string(role_name(id.role));
}

bool has_gradient(Role role) { return role != Role::selection_bias; }

}  // namespace signalbox::engine
