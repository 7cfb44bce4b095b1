// How planted experts come about: reserved dimensions of the residual stream that only embeddings (or one planted
// attention head) write and only their routers read. docs/make-model.md tells the construction.
#pragma once
#include <memory>

#include "base/namespaces.h"
#include "loaders/synthetic/reserved.h"
#include "loaders/synthetic/spec.h"

namespace signalbox::loaders::synthetic {

class Planting {
 public:
  // Error when a condition cannot be built into this model. `reserved` must outlive it.
  Planting(const Spec& spec, Reserved& reserved);

  // Overwrites planted values in rows first .. first + n of a tensor (vectors: one row). `values` [n, cols].
  void apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const;

  // The truth, for planted.json.
  json::Value truth() const;

 private:
  struct Site {
    Plant plant;
    int64_t dim = 0;                // the reserved dimension that says that the condition holds
    double on = 0, off = 0;         // the expert's logit under the condition and without it
    bool hard = true;               // the logit has no random part
    int32_t layer = -1, head = -1;  // from_begin: the attention head that spreads the condition
    int64_t source_dim = 0;         // from_begin: the reserved dimension that marks the begin token
    int64_t reach = 0;              // from_begin: tokens over which the head finds the begin token; 0 = all
  };
  void place_head(Site& site);
  void apply_head(const Site& site, const TensorPlace& slot, int64_t first, int64_t n, float* values) const;
  void apply_gqa(const Site& site, const Gqa& gqa, const TensorPlace& slot, int64_t first, int64_t n,
                 float* values) const;
  void apply_mla(const Site& site, const Mla& mla, const TensorPlace& slot, int64_t first, int64_t n,
                 float* values) const;

  const Model& model_;
  const Reserved& reserved_;
  std::vector<Site> plants_;
};

// The logit offset, in standard deviations of the logits, at which an expert among `n_experts` whose logits are
// independent and normal is selected by a share `rate` of tokens. +-infinity for rates of 1 and 0.
double selection_offset(double rate, int n_experts, int n_active);

}  // namespace signalbox::loaders::synthetic
