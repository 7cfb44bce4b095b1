#include "loaders/synthetic/spec.h"

#include <algorithm>
#include <cmath>

#include "base/near_names.h"
#include "base/text.h"
#include "loaders/families/real_shapes.h"

namespace signalbox::loaders::synthetic {

namespace {

// The tokenizer's 256 bytes, then begin and end.
constexpr int64_t begin_token = 256, end_token = 257, tokenizer_size = 258;

json::Value base_config(const json::Ref& spec) {
  const auto family = spec.find("family"), shape = spec.find("shape");
  if (family && shape) shape->fail("expected family or shape, found both");
  if (family) {
    const families::Family* found = families::find_family(family->string());
    if (!found)
      family->fail(
          wrong_name("a family", family->string(), names_of(families::all_families(), &families::Family::model_type)));
    return json::parse(found->example, "example");
  }
  if (shape) {
    const families::RealShape* found = families::find_real_shape(shape->string());
    if (!found)
      shape->fail(
          wrong_name("a known shape", shape->string(), names_of(families::real_shapes(), &families::RealShape::name)));
    return json::parse(found->config, "shape");
  }
  if (!spec.find("config")) spec.fail("expected one of the keys \"family\", \"shape\" and \"config\", found none");
  return json::Value::object();
}

Storage read_storage(const json::Ref& spec) {
  const auto dtype = spec.find("dtype");
  if (!dtype) return Storage::bf16;
  const std::string& name = dtype->string();
  if (name == "f32") return Storage::f32;
  if (name == "bf16") return Storage::bf16;
  if (name == "f16") return Storage::f16;
  if (name == "mxfp4") return Storage::mxfp4;
  dtype->fail_type("\"f32\", \"bf16\", \"f16\" or \"mxfp4\"");
}

// rope_scaling and rope_theta become rope_parameters, torch_dtype becomes dtype: as transformers 5 saves.
json::Value resaved(const json::Value& config) {
  json::Value out = json::Value::object(), rope = json::Value::object();
  for (const auto& [key, value] : config.members()) {
    if (key == "rope_scaling" && value.type() == json::Type::object)
      for (const auto& [inner, item] : value.members()) rope.set(inner == "type" ? "rope_type" : inner, item);
    else if (key == "rope_theta")
      rope.set(key, value);
    else if (key != "rope_scaling")
      out.append_member(key == "torch_dtype" ? "dtype" : key, value);
  }
  if (rope.members().empty()) return out;
  if (!rope.find("rope_type")) rope.set("rope_type", "default");
  if (!out.find("rope_parameters")) out.append_member("rope_parameters", std::move(rope));
  return out;
}

double rate(const json::Ref& ref) {
  const double value = ref.number();
  if (!(value >= 0 && value <= 1)) ref.fail_type("a number from 0 to 1");
  return value;
}

Plant read_plant(const json::Ref& ref, const Model& model) {
  ref.reject_unknown({"layer", "expert", "tokens", "begin", "rate", "otherwise"});
  Plant plant;
  plant.layer = static_cast<int32_t>(ref.at("layer").integer(0, model.n_layers() - 1));
  const Moe* moe = model.layers[plant.layer].moe();
  if (!moe) ref.at("layer").fail("expected a layer with a router, found layer " + std::to_string(plant.layer));
  plant.expert = static_cast<int32_t>(ref.at("expert").integer(0, moe->router.n_experts - 1));
  const auto tokens = ref.find("tokens"), begin = ref.find("begin");
  if (tokens.has_value() == begin.has_value()) ref.fail("expected one of the keys \"tokens\" and \"begin\"");
  plant.from_begin = begin.has_value();
  const json::Ref& list = begin ? *begin : *tokens;
  if (list.length() == 0) list.fail("expected at least one token id, found none");
  for (const json::Ref& item : list.items())
    plant.tokens.push_back(static_cast<int32_t>(item.integer(0, model.n_vocab - 1)));
  if (auto found = ref.find("rate")) plant.rate = rate(*found);
  if (auto found = ref.find("otherwise")) plant.otherwise = rate(*found);
  const bool drawn = (plant.rate > 0 && plant.rate < 1) || (plant.otherwise > 0 && plant.otherwise < 1);
  if (drawn && moe->router.n_groups > 1) ref.fail("expected a rate of 0 or 1 in a router with groups, found another");
  if (moe->router.n_active == moe->router.n_experts)
    ref.fail("expected a router that leaves experts out, found one that selects all");
  return plant;
}

void check_plants(const std::vector<Plant>& plants, const Model& model, const json::Ref& where) {
  for (const Plant& a : plants) {
    int64_t always = 0, never = 0;
    for (const Plant& b : plants) {
      if (a.layer != b.layer) continue;
      if (&a != &b && a.expert == b.expert)
        where.fail("expected one entry for expert " + std::to_string(a.expert) + " of layer " +
                   std::to_string(a.layer) + ", found several");
      always += b.rate == 1 || b.otherwise == 1;
      never += b.rate == 0 || b.otherwise == 0;
    }
    const Router& router = model.layers[a.layer].moe()->router;
    // Conditions may hold together, so each counts for every token.
    if (always > router.n_active)
      where.fail("expected at most " + std::to_string(router.n_active) + " experts of rate 1 in layer " +
                 std::to_string(a.layer) + " (the experts per token), found " + std::to_string(always));
    if (router.n_experts - never < router.n_active)
      where.fail("expected at least " + std::to_string(router.n_active) + " experts of layer " +
                 std::to_string(a.layer) + " free to fire, found " + std::to_string(router.n_experts - never));
  }
  if (static_cast<int64_t>(plants.size()) + 1 > model.d_model / 4)
    where.fail("expected at most " + std::to_string(model.d_model / 4 - 1) + " entries for hidden_size " +
               std::to_string(model.d_model) + ", found " + std::to_string(plants.size()));
}

}  // namespace

Spec read_spec(const json::Value& value, const std::string& where) {
  const json::Ref ref(value, where);
  ref.reject_unknown({"family", "shape", "config", "dtype", "seed", "init", "style", "shards", "tokenizer", "planted",
                      "circuits", "truth"});
  Spec spec;
  spec.config = base_config(ref);
  if (auto config = ref.find("config"))
    for (const auto& [key, item] : config->members()) spec.config.set(key, item.value());
  spec.storage = read_storage(ref);
  if (auto seed = ref.find("seed")) spec.seed = static_cast<uint64_t>(seed->integer(0, INT64_MAX));
  if (auto shards = ref.find("shards")) spec.shards = static_cast<int>(shards->integer(1, 999));
  if (auto style = ref.find("style")) {
    if (style->string() != "hub" && style->string() != "fused") style->fail_type("\"hub\" or \"fused\"");
    spec.fused = style->string() == "fused";
  }
  if (auto tokenizer = ref.find("tokenizer")) {
    if (tokenizer->string() != "bytes") tokenizer->fail_type("\"bytes\"");
    spec.tokenizer = true;
    for (const auto& [key, id] : {std::pair("bos_token_id", begin_token), std::pair("eos_token_id", end_token)})
      if (const json::Value* found = spec.config.find(key); !found || found->is_null())
        spec.config.set(key, json::Value(id));
  }
  spec.config.set("torch_dtype", spec.storage == Storage::f32   ? "float32"
                                 : spec.storage == Storage::f16 ? "float16"
                                                                : "bfloat16");
  if (spec.storage == Storage::mxfp4)
    spec.config.set("quantization_config",
                    json::parse(R"({"quant_method":"mxfp4","modules_to_not_convert":["model.layers.*.self_attn",
"model.layers.*.mlp.router","model.embed_tokens","lm_head"]})",
                                "mxfp4"));
  if (spec.fused) spec.config = resaved(spec.config);

  families::Reading reading = families::read_config(spec.config, where + ": config");
  spec.family = reading.family;
  spec.model = std::move(reading.model);
  if (spec.tokenizer && spec.model.n_vocab < tokenizer_size)
    ref.at("tokenizer")
        .fail("expected a vocab_size of at least " + std::to_string(tokenizer_size) + ", found " +
              std::to_string(spec.model.n_vocab));

  // Small outputs keep the size of the residual stream near that of the embeddings at every depth.
  spec.init.output = 0.5 / std::sqrt(static_cast<double>(spec.model.n_layers()));
  if (auto init = ref.find("init")) {
    init->reject_unknown({"embed", "matrix", "output", "router", "head", "norm", "bias"});
    for (auto [key, target] :
         {std::pair("embed", &spec.init.embed), std::pair("matrix", &spec.init.matrix),
          std::pair("output", &spec.init.output), std::pair("router", &spec.init.router),
          std::pair("head", &spec.init.head), std::pair("norm", &spec.init.norm), std::pair("bias", &spec.init.bias)})
      if (auto found = init->find(key)) {
        *target = found->number();
        if (!(*target >= 0)) found->fail_type("a number of at least 0");
      }
  }
  if (auto planted = ref.find("planted")) {
    for (const json::Ref& item : planted->items()) spec.plants.push_back(read_plant(item, spec.model));
    check_plants(spec.plants, spec.model, *planted);
    if (!spec.plants.empty() && spec.init.embed <= 0) planted->fail("expected init.embed above 0, found 0");
  }
  if (auto circuits = ref.find("circuits")) {
    spec.circuits = read_circuits(*circuits, spec.model);
    if (!spec.circuits.empty() && spec.init.embed <= 0) circuits->fail("expected init.embed above 0, found 0");
  }
  if (auto truth = ref.find("truth")) spec.truth = truth->value();
  return spec;
}

}  // namespace signalbox::loaders::synthetic
