#include "loaders/families/released_size.h"

#include "base/text.h"
#include "engine/weights.h"
#include "loaders/families/real_shapes.h"

namespace signalbox::loaders::families {

int64_t released_bytes(const std::string& repository) {
  const std::string name = ascii_lower(repository.substr(repository.find('/') + 1));
  for (const char* other : {"fp8", "gptq", "awq", "int4", "int8", "4bit", "8bit", "gguf", "mlx", "bnb", "fp4", "quant"})
    if (name.find(other) != std::string::npos) return 0;
  std::string_view best;
  for (const RealShape& shape : real_shapes()) {
    const std::string prefix = ascii_lower(shape.name);
    const bool fits = name.starts_with(prefix) && (name.size() == prefix.size() || name[prefix.size()] == '-');
    if (fits && shape.name.size() > best.size()) best = shape.name;
  }
  if (best.empty()) return 0;
  const Model model = real_shape_model(best);
  int64_t bytes = 2 * count_parameters(model).total;
  if (ascii_lower(best).starts_with("gpt-oss"))  // experts in MXFP4: 17 bytes for 32 weights
    for (const Layer& layer : model.layers)
      if (const Moe* moe = layer.moe()) {
        const int64_t weights = int64_t{moe->router.n_experts} * 3 * model.d_model * moe->d_ff;
        bytes -= weights * 2 - weights / 32 * 17;
      }
  return bytes;
}

}  // namespace signalbox::loaders::families
