#include "loaders/families/family.h"

namespace signalbox::loaders::families {

json::Value with_one_block(const Family& family, const json::Value& config, int64_t n_layers, int64_t width) {
  json::Value out = without_quantization(config);
  out.set("intermediate_size", width);
  if (family.one_block == OneBlock::counted) return out.set("first_k_dense_replace", n_layers);
  if (family.one_block == OneBlock::listed) {
    json::Value layers = json::Value::array();
    for (int64_t l = 0; l < n_layers; ++l) layers.push_back(l);
    return out.set("mlp_only_layers", std::move(layers));
  }
  return with_active_count(with_expert_count(std::move(out), 1), 1);
}

}  // namespace signalbox::loaders::families
