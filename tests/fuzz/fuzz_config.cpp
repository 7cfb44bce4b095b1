// Any config.json gives a Model that the engine can be built for, or an Error. The first byte chooses a family whose
// example the rest is laid over, so that most inputs get past the keys that must be there.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "loaders/families/family.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  using namespace signalbox::tools;
  if (size == 0) return 0;
  const auto all = families::all_families();
  const size_t choice = data[0] % (all.size() + 1);
  try {
    json::Value config = json::parse(std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1), "fuzz");
    if (choice < all.size()) {
      json::Value merged = json::parse(all[choice].example, "example");
      if (config.type() != json::Type::object) return 0;
      for (const auto& [key, item] : config.members()) merged.set(key, item);
      config = std::move(merged);
    }
    const Model model = families::read_config(config, "fuzz").model;
    validate(model);
    for (const Layer& layer : model.layers)
      if (Model::kv_width(layer).first <= 0) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
