#include "engine/model.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace signalbox::engine {

namespace {

// What the engine's tables and 32-bit indices hold. Far above every model that exists.
constexpr int64_t max_layers = 1024, max_width = int64_t{1} << 20, max_vocab = int64_t{1} << 24;
constexpr int64_t max_heads = 4096, max_experts = 4096, max_position_count = int64_t{1} << 24;

class Checker {
 public:
  explicit Checker(const Model& model) : model_(model) {}

  void run() {
    range("n_layers", model_.n_layers(), 1, max_layers);
    range("d_model", model_.d_model, 1, max_width);
    range("n_vocab", model_.n_vocab, 1, max_vocab);
    range("max_positions", model_.max_positions, 1, max_position_count);
    if (!(model_.norm_eps > 0 && model_.norm_eps < 1)) fail("norm_eps", "a number between 0 and 1", model_.norm_eps);
    for (float frequency : model_.rope.inv_freq)
      if (!std::isfinite(frequency) || frequency < 0) fail("rope.inv_freq", "finite numbers of at least 0", frequency);
    if (!std::isfinite(model_.rope.magnitude) || model_.rope.magnitude <= 0)
      fail("rope.magnitude", "a finite number above 0", model_.rope.magnitude);
    if (model_.activation.kind == Activation::Kind::clamped) {
      if (!(model_.activation.limit > 0)) fail("activation.limit", "a number above 0", model_.activation.limit);
      if (!std::isfinite(model_.activation.alpha)) fail("activation.alpha", "a finite number", model_.activation.alpha);
    }
    for (size_t l = 0; l < model_.layers.size(); ++l) {
      prefix_ = "layer " + std::to_string(l) + ": ";
      const Layer& layer = model_.layers[l];
      std::visit([&](const auto& attention) { check(attention); }, layer.attention);
      std::visit([&](const auto& ffn) { check(ffn); }, layer.ffn);
    }
  }

 private:
  [[noreturn]] void fail(const std::string& key, const std::string& expected, double found) const {
    std::string text = std::to_string(found);
    throw Error(model_.source, prefix_ + key + ": expected " + expected + ", found " + text);
  }
  [[noreturn]] void fail(const std::string& key, const std::string& expected, int64_t found) const {
    throw Error(model_.source, prefix_ + key + ": expected " + expected + ", found " + std::to_string(found));
  }
  void range(const std::string& key, int64_t value, int64_t low, int64_t high) const {
    if (value < low || value > high)
      fail(key, "a whole number from " + std::to_string(low) + " to " + std::to_string(high), value);
  }
  void scale(float value) const {
    if (!std::isfinite(value) || value <= 0) fail("attention scale", "a finite number above 0", value);
  }

  void check(const Gqa& a) const {
    range("n_heads", a.n_heads, 1, max_heads);
    range("n_kv_heads", a.n_kv_heads, 1, max_heads);
    range("d_head", a.d_head, 2, 4096);
    if (a.n_heads % a.n_kv_heads != 0)
      fail("n_kv_heads", "a divisor of " + std::to_string(a.n_heads) + " heads", a.n_kv_heads);
    if (a.d_head % 2 != 0) fail("d_head", "an even number", a.d_head);
    if (model_.rope.n_dims() != a.d_head)
      fail("rope dimensions", std::to_string(a.d_head) + " (the head's)", model_.rope.n_dims());
    if (a.window < 0) fail("window", "a number of at least 0", a.window);
    if (!(a.clip >= 0) || !std::isfinite(a.clip)) fail("clip", "a finite number of at least 0", a.clip);
    scale(a.scale);
  }

  void check(const Mla& a) const {
    range("n_heads", a.n_heads, 1, max_heads);
    range("q_rank", a.q_rank, 0, max_width);
    range("d_latent", a.d_latent, 1, max_width);
    range("d_nope", a.d_nope, 1, 4096);
    range("d_rope", a.d_rope, 2, 4096);
    range("d_value", a.d_value, 1, 4096);
    if (a.d_rope % 2 != 0) fail("d_rope", "an even number", a.d_rope);
    if (model_.rope.n_dims() != a.d_rope)
      fail("rope dimensions", std::to_string(a.d_rope) + " (d_rope)", model_.rope.n_dims());
    if (!(a.latent_eps > 0)) fail("latent_eps", "a number above 0", a.latent_eps);
    scale(a.scale);
  }

  void check(const Dense& ffn) const { range("d_ff", ffn.d_ff, 1, max_width); }

  void check(const Moe& moe) const {
    const Router& r = moe.router;
    range("d_ff of an expert", moe.d_ff, 1, max_width);
    range("d_ff of the shared expert", moe.d_ff_shared, 0, max_width);
    range("n_experts", r.n_experts, 1, max_experts);
    if (r.n_active < 1 || r.n_active > r.n_experts)
      fail("n_active", "from 1 to " + std::to_string(r.n_experts) + " (the number of experts)", int64_t{r.n_active});
    range("n_groups", r.n_groups, 1, r.n_experts);
    if (r.n_experts % r.n_groups != 0)
      fail("n_groups", "a divisor of " + std::to_string(r.n_experts) + " experts", int64_t{r.n_groups});
    if (r.n_groups_kept < 1 || r.n_groups_kept > r.n_groups)
      fail("n_groups_kept", "from 1 to " + std::to_string(r.n_groups) + " (the number of groups)",
           int64_t{r.n_groups_kept});
    if (r.group_score == Router::GroupScore::sum_top2 && r.n_groups > 1 && r.n_experts / r.n_groups < 2)
      fail("n_groups", "groups of at least 2 experts", int64_t{r.n_groups});
    if (!std::isfinite(r.scale) || r.scale <= 0) fail("router scale", "a finite number above 0", r.scale);
    if (moe.shared_gate && moe.d_ff_shared == 0)
      fail("d_ff of the shared expert", "more than 0 with a gate", int64_t{0});
  }

  const Model& model_;
  std::string prefix_;
};

}  // namespace

std::vector<int32_t> Model::moe_layers() const {
  std::vector<int32_t> found;
  for (size_t l = 0; l < layers.size(); ++l)
    if (layers[l].moe()) found.push_back(static_cast<int32_t>(l));
  return found;
}

int32_t Model::n_experts() const {
  int32_t n = 0;
  for (const Layer& layer : layers)
    if (const Moe* moe = layer.moe()) n = std::max(n, moe->router.n_experts);
  return n;
}

int32_t Model::n_active() const {
  int32_t n = 0;
  for (const Layer& layer : layers)
    if (const Moe* moe = layer.moe()) n = std::max(n, moe->router.n_active);
  return n;
}

std::pair<int64_t, int64_t> Model::kv_width(const Layer& layer) {
  if (const Gqa* a = std::get_if<Gqa>(&layer.attention)) return {a->n_kv_heads * a->d_head, a->n_kv_heads * a->d_head};
  const Mla& a = std::get<Mla>(layer.attention);
  return {a.d_latent + a.d_rope, 0};  // the latent is key and value
}

ModelShape probe_shape(const Model& model) {
  ModelShape shape;
  shape.d_model = model.d_model;
  shape.n_vocab = model.n_vocab;
  for (const Layer& layer : model.layers) {
    LayerShape described;
    if (const Moe* moe = layer.moe()) {
      described = {true, moe->router.n_experts, moe->router.n_active, moe->d_ff, moe->d_ff_shared > 0};
      described.groups = moe->router.limits_groups();
      if (described.groups) described.n_kept = moe->router.n_experts / moe->router.n_groups * moe->router.n_groups_kept;
    } else {
      described.d_ff = std::get<Dense>(layer.ffn).d_ff;
    }
    if (const Gqa* a = std::get_if<Gqa>(&layer.attention)) {
      described.attention = {a->n_heads, a->n_kv_heads, a->d_head, a->d_head, a->d_head};
    } else {
      const Mla& latent = std::get<Mla>(layer.attention);
      described.attention = {latent.n_heads, 1, latent.d_latent + latent.d_rope, latent.d_latent, latent.d_value};
    }
    shape.layers.push_back(described);
  }
  return shape;
}

void validate(const Model& model) { Checker(model).run(); }

}  // namespace signalbox::engine
