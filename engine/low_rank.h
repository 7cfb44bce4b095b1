// Adapters beside the weights, not merged in them: sequences of one batch may have different ones, or none. After each
// product of a matrix that an adapter of theirs changes, rows of such sequences get s b a x added, those of experts for
// the tokens of that expert alone. Bits of a sequence do not depend on the others of its batch.
//
// Host memory only: where weights lie on a device of its own, adapters are merged when they are loaded.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/adapters.h"
#include "engine/batch.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// What a sequence has: the sum of some adapters of the model.
class AdapterSum {
 public:
  // Throws Error for an adapter that keeps a tensor whole: that can only be merged.
  explicit AdapterSum(std::vector<ModelAdapter> adapters);
  AdapterSum(const AdapterSum&) = delete;
  AdapterSum& operator=(const AdapterSum&) = delete;

  const std::vector<ModelAdapter>& adapters() const { return adapters_; }
  std::span<const Adapter* const> of(const TensorId& id) const;  // in order; empty: none

 private:
  std::vector<ModelAdapter> adapters_;
  std::unordered_map<uint64_t, std::vector<const Adapter*>> of_;
};

// Those of one step. Rows are those of its batch unless they are named.
class LowRank {
 public:
  explicit LowRank(Backend& backend) : backend_(backend) {}
  // Throws Error where the device has memory of its own and some sequence has adapters.
  void begin(const Batch& batch);
  bool any() const { return any_; }
  bool changes(Role role, int64_t layer) const;  // of some sequence; roles without experts

  // out += s b a x. x of the batch's rows; or row i of both is that of token tokens[i].
  void add(Role role, int64_t layer, Tensor out, Tensor x) const;
  void add_of_rows(Role role, Tensor out, Tensor x, std::span<const int32_t> tokens) const;
  void add_embedded(Tensor out, std::span<const int32_t> ids) const;
  // hidden of two gated products, made again for rows whose gate or up changes.
  void gated(Role gate, Role up, int64_t layer, Tensor hidden, Tensor x, const Matrix& w_gate, const Matrix& w_up,
             const Activation& activation) const;
  void experts_hidden(int64_t layer, Tensor hidden, Tensor x, const Route& route, const ExpertMatrices& experts,
                      const Activation& activation) const;
  void experts_out(int64_t layer, Tensor out, Tensor hidden, const Route& route) const;
  // The two halves of kv_b (Backend::mla_absorb, mla_expand).
  void absorb(int64_t layer, Tensor out, Tensor q, int64_t n_heads, int64_t d_nope, int64_t d_rope,
              int64_t d_value) const;
  void expand(int64_t layer, Tensor out, Tensor latent, int64_t n_heads, int64_t d_nope, int64_t d_value) const;

 private:
  struct Group {  // of one sum: rows of its sequences
    const AdapterSum* sum = nullptr;
    std::vector<int32_t> rows;
  };
  struct Scratch;
  // The (token, slot) pairs of each expert of one sum's tokens.
  static std::vector<std::pair<int32_t, std::vector<int32_t>>> pairs(const Group& group, const Route& route);
  // out[rows[i]] += s b a x[x_rows[i]] for all of `adapters`.
  void add_products(std::span<const Adapter* const> adapters, Tensor out, std::span<const int32_t> rows, Tensor x,
                    std::span<const int32_t> x_rows) const;
  void regate(std::span<const Adapter* const> gate, std::span<const Adapter* const> up, Tensor hidden,
              std::span<const int32_t> rows, Tensor x, std::span<const int32_t> x_rows, const Matrix& w_gate,
              Vector gate_bias, const Matrix& w_up, Vector up_bias, const Activation& activation) const;
  std::vector<Group> rows_of(std::span<const int32_t> tokens) const;

  Backend& backend_;
  bool any_ = false;
  std::vector<Group> groups_;
  std::vector<const AdapterSum*> of_token_;
};

}  // namespace signalbox::engine
