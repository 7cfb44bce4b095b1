#include "engine/weights.h"

namespace signalbox::engine {

namespace {

// Visits the tensors of one layer. Lists of experts are sized here and not before, so that a model of many layers whose
// first tensor is missing has cost nothing.
class LayerVisitor {
 public:
  LayerVisitor(const Model& model, int32_t layer, LayerWeights& weights,
               const std::function<void(const TensorPlace&)>& visit)
      : model_(model), layer_(layer), weights_(weights), visit_(visit) {}

  void run() {
    const Layer& layer = model_.layers[layer_];
    vector(Role::attn_norm, model_.d_model, weights_.attn_norm);
    if (const Gqa* gqa = std::get_if<Gqa>(&layer.attention)) {
      visit(*gqa, as<GqaWeights>(weights_.attention));
    } else {
      visit(std::get<Mla>(layer.attention), as<MlaWeights>(weights_.attention));
    }
    vector(Role::ffn_norm, model_.d_model, weights_.ffn_norm);
    if (const Dense* dense = std::get_if<Dense>(&layer.ffn)) {
      DenseWeights& w = as<DenseWeights>(weights_.ffn);
      matrix(Role::dense_gate, dense->d_ff, model_.d_model, w.gate);
      matrix(Role::dense_up, dense->d_ff, model_.d_model, w.up);
      matrix(Role::dense_down, model_.d_model, dense->d_ff, w.down);
    } else {
      visit(std::get<Moe>(layer.ffn), as<MoeWeights>(weights_.ffn));
    }
  }

 private:
  // The alternative T, made if another one is there: views of weights that are loaded already stay.
  template <class T, class Variant>
  static T& as(Variant& variant) {
    if (T* held = std::get_if<T>(&variant)) return *held;
    return variant.template emplace<T>();
  }
  void matrix(Role role, int64_t rows, int64_t cols, Matrix& view, int32_t expert = -1) {
    visit_({{role, layer_, expert}, rows, cols, &view, nullptr});
  }
  void vector(Role role, int64_t n, Vector& view, int32_t expert = -1) {
    visit_({{role, layer_, expert}, 1, n, nullptr, &view});
  }

  void visit(const Gqa& a, GqaWeights& w) {
    const int64_t n_q = a.n_heads * a.d_head, n_kv = a.n_kv_heads * a.d_head;
    matrix(Role::q, n_q, model_.d_model, w.q);
    matrix(Role::k, n_kv, model_.d_model, w.k);
    matrix(Role::v, n_kv, model_.d_model, w.v);
    if (a.qkv_bias) {
      vector(Role::q_bias, n_q, w.q_bias);
      vector(Role::k_bias, n_kv, w.k_bias);
      vector(Role::v_bias, n_kv, w.v_bias);
    }
    if (a.qk_norm != Gqa::QkNorm::none) {
      const bool whole = a.qk_norm == Gqa::QkNorm::whole;
      vector(Role::q_norm, whole ? n_q : a.d_head, w.q_norm);
      vector(Role::k_norm, whole ? n_kv : a.d_head, w.k_norm);
    }
    if (a.sinks) vector(Role::sinks, a.n_heads, w.sinks);
    matrix(Role::o, model_.d_model, n_q, w.o);
    if (a.o_bias) vector(Role::o_bias, model_.d_model, w.o_bias);
  }

  void visit(const Mla& a, MlaWeights& w) {
    const int64_t n_q = a.n_heads * (a.d_nope + a.d_rope);
    if (a.q_rank > 0) {
      matrix(Role::q_a, a.q_rank, model_.d_model, w.q_a);
      if (a.bias) vector(Role::q_a_bias, a.q_rank, w.q_a_bias);
      vector(Role::q_a_norm, a.q_rank, w.q_a_norm);
      matrix(Role::q_b, n_q, a.q_rank, w.q_b);
    } else {
      matrix(Role::q, n_q, model_.d_model, w.q);
    }
    matrix(Role::kv_a, a.d_latent + a.d_rope, model_.d_model, w.kv_a);
    if (a.bias) vector(Role::kv_a_bias, a.d_latent + a.d_rope, w.kv_a_bias);
    vector(Role::kv_a_norm, a.d_latent, w.kv_a_norm);
    matrix(Role::kv_b, a.n_heads * (a.d_nope + a.d_value), a.d_latent, w.kv_b);
    matrix(Role::o, model_.d_model, a.n_heads * a.d_value, w.o);
    if (a.bias) vector(Role::o_bias, model_.d_model, w.o_bias);
  }

  void visit(const Moe& moe, MoeWeights& w) {
    const int32_t n = moe.router.n_experts;
    matrix(Role::router, n, model_.d_model, w.router);
    if (moe.router.bias) vector(Role::router_bias, n, w.router_bias);
    if (moe.router.selection_bias) vector(Role::selection_bias, n, w.selection_bias);
    for (auto* list : {&w.gate, &w.up, &w.down}) list->resize(n);
    for (auto* list : {&w.gate_bias, &w.up_bias, &w.down_bias}) list->resize(moe.bias ? n : 0);
    for (int32_t e = 0; e < n; ++e) {
      matrix(Role::expert_gate, moe.d_ff, model_.d_model, w.gate[e], e);
      matrix(Role::expert_up, moe.d_ff, model_.d_model, w.up[e], e);
      matrix(Role::expert_down, model_.d_model, moe.d_ff, w.down[e], e);
      if (!moe.bias) continue;
      vector(Role::expert_gate_bias, moe.d_ff, w.gate_bias[e], e);
      vector(Role::expert_up_bias, moe.d_ff, w.up_bias[e], e);
      vector(Role::expert_down_bias, model_.d_model, w.down_bias[e], e);
    }
    if (moe.d_ff_shared > 0) {
      matrix(Role::shared_gate, moe.d_ff_shared, model_.d_model, w.shared_gate);
      matrix(Role::shared_up, moe.d_ff_shared, model_.d_model, w.shared_up);
      matrix(Role::shared_down, model_.d_model, moe.d_ff_shared, w.shared_down);
      if (moe.shared_gate) matrix(Role::shared_scale, 1, model_.d_model, w.shared_scale);
    }
  }

  const Model& model_;
  const int32_t layer_;
  LayerWeights& weights_;
  const std::function<void(const TensorPlace&)>& visit_;
};

}  // namespace

void for_each_tensor(const Model& model, Weights& weights, const std::function<void(const TensorPlace&)>& visit) {
  weights.layers.resize(model.layers.size());
  visit({{Role::embed, -1, -1}, model.n_vocab, model.d_model, &weights.embed, nullptr});
  for (size_t l = 0; l < model.layers.size(); ++l)
    LayerVisitor(model, static_cast<int32_t>(l), weights.layers[l], visit).run();
  visit({{Role::final_norm, -1, -1}, 1, model.d_model, nullptr, &weights.final_norm});
  if (!model.tied_embeddings) visit({{Role::lm_head, -1, -1}, model.n_vocab, model.d_model, &weights.lm_head, nullptr});
}

ParameterCount count_parameters(const Model& model) {
  ParameterCount count;
  Weights scratch;
  for_each_tensor(model, scratch, [&](const TensorPlace& slot) {
    const int64_t n = slot.rows * slot.cols;
    count.total += n;
    if (slot.id.role == Role::embed) {
      count.active += model.tied_embeddings ? n : slot.cols;  // tied: the output layer reads all rows, that one too
    } else if (slot.id.expert < 0 || slot.id.expert < model.layers[slot.id.layer].moe()->router.n_active) {
      count.active += n;
    }
  });
  return count;
}

}  // namespace signalbox::engine
