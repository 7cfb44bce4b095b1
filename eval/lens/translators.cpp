#include "eval/lens/translators.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/safetensors.h"

namespace signalbox::eval {

std::string translator_weight(int32_t layer) { return "layer." + std::to_string(layer) + ".weight"; }
std::string translator_bias(int32_t layer) { return "layer." + std::to_string(layer) + ".bias"; }

Translators Translators::read(const std::filesystem::path& file, int64_t n_layers, int64_t d_model) {
  const auto stored = safetensors::File::open(file);
  const auto metadata = [&](const char* key) {
    const auto found = stored->metadata().find(key);
    return found == stored->metadata().end() ? std::string() : found->second;
  };
  if (metadata("schema") != translators_schema)
    throw Error(file.string(), std::string("expected a tuned lens (schema ") + translators_schema + "), found " +
                                   (metadata("schema").empty() ? "none" : metadata("schema")));
  Translators out;
  out.d_ = d_model;
  out.model_ = metadata("model");
  size_t known = 0;
  for (int32_t layer = 0; layer + 1 < n_layers; ++layer) {
    if (!stored->find(translator_weight(layer)) && !stored->find(translator_bias(layer))) continue;
    Affine& affine = out.layers_[layer];
    const auto get = [&](const std::string& name, const std::vector<int64_t>& shape, std::vector<float>& to) {
      const safetensors::TensorInfo& info = stored->at(name);
      if (info.dtype != "F32" || info.shape != shape)
        throw Error(file.string() + ": " + name, "expected F32 of shape " + safetensors::shape_text(shape) +
                                                     ", found " + info.dtype + " of " +
                                                     safetensors::shape_text(info.shape));
      to.resize(static_cast<size_t>(info.elements()));
      std::memcpy(to.data(), stored->data(info), info.bytes);
      for (const float value : to)
        if (!std::isfinite(value)) throw Error(file.string() + ": " + name, "expected finite numbers, found another");
      ++known;
    };
    get(translator_weight(layer), {d_model, d_model}, affine.weight);
    get(translator_bias(layer), {d_model}, affine.bias);
  }
  if (known == 0 || known != stored->tensors().size())
    throw Error(file.string(), "expected weights and biases of layers below " + std::to_string(n_layers - 1) +
                                   ", found " + std::to_string(stored->tensors().size()) + " tensors, " +
                                   std::to_string(known) + " of them such");
  return out;
}

std::vector<int32_t> Translators::layers() const {
  std::vector<int32_t> out;
  for (const auto& [layer, affine] : layers_) out.push_back(layer);
  return out;
}

void Translators::apply(int32_t layer, std::span<float> streams, ThreadPool& pool) const {
  const Affine& affine = layers_.at(layer);
  const auto d = static_cast<size_t>(d_);
  pool.parallel_for(static_cast<int64_t>(streams.size() / d), [&](int64_t row, int) {
    const std::span<float> h = streams.subspan(static_cast<size_t>(row) * d, d);
    std::vector<float> out(d);
    for (size_t i = 0; i < d; ++i) {
      double sum = static_cast<double>(h[i]) + static_cast<double>(affine.bias[i]);
      for (size_t j = 0; j < d; ++j) sum += static_cast<double>(affine.weight[i * d + j]) * static_cast<double>(h[j]);
      out[i] = static_cast<float>(sum);
    }
    std::copy(out.begin(), out.end(), h.begin());
  });
}

}  // namespace signalbox::eval
