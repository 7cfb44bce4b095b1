// The rationale model: tokens are shared out among K factors, and a sentence is told by its factors.
//
//   pi_i = softmax(W_g h_i)            z_k = sum_i pi_ik h_i           z~_k = f_k z_k
//   e^ = sum_k V_k z~_k                h^_i = g sum_k pi_ik z~_k
//
// for the token states h_i of a sentence and a given embedding e of it, and losses, each a mean over sentences:
//
//   sentence   |e - e^|^2
//   token      sum_i |h_i - h^_i|^2
//   entropy    - sum_ik pi_ik log pi_ik
//   overlap    1/T sum_i sum_{k<j} pi_ik pi_ij
//   diversity  |Z^T Z - I|_F^2, Z = [z~_1 ... z~_K]
//   balance    sum_k (u_k - 1/K)^2, u_k = 1/T sum_i pi_ik
//   continuity mean of |pi_i - pi_{i-1}|^2 over neighbours
//
// All in double; sums run in one order whatever the number of threads. FactorForms has the variants
// (docs/rationales.md).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "train/namespaces.h"

namespace signalbox::train {

struct FactorShape {
  int64_t n_factors = 0, d_hidden = 0, d_factor = 0, d_target = 0;
  bool shared = false;  // one f for all factors
  int64_t n_transforms() const { return shared ? 1 : n_factors; }
};

// Row-major. Also what gradients with respect to them are kept in.
struct FactorParameters {
  FactorShape shape;
  std::vector<double> gate;       // W_g [n_factors, d_hidden]
  std::vector<double> transform;  // f [n_transforms, d_factor, d_hidden]
  std::vector<double> readout;    // V [n_factors, d_target, d_factor]
  std::vector<double> decoder;    // g [d_hidden, d_factor]

  FactorParameters() = default;
  explicit FactorParameters(const FactorShape& of);  // zeros
};
// The four of them, under the names of files: W_g, f, V, g.
inline constexpr std::array<const char*, 4> factor_parameter_names = {"W_g", "f", "V", "g"};
std::vector<double>& factor_parameter(FactorParameters& of, size_t i);
std::vector<int64_t> factor_parameter_shape(const FactorShape& shape, size_t i);

struct FactorForms {
  bool normalize = false;  // z_k divided by its mass sum_i pi_ik
  enum class Sentence : uint8_t { squared, infonce } sentence = Sentence::squared;
  double temperature = 0.07;  // of infonce: both directions, unit vectors, the batch's other sentences as negatives
  bool per_token = false;     // token and entropy divided by the sentence's tokens
  enum class Balance : uint8_t {
    sentence,
    batch
  } balance = Balance::sentence;  // u of each, or its mean over the batch
  // gram: as above; cosine: of unit z~_k, the sum of squared cosines over pairs k != j; covariance: the squares of
  // 1/S sum_s z~_sk . z~_sj over pairs k != j after subtracting each factor's mean over the batch, 0 for one sentence.
  enum class Diversity : uint8_t { gram, cosine, covariance } diversity = Diversity::gram;
};

inline constexpr size_t n_factor_losses = 7;
inline constexpr std::array<const char*, n_factor_losses> factor_loss_names = {
    "sentence", "token", "entropy", "overlap", "diversity", "balance", "continuity"};
inline constexpr size_t n_document_losses = 6;  // all but continuity
using FactorLosses = std::array<double, n_factor_losses>;
// "sentence=1,token=0.5" (those not named: 0) or numbers in the order of the names (those not given: 0). Throws
// UsageError that begins with `where`: an unknown name, a number that is none or below 0.
FactorLosses parse_factor_weights(const std::string& text, const std::string& where);

// Sentences, one after the other.
struct FactorBatch {
  std::vector<double> hidden;    // [n_tokens, d_hidden]
  std::vector<int64_t> offsets;  // [n_sentences + 1]
  std::vector<double> target;    // [n_sentences, d_target]
  std::vector<double> pi;        // [n_tokens, n_factors] instead of the gate's; empty: the gate's
  int64_t n_sentences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t n_tokens() const { return offsets.back(); }
};

struct FactorOutputs {
  std::vector<double> pi;  // [n_tokens, n_factors]
  std::vector<double> z;   // z~ [n_sentences, n_factors, d_factor]
};

struct FactorGradients {
  FactorParameters parameters;         // that of the gate is 0 where pi is given
  std::vector<double> hidden, target;  // as the batch's
};

// Each loss of a batch whose sentences have at least one token each. `gradients` (null: none are made): of
// sum(weights * losses). `outputs` may be null.
FactorLosses factor_losses(const FactorParameters& parameters, const FactorBatch& batch, const FactorForms& forms,
                           const FactorLosses& weights, ThreadPool& pool, FactorOutputs* outputs,
                           FactorGradients* gradients);

}  // namespace signalbox::train
