#include "train/upcycle/carved_model.h"

#include <cstring>
#include <map>
#include <memory>
#include <tuple>

#include "base/error.h"
#include "base/half.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "engine/matrix_values.h"

namespace signalbox::train {

namespace {

// Values that a model owns, as a matrix of f32.
Matrix owned(std::vector<float> values, int64_t rows, int64_t cols, DType dtype, Weights& weights) {
  for (float& value : values) value = kept_by(dtype, value);
  auto memory = std::make_shared<std::vector<float>>(std::move(values));
  weights.owners.push_back(memory);
  return {memory->data(), DType::f32, rows, cols, cols, nullptr, 0};
}

std::vector<float> all_of(const Matrix& matrix) {
  std::vector<float> out(static_cast<size_t>(matrix.rows * matrix.cols));
  read_matrix(out.data(), matrix);
  return out;
}

// Rows `neurons` of a matrix of `cols` columns.
std::vector<float> rows_of(const std::vector<float>& matrix, int64_t cols, std::span<const int32_t> neurons) {
  std::vector<float> out;
  out.reserve(neurons.size() * static_cast<size_t>(cols));
  for (const int32_t i : neurons) out.insert(out.end(), matrix.begin() + i * cols, matrix.begin() + (i + 1) * cols);
  return out;
}

// `count` columns of `matrix` [rows, cols], times `factor`: those that `column(i)` names.
template <class Column>
std::vector<float> columns_of(const std::vector<float>& matrix, int64_t rows, int64_t cols, int64_t count, float factor,
                              Column&& column) {
  std::vector<float> out(static_cast<size_t>(rows * count));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < count; ++i)
      out[static_cast<size_t>(r * count + i)] = factor * matrix[static_cast<size_t>(r * cols + column(i))];
  return out;
}

// The dense model's block, and the columns of down that a carved one has, in the order of its neurons.
struct BlockValues {
  std::vector<float> gate, up, down;
  int64_t n = 0, d = 0;

  BlockValues(const Session& dense, size_t layer) {
    const auto& weights = std::get<DenseWeights>(dense.weights.layers[layer].ffn);
    gate = all_of(weights.gate);
    up = all_of(weights.up);
    down = all_of(weights.down);
    n = weights.gate.rows;
    d = weights.gate.cols;
  }
};

}  // namespace

BuiltModel routed_model(const Session& dense, Model model, const std::vector<CarvedLayer>& layers,
                        const CarveLayout& layout, DType dtype, bool refit) {
  BuiltModel built{std::move(model), dense.weights};
  Weights& weights = built.weights;
  const int64_t routed = layout.routed();
  for (size_t l = 0; l < layers.size(); ++l) {
    const CarvedLayer& carved = layers[l];
    const BlockValues block(dense, l);
    const int64_t count = layout.neurons(block.n), n_shared = layout.shared * count, d = block.d;
    const std::span<const int32_t> neurons = carved.neurons;
    MoeWeights moe;
    const auto add = [&](int64_t first, int64_t n, float factor, Matrix& gate, Matrix& up, Matrix& down) {
      const auto mine = neurons.subspan(static_cast<size_t>(first), static_cast<size_t>(n));
      gate = owned(rows_of(block.gate, d, mine), n, d, dtype, weights);
      up = owned(rows_of(block.up, d, mine), n, d, dtype, weights);
      down = owned(refit ? columns_of(carved.down, d, block.n, n, factor, [&](int64_t i) { return first + i; })
                         : columns_of(block.down, d, block.n, n, factor,
                                      [&](int64_t i) { return mine[static_cast<size_t>(i)]; }),
                   d, n, dtype, weights);
    };
    add(0, n_shared, 2, moe.shared_gate, moe.shared_up, moe.shared_down);
    moe.shared_scale = owned(std::vector<float>(static_cast<size_t>(d)), 1, d, dtype, weights);
    moe.router = owned(carved.router, routed, d, dtype, weights);
    for (int64_t e = 0; e < routed; ++e)
      add(n_shared + e * count, count, static_cast<float>(routed), moe.gate.emplace_back(), moe.up.emplace_back(),
          moe.down.emplace_back());
    weights.layers[l].ffn = std::move(moe);
  }
  return built;
}

BuiltModel static_model(const Session& dense, const std::vector<CarvedLayer>& layers, const CarveLayout& layout,
                        DType dtype, bool refit) {
  BuiltModel built{dense.model, dense.weights};
  Weights& weights = built.weights;
  for (size_t l = 0; l < layers.size(); ++l) {
    const BlockValues block(dense, l);
    const int64_t n = (layout.shared + layout.active) * layout.neurons(block.n), d = block.d;
    const std::vector<int32_t> neurons = static_neurons(layers[l], n);
    built.model.layers[l].ffn = Dense{n};
    DenseWeights kept;
    kept.gate = owned(rows_of(block.gate, d, neurons), n, d, dtype, weights);
    kept.up = owned(rows_of(block.up, d, neurons), n, d, dtype, weights);
    kept.down = owned(
        refit ? layers[l].static_down
              : columns_of(block.down, d, block.n, n, 1, [&](int64_t i) { return neurons[static_cast<size_t>(i)]; }),
        d, n, dtype, weights);
    weights.layers[l].ffn = kept;
  }
  return built;
}

TensorValues values_of(BuiltModel& built) {
  using Key = std::tuple<Role, int32_t, int32_t>;
  std::map<Key, TensorPlace> places;
  for_each_tensor(built.model, built.weights, [&](const TensorPlace& place) {
    places.emplace(Key(place.id.role, place.id.layer, place.id.expert), place);
  });
  return [places = std::move(places)](const TensorPlace& wanted, std::span<float> out) {
    const TensorPlace& place = places.at(Key(wanted.id.role, wanted.id.layer, wanted.id.expert));
    if (place.matrix) {
      read_matrix(out.data(), *place.matrix);
    } else {
      std::memcpy(out.data(), place.vector->data, out.size_bytes());
    }
  };
}

void save_layer(const CarvedLayer& layer, const std::filesystem::path& file) {
  const auto n = static_cast<int64_t>(layer.neurons.size()), d = static_cast<int64_t>(layer.down.size()) / n;
  const auto routed = static_cast<int64_t>(layer.router.size()) / d;
  const std::vector<double> errors = {layer.error_linear, layer.error_refit, layer.error_static,
                                      layer.error_static_refit};
  safetensors::Writer writer(file,
                             std::vector<safetensors::TensorHeader>{
                                 {"errors", "F64", {4}},
                                 {"ranking", "I32", {n}},
                                 {"neurons", "I32", {n}},
                                 {"router", "F32", {routed, d}},
                                 {"down", "F32", {d, n}},
                                 {"static_down", "F32", {d, static_cast<int64_t>(layer.static_down.size()) / d}}});
  const auto put = [&](const auto& values) { writer.write(values.data(), values.size() * sizeof(values[0])); };
  put(errors);
  put(layer.ranking);
  put(layer.neurons);
  put(layer.router);
  put(layer.down);
  put(layer.static_down);
  writer.finish();
}

CarvedLayer load_layer(const std::filesystem::path& file) {
  const auto stored = safetensors::File::open(file);
  CarvedLayer layer;
  const auto get = [&](const char* name, auto& values) {
    const safetensors::TensorInfo& info = stored->at(name);
    values.resize(static_cast<size_t>(info.elements()));
    if (values.size() * sizeof(values[0]) != info.bytes)
      throw Error(file.string() + ": tensor \"" + name + "\"", "expected another dtype, found " + info.dtype);
    std::memcpy(values.data(), stored->data(info), info.bytes);
  };
  std::vector<double> errors;
  get("errors", errors);
  get("ranking", layer.ranking);
  get("neurons", layer.neurons);
  get("router", layer.router);
  get("down", layer.down);
  get("static_down", layer.static_down);
  if (errors.size() != 4) throw Error(file.string(), "expected four errors, found " + std::to_string(errors.size()));
  layer.error_linear = errors[0];
  layer.error_refit = errors[1];
  layer.error_static = errors[2];
  layer.error_static_refit = errors[3];
  return layer;
}

}  // namespace signalbox::train
