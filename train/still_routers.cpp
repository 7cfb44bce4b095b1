#include "train/still_routers.h"

#include <algorithm>

#include "base/error.h"

namespace signalbox::train {

namespace {

bool is_still(const Router& router) {
  const bool normalised = router.renormalize || router.softmax_over_selected;
  if (router.n_active == 1 && normalised) return true;
  return router.n_experts == 1 && router.score == Router::Score::softmax;
}

}  // namespace

bool of_router(const TensorId& id) { return id.role == Role::router || id.role == Role::router_bias; }

std::string why_routers_stay(const Model& model, std::span<const TensorId> ids) {
  bool some = false;
  for (const TensorId& id : ids) {
    if (!of_router(id)) continue;
    some = true;
    if (!is_still(model.layers[static_cast<size_t>(id.layer)].moe()->router)) return "";
  }
  return some ? "expected routers that can learn, found one active expert a layer, whose weight is 1 whatever the "
                "router says: the router's gradient is 0"
              : "";
}

void refuse_still_routers(const std::string& where, const Model& model, std::span<const TensorId> ids) {
  if (!std::all_of(ids.begin(), ids.end(), of_router)) return;
  if (const std::string why = why_routers_stay(model, ids); !why.empty()) throw Error(where, why);
}

}  // namespace signalbox::train
