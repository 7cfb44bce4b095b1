// Rotary embeddings from config.json. Formulas: YaRN (Peng et al. 2023), linear interpolation (Chen et al. 2023) and
// Llama 3.1's, in the f32 steps of transformers' modeling_rope_utils, so that the tables agree to the last bit or two.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "loaders/families/config.h"

namespace signalbox::loaders::families {

namespace {

// The object that describes the scaling, and the theta beside or inside it.
struct RopeSource {
  std::optional<json::Ref> scaling;
  double theta = 0;
};

double positive(const json::Ref& ref) {
  const double value = ref.number();
  if (!(value > 0)) ref.fail_type("a number above 0");
  return value;
}

double positive_or(const json::Ref& object, std::string_view key, double fallback) {
  auto found = object.find(key);
  return found ? positive(*found) : fallback;
}

double required(const json::Ref& object, std::string_view key) {
  auto found = object.find(key);
  if (!found) object.fail("expected the key \"" + std::string(key) + "\", found none");
  return positive(*found);
}

RopeSource find_source(const Config& config, const json::Value* default_scaling, double default_theta) {
  RopeSource source;
  auto hub = config.root().find("rope_scaling"), resaved = config.root().find("rope_parameters");
  for (auto* found : {&hub, &resaved}) {
    if (!*found) continue;
    (*found)->expect_object();
    if ((*found)->value().members().empty()) found->reset();  // {} says nothing
  }
  if (hub && resaved && !(hub->value() == resaved->value()))
    hub->fail("expected the same as rope_parameters, found a difference");
  source.scaling = hub ? hub : resaved;
  if (!source.scaling && default_scaling)
    source.scaling.emplace(*default_scaling, config.root().where(), "rope_scaling (default)");
  std::optional<double> outer, inner;
  if (auto theta = config.root().find("rope_theta")) outer = positive(*theta);
  if (source.scaling)
    if (auto theta = source.scaling->find("rope_theta")) inner = positive(*theta);
  if (outer && inner && *outer != *inner)
    config.refuse("rope_theta", json::dump(json::Value(*inner)) + " as " + source.scaling->path() + " says");
  source.theta = inner ? *inner : outer ? *outer : default_theta;
  if (!(source.theta > 1)) config.refuse("rope_theta", "a number above 1");
  return source;
}

std::string scaling_type(const json::Ref& scaling) {
  auto type = scaling.find("rope_type"), legacy = scaling.find("type");
  if (type && legacy && type->string() != legacy->string())
    legacy->fail_type("\"" + type->string() + "\" as rope_type");
  if (!type) type = legacy;
  if (!type) {
    for (const auto& [key, item] : scaling.members()) {
      if (key == "full_attention" || key == "sliding_attention")
        item.fail("expected one rotary embedding for all layers, found one for each kind of layer");
      if (key != "rope_theta" && key != "partial_rotary_factor" && !item.is_null())
        scaling.fail("expected the key \"rope_type\", found none");
    }
    return "default";
  }
  const std::string& name = type->string();
  if (name != "default" && name != "linear" && name != "yarn" && name != "llama3")
    type->fail_type("\"default\", \"linear\", \"yarn\" or \"llama3\"");
  return name;
}

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

int64_t original_positions(const Config& config, const json::Ref& scaling, int64_t max_positions) {
  constexpr int64_t high = int64_t{1} << 24;
  // A value at the top level goes before the one inside, as in transformers.
  if (auto outer = config.root().find("original_max_position_embeddings")) return outer->integer(1, high);
  auto inner = scaling.find("original_max_position_embeddings");
  return inner ? inner->integer(1, high) : max_positions;
}

void apply_yarn(const Config& config, const json::Ref& scaling, double theta, int64_t max_positions, Rope& rope,
                double* softmax_factor) {
  const int64_t n_dims = rope.n_dims();
  const auto original = static_cast<double>(original_positions(config, scaling, max_positions));
  const double factor = positive_or(scaling, "factor", static_cast<double>(max_positions) / original);
  const auto number = [&](std::string_view key) {
    auto found = scaling.find(key);
    return found ? found->number() : 0.0;  // 0 means absent, as in transformers
  };
  const double mscale = number("mscale"), mscale_all_dim = number("mscale_all_dim");
  if (auto attention = scaling.find("attention_factor")) {
    rope.magnitude = static_cast<float>(positive(*attention));
  } else if (mscale != 0 && mscale_all_dim != 0) {
    rope.magnitude = static_cast<float>(yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim));
  } else {
    rope.magnitude = static_cast<float>(yarn_mscale(factor, 1));
  }
  if (softmax_factor && mscale_all_dim != 0)
    *softmax_factor = yarn_mscale(factor, mscale_all_dim) * yarn_mscale(factor, mscale_all_dim);

  const double beta_fast = number("beta_fast") != 0 ? positive_or(scaling, "beta_fast", 32) : 32;
  const double beta_slow = number("beta_slow") != 0 ? positive_or(scaling, "beta_slow", 1) : 1;
  bool truncate = true;
  if (auto found = scaling.find("truncate")) truncate = found->boolean();
  const auto correction = [&](double rotations) {
    return static_cast<double>(n_dims) * std::log(original / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  double low = correction(beta_fast), high = correction(beta_slow);
  if (truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(n_dims - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < n_dims / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(n_dims);
    const auto frequency = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    const float extrapolated = 1.0f / frequency, interpolated = 1.0f / (static_cast<float>(factor) * frequency);
    float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    ramp = std::clamp(ramp, 0.0f, 1.0f);
    const float keep = 1.0f - ramp;
    rope.inv_freq[i] = interpolated * (1.0f - keep) + extrapolated * keep;
  }
}

void apply_llama3(const Config& config, const json::Ref& scaling, int64_t max_positions, Rope& rope) {
  const auto factor = static_cast<float>(required(scaling, "factor"));
  const double low = required(scaling, "low_freq_factor"), high = required(scaling, "high_freq_factor");
  if (!(high > low)) scaling.at("high_freq_factor").fail_type("a number above low_freq_factor");
  const auto original = static_cast<double>(original_positions(config, scaling, max_positions));
  for (float& frequency : rope.inv_freq) {
    const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
    if (wavelength > original / low) {
      frequency /= factor;
    } else if (wavelength >= original / high) {
      const float smooth =
          (static_cast<float>(original) / wavelength - static_cast<float>(low)) / static_cast<float>(high - low);
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

}  // namespace

Rope read_rope(const Config& config, int64_t n_dims, int64_t max_positions, const RopeDefaults& defaults,
               double* softmax_factor) {
  if (softmax_factor) *softmax_factor = 1;
  std::optional<json::Value> default_scaling;
  if (defaults.scaling) default_scaling = json::parse(defaults.scaling, "default");
  const RopeSource source = find_source(config, default_scaling ? &*default_scaling : nullptr, defaults.theta);
  const std::string type = source.scaling ? scaling_type(*source.scaling) : "default";

  Rope rope;
  rope.inv_freq.resize(n_dims / 2);
  for (int64_t i = 0; i < n_dims / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(n_dims);
    rope.inv_freq[i] = 1.0f / static_cast<float>(std::pow(source.theta, static_cast<double>(exponent)));
  }
  if (!source.scaling) return rope;
  // Variants that other engines give to these kinds and that would change the table.
  for (std::string_view key : {"attn_factor", "extrapolation_factor", "partial_rotary_factor"})
    if (auto found = source.scaling->find(key); found && found->number() != 1) found->fail_type("1");
  for (std::string_view key : {"mrope_section", "mrope_interleaved", "short_factor", "long_factor"})
    if (auto found = source.scaling->find(key)) found->fail_type("none");
  if (type == "linear" || type == "llama3")
    for (std::string_view key : {"mscale", "mscale_all_dim"})
      if (auto found = source.scaling->find(key)) found->fail_type("none for the type \"" + type + "\"");
  if (type == "linear") {
    const auto factor = static_cast<float>(required(*source.scaling, "factor"));
    for (float& frequency : rope.inv_freq) frequency /= factor;
  } else if (type == "yarn") {
    apply_yarn(config, *source.scaling, source.theta, max_positions, rope, softmax_factor);
  } else if (type == "llama3") {
    apply_llama3(config, *source.scaling, max_positions, rope);
  }
  return rope;
}

}  // namespace signalbox::loaders::families
