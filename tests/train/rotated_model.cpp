#include "tests/train/rotated_model.h"

#include <cmath>
#include <random>

#include "engine/matrix_values.h"
#include "eval/compress/stored.h"
#include "loaders/model/load.h"
#include "loaders/model/rewrite.h"
#include "train/linear_algebra.h"
#include "train/moved_expert.h"

namespace signalbox::test {

using namespace signalbox::train;

namespace {

std::vector<double> normal_values(int64_t n, std::mt19937& draw) {
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) {  // sums of twelve: the same on every machine
    double sum = -6;
    for (int k = 0; k < 12; ++k) sum += static_cast<double>(draw()) * 0x1p-32;
    out.push_back(sum);
  }
  return out;
}

DenseMatrix dense_of(const Matrix& matrix) {
  DenseMatrix out(matrix.rows, matrix.cols);
  const std::vector<float> values = engine::values_of(matrix);
  std::copy(values.begin(), values.end(), out.values.begin());
  return out;
}

class Rotation {
 public:
  Rotation(const LoadedModel& loaded, double length, uint64_t seed)
      : changed_(keep_experts(loaded.model, loaded.weights, {})), draw_(static_cast<uint32_t>(seed)), length_(length) {
    const int64_t d = loaded.model.d_model;
    DenseMatrix random(d, d);
    random.values = normal_values(d * d, draw_);
    q_ = orthogonal_factor(random);
    Weights& w = changed_.weights;
    for (size_t l = 0; l < w.layers.size(); ++l) {
      LayerWeights& layer = w.layers[l];
      GqaWeights& attention = std::get<GqaWeights>(layer.attention);
      const auto [attn_old, attn_new] = renewed(layer.attn_norm);
      for (Matrix* reads : {&attention.q, &attention.k, &attention.v}) read(*reads, attn_old, attn_new);
      write(attention.o);
      write(attention.o_bias);
      const auto [ffn_old, ffn_new] = renewed(layer.ffn_norm);
      MoeWeights& moe = std::get<MoeWeights>(layer.ffn);
      read(moe.router, ffn_old, ffn_new);
      for (size_t e = 0; e < moe.gate.size(); ++e) {
        read(moe.gate[e], ffn_old, ffn_new);
        read(moe.up[e], ffn_old, ffn_new);
        write(moe.down[e]);
        if (!moe.down_bias.empty()) write(moe.down_bias[e]);
      }
    }
    // Rows of the embedding are what is written.
    put(w.embed, scaled(product_transposed(dense_of(w.embed), q_), length_));
    const auto [final_old, final_new] = renewed(w.final_norm);
    read(w.lm_head, final_old, final_new);
    for (ExpertChange& change : changed_.changes) std::fill(change.replaced.begin(), change.replaced.end(), uint8_t{1});
    for_each_tensor(changed_.model, changed_.weights, [&](const TensorPlace& place) {
      if (place.id.expert < 0) changed_.replaced.push_back(place.id);
    });
  }
  const ChangedModel& changed() const { return changed_; }

 private:
  static DenseMatrix scaled(DenseMatrix m, double factor) {
    for (double& value : m.values) value *= factor;
    return m;
  }
  void put(Matrix& matrix, const DenseMatrix& values) {
    matrix = stored_matrix(values.values, values.rows, values.cols, DType::f32, changed_.weights.owners);
  }
  std::pair<std::vector<double>, std::vector<double>> renewed(Vector& norm) {
    std::vector<double> was(norm.data, norm.data + norm.n), now = normal_values(norm.n, draw_);
    for (double& value : now) value = static_cast<double>(static_cast<float>(std::exp(0.4 * value)));
    norm = stored_vector(now, DType::f32, changed_.weights.owners);
    return {was, now};
  }
  void read(Matrix& matrix, const std::vector<double>& was, const std::vector<double>& now) {
    DenseMatrix m = dense_of(matrix);
    for (size_t i = 0; i < m.values.size(); ++i) m.values[i] *= was[i % was.size()];
    m = product_transposed(m, q_);
    for (size_t i = 0; i < m.values.size(); ++i) m.values[i] /= now[i % now.size()];
    put(matrix, m);
  }
  void write(Matrix& matrix) { put(matrix, scaled(product(q_, dense_of(matrix)), length_)); }
  void write(Vector& vector) {
    if (!vector) return;
    DenseMatrix m(vector.n, 1);
    std::copy_n(vector.data, vector.n, m.values.begin());
    vector = stored_vector(scaled(product(q_, m), length_).values, DType::f32, changed_.weights.owners);
  }

  ChangedModel changed_;
  std::mt19937 draw_;
  double length_;
  DenseMatrix q_;
};

void rewrite_model(const std::string& model, const std::filesystem::path& directory,
                   const std::function<ChangedModel(const LoadedModel&)>& change) {
  const ResolvedModel resolved = resolve_model(model, nullptr);
  const LoadedModel loaded = load_model(resolved);
  Rewrite(resolved.files, loaded.family, loaded.model).write(change(loaded), directory);
}

void rewrite_expert(const std::string& model, int32_t layer, int32_t expert, const std::filesystem::path& directory,
                    const std::function<void(ExpertValues&, bool scales)>& change) {
  rewrite_model(model, directory, [&](const LoadedModel& loaded) {
    ExpertValues values =
        read_expert(std::get<MoeWeights>(loaded.weights.layers[static_cast<size_t>(layer)].ffn), expert);
    change(values, loaded.model.activation.kind == Activation::Kind::silu);
    ChangedModel changed = keep_experts(loaded.model, loaded.weights, {});
    put_expert(changed, layer, expert, stored_expert(values, [](Role) { return DType::f32; }));
    return changed;
  });
}

}  // namespace

void write_rotated_model(const std::string& model, double length, uint64_t seed,
                         const std::filesystem::path& directory) {
  rewrite_model(model, directory, [&](const LoadedModel& loaded) { return Rotation(loaded, length, seed).changed(); });
}

void write_permuted_model(const std::string& model, int32_t layer, int32_t expert,
                          const std::filesystem::path& directory) {
  rewrite_expert(model, layer, expert, directory, [](ExpertValues& values, bool scales) {
    const ExpertValues was = values;
    for (int64_t i = 0; i < was.d_ff; ++i) {
      const int64_t j = (5 * i + 3) % was.d_ff;
      const double factor = scales ? (i % 2 == 0 ? -1.5 : 0.7) : 1;
      for (int64_t c = 0; c < was.d_model; ++c) {
        const auto from = static_cast<size_t>(i * was.d_model + c), to = static_cast<size_t>(j * was.d_model + c);
        values.gate[to] = was.gate[from];
        values.up[to] = was.up[from] * factor;
        values.down[static_cast<size_t>(c * was.d_ff + j)] = was.down[static_cast<size_t>(c * was.d_ff + i)] / factor;
      }
      if (was.gate_bias.empty()) continue;
      values.gate_bias[static_cast<size_t>(j)] = was.gate_bias[static_cast<size_t>(i)];
      values.up_bias[static_cast<size_t>(j)] = was.up_bias[static_cast<size_t>(i)];
    }
  });
}

void write_silenced_model(const std::string& model, int32_t layer, int32_t expert,
                          const std::filesystem::path& directory) {
  rewrite_expert(model, layer, expert, directory, [](ExpertValues& values, bool) {
    std::fill(values.down.begin(), values.down.end(), 0.0);
    std::fill(values.down_bias.begin(), values.down_bias.end(), 0.0);
  });
}

}  // namespace signalbox::test
