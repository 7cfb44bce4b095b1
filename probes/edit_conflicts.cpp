// Edits that cannot hold together, found before the first token. What depends on the tokens at hand is left to the
// router kernel, which reports it as a RouteFault.
#include <algorithm>
#include <set>

#include "probes/edit_plan.h"

namespace signalbox::probes {

namespace {

class LayerCheck {
 public:
  LayerCheck(const PlanData& plan, const std::vector<EditSpec>& specs, int32_t layer)
      : steps_(plan.steps[layer]),
        specs_(specs),
        layer_(layer),
        n_experts_(plan.shape.layers[layer].n_experts),
        n_active_(plan.shape.layers[layer].n_active),
        n_kept_(plan.shape.layers[layer].n_kept) {
    ks_ = {n_active_};
    for (const RouterStep& step : steps_) {
      if (step.op == EditOp::top_k) {
        if (always(step)) ks_.clear();
        ks_.insert(step.k);
      }
      if (step.op == EditOp::ban && always(step)) banned_.insert(step.experts, step.experts + step.n_listed);
      if (step.op == EditOp::force && always(step)) forced_.insert(step.experts, step.experts + step.n_listed);
    }
  }

  void check() const {
    for (const RouterStep& step : steps_) {
      check_kept(step);
      switch (step.op) {
        case EditOp::ban: check_candidates(step, banned_and(step), *ks_.begin(), ""); break;
        case EditOp::top_k: check_candidates(step, banned_, step.k, ""); break;
        case EditOp::force: check_force(step); break;
        case EditOp::fixed: check_fixed(step); break;
        case EditOp::next_best: check_candidates(step, banned_, 2 * *ks_.begin(), " for next_best"); break;
        case EditOp::swap_last: check_candidates(step, banned_, *ks_.begin() + 1, " for swap_last"); break;
        case EditOp::random:
          if (step.exclude_original && n_experts_ - n_active_ < *ks_.begin())
            fail(step, "expected at least " + std::to_string(*ks_.begin()) +
                           " experts beside the original ones, found " + std::to_string(n_experts_ - n_active_));
          break;
        case EditOp::frequency_matched: check_rates(step); break;
        default: break;
      }
      if (step.weights == WeightPolicy::keep_slot && *ks_.rbegin() > n_active_)
        fail(step, "expected no more slots than the original route's " + std::to_string(n_active_) +
                       " for weights \"keep_slot\", found " + std::to_string(*ks_.rbegin()));
    }
  }

 private:
  using Set = std::set<int32_t>;

  [[noreturn]] void fail(const RouterStep& step, const std::string& reason) const {
    specs_[step.edit].ref.fail("layer " + std::to_string(layer_) + ": " + reason);
  }
  bool always(const RouterStep& step) const { return specs_[step.edit].tokens.always(); }
  Set banned_and(const RouterStep& step) const {
    Set banned = banned_;
    banned.insert(step.experts, step.experts + step.n_listed);
    return banned;
  }

  void check_candidates(const RouterStep& step, const Set& banned, int32_t needed, const char* purpose) const {
    const int32_t left = n_experts_ - static_cast<int32_t>(banned.size());
    if (left >= needed) return;
    fail(step, "expected at least " + std::to_string(needed) + " experts" + purpose + ", found " +
                   std::to_string(left) + " of " + std::to_string(n_experts_) +
                   (banned.empty() ? "" : " that no ban removes") + (n_active_ < n_experts_ ? "" : cure(step, left)));
  }

  // Where the model leaves no expert out (k = E) nothing can take the place of one.
  std::string cure(const RouterStep& step, int32_t left) const {
    std::string text = " (the model selects all " + std::to_string(n_experts_) + " experts for every token";
    if (step.op != EditOp::ban || left < 1) return text + ")";
    return text +
           ": {\"op\": \"scale_expert\", \"by\": 0} takes away what an expert adds and needs no other, or put "
           "{\"op\": \"top_k\", \"k\": " +
           std::to_string(left) + "} before the ban)";
  }

  // Policies within the groups that are kept: there must be enough experts in them, whichever these are.
  void check_kept(const RouterStep& step) const {
    if (!step.within_kept) return;
    const int32_t k = *ks_.begin();
    const int32_t needed = step.op == EditOp::next_best   ? 2 * k
                           : step.op == EditOp::swap_last ? k + 1
                           : step.exclude_original        ? k + n_active_
                                                          : k;
    if (n_kept_ < needed)
      fail(step, "expected at least " + std::to_string(needed) + " experts in the groups that are kept, found " +
                     std::to_string(n_kept_));
  }

  // An expert of the step that a ban removes while both act: surely so when one of the two acts on every token.
  void check_bans(const RouterStep& step, const char* what) const {
    for (const RouterStep& ban : steps_) {
      if (ban.op != EditOp::ban || !(always(ban) || always(step))) continue;
      for (int32_t i = 0; i < step.n_listed; ++i)
        if (std::find(ban.experts, ban.experts + ban.n_listed, step.experts[i]) != ban.experts + ban.n_listed)
          fail(step, std::string("expected ") + what + " experts that no ban removes, found " +
                         std::to_string(step.experts[i]) + ", banned by " + specs_[ban.edit].ref.path());
    }
  }
  void check_force(const RouterStep& step) const {
    Set forced = forced_;
    forced.insert(step.experts, step.experts + step.n_listed);
    if (static_cast<int32_t>(forced.size()) > *ks_.rbegin())
      fail(step, "expected at most " + std::to_string(*ks_.rbegin()) + " forced experts, found " +
                     std::to_string(forced.size()));
    check_bans(step, "forced");
  }
  void check_fixed(const RouterStep& step) const {
    if (!ks_.contains(step.n_listed))
      fail(step, "expected " + std::to_string(*ks_.begin()) + " experts for fixed, one a slot, found " +
                     std::to_string(step.n_listed));
    check_bans(step, "fixed");
  }
  void check_rates(const RouterStep& step) const {
    int32_t n = 0;
    for (int32_t e = 0; e < n_experts_; ++e) n += step.rates[e] > 0 && !banned_.contains(e);
    if (n < *ks_.begin())
      fail(step, "expected at least " + std::to_string(*ks_.begin()) +
                     " experts with a share above 0 that no ban removes, found " + std::to_string(n));
  }

  const std::vector<RouterStep>& steps_;
  const std::vector<EditSpec>& specs_;
  int32_t layer_, n_experts_, n_active_, n_kept_;
  Set ks_;               // slots that a route may have, given which top_k edits act
  Set banned_, forced_;  // at every token
};

}  // namespace

void check_conflicts(const PlanData& plan, const std::vector<EditSpec>& specs) {
  for (int32_t layer = 0; layer < plan.shape.n_layers(); ++layer)
    if (!plan.steps[layer].empty()) LayerCheck(plan, specs, layer).check();
}

}  // namespace signalbox::probes
