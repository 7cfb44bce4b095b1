#include "loaders/peft/write.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "engine/roles.h"
#include "loaders/peft/base_model.h"
#include "loaders/peft/config.h"
#include "loaders/peft/places.h"

namespace signalbox::loaders::peft {

namespace {

using families::Layout;

bool is_expert(Role role) { return role == Role::expert_gate || role == Role::expert_up || role == Role::expert_down; }

// PEFT wraps these as modules; everything else is a parameter to it.
bool is_module(Role role) { return is_attention_matrix(role) || role == Role::embed || role == Role::lm_head; }

// The name of a tensor that is stored by itself: that of hub checkpoints, or (`newest`) as transformers 5 has it.
// Empty: it has none.
std::string plain_name(const families::Family& family, const TensorId& id, bool newest) {
  std::string name;
  for (const families::Source& source : families::sources(family, id))
    if (source.row->layout == Layout::plain && source.row->parts == 1 && (name.empty() || newest)) name = source.name;
  return name;
}

std::string without_layer(const std::string& name, int32_t layer) {
  const std::string begin = "model.layers." + std::to_string(layer) + ".";
  return layer >= 0 && name.starts_with(begin) ? name.substr(begin.size()) : name;
}

struct Target {
  std::string name;
  int32_t layer = -1;
  bool module = false;
};

class AdapterWriter {
 public:
  AdapterWriter(const families::Family& family, const Model& model, std::span<const AdaptedMatrix> matrices,
                const WriteSettings& settings)
      : family_(family), model_(model), settings_(settings), places_(find_places(family, model)) {
    for (const AdaptedMatrix& one : matrices) of_[weight_name(one.id)] = &one;
    for (const AdaptedMatrix& one : matrices) {
      if (!is_expert(one.id.role)) {
        add_plain(one);
      } else if (settings.per_expert) {
        if (done_.insert({one.id.layer, static_cast<int>(one.id.role)}).second) add_each(one.id.layer, one.id.role);
      } else {
        const Stack& stack = stack_of(one.id);
        if (stacked_.insert(stack.name).second) add_stack(stack, one.id.layer);
      }
    }
    name_levels();
  }

  void write(const std::filesystem::path& directory) const {
    write_file_atomically(directory / config_name, json::dump(config(), 2) + "\n");
    std::vector<safetensors::TensorHeader> headers;
    for (const Out& out : outs_) headers.push_back({"base_model.model." + out.name, "F32", {out.rows, out.cols}});
    std::map<std::string, std::string> metadata = {{"format", "pt"}};
    if (!settings_.base_weights.empty()) metadata[base_weights_key] = settings_.base_weights;
    safetensors::Writer writer(directory / weights_name, headers, metadata);
    for (const Out& out : outs_) writer.write(out.values.data(), out.values.size() * sizeof(float));
    writer.finish();
  }

 private:
  struct Out {
    std::string name;
    int64_t rows = 0, cols = 0;
    std::vector<float> values;
  };

  static std::vector<float> values_of(const Matrix& m) {
    const auto* values = static_cast<const float*>(m.data);
    return {values, values + m.rows * m.cols};
  }

  void add_pair(const std::string& module, int64_t rank, int64_t rows, int64_t cols, std::vector<float> a,
                std::vector<float> b) {
    outs_.push_back({module + ".lora_A.weight", rank, cols, std::move(a)});
    outs_.push_back({module + ".lora_B.weight", rows, rank, std::move(b)});
  }

  void add_plain(const AdaptedMatrix& one) {
    const std::string name = plain_name(family_, one.id, !settings_.per_expert), module = module_of(name);
    const Matrix &a = one.adapter.a, &b = one.adapter.b;
    add_pair(module, a.rows, b.rows, a.cols, values_of(a), values_of(b));
    // A router is a module in transformers 4, and PEFT knows it under that name in 5, too.
    const bool as_module = is_module(one.id.role) || (settings_.per_expert && one.id.role == Role::router);
    targets_.push_back({as_module ? module : name, one.id.layer, as_module});
  }

  // All experts of a layer, one after the other.
  void add_each(int32_t layer, Role role) {
    const int32_t n = model_.layers[static_cast<size_t>(layer)].moe()->router.n_experts;
    for (int32_t e = 0; e < n; ++e) {
      const TensorId id{role, layer, e};
      const std::string name = plain_name(family_, id, false), module = module_of(name);
      const TensorPlace& place = places_.tensors.at(name);
      const int64_t r = settings_.rank;
      const auto found = of_.find(weight_name(id));
      if (found == of_.end()) {
        add_pair(module, r, place.rows, place.cols, std::vector<float>(static_cast<size_t>(r * place.cols)),
                 std::vector<float>(static_cast<size_t>(place.rows * r)));
      } else {
        const Adapter& pair = found->second->adapter;
        add_pair(module, r, place.rows, place.cols, values_of(pair.a), values_of(pair.b));
      }
      if (e == 0) expert_modules_.insert(module.substr(module.rfind('.') + 1));
    }
  }

  const Stack& stack_of(const TensorId& id) const {
    for (const auto& [module, stacks] : places_.stacks)
      for (const Stack& stack : stacks)
        for (const Part& part : stack.experts.front())
          if (part.tensor.id.layer == id.layer && part.tensor.id.role == id.role) return stack;
    throw Error(weight_name(id), "expected a parameter of all experts in this family, found none");
  }

  // A [n r, in], expert by expert; B [out, r n], the expert the faster index.
  void add_stack(const Stack& stack, int32_t layer) {
    const int64_t n = stack.n_experts, r = settings_.rank;
    Out a{"", n * r, stack.cols, {}}, b{"", stack.rows, r * n, {}};
    a.values.resize(static_cast<size_t>(a.rows * a.cols));
    b.values.resize(static_cast<size_t>(b.rows * b.cols));
    for (int64_t e = 0; e < n; ++e) {
      const float* shared = nullptr;
      for (const Part& part : stack.experts[static_cast<size_t>(e)]) {
        const auto found = of_.find(weight_name(part.tensor.id));
        if (found == of_.end()) continue;
        const Adapter& pair = found->second->adapter;
        const auto *own_a = static_cast<const float*>(pair.a.data), *own_b = static_cast<const float*>(pair.b.data);
        if (shared && shared != own_a)
          throw Error(stack.name, "expected one a for the gate and the up of an expert, found two");
        shared = own_a;
        std::copy_n(own_a, r * stack.cols, a.values.data() + e * r * stack.cols);
        for (int64_t o = 0; o < part.tensor.rows; ++o)
          for (int64_t k = 0; k < r; ++k)
            b.values[static_cast<size_t>((part.first + o * part.step) * r * n + k * n + e)] = own_b[o * r + k];
      }
    }
    const std::string module = module_of(stack.name);
    a.name = b.name = module;
    levels_[module][&stack] = outs_.size();
    outs_.push_back(std::move(a));
    outs_.push_back(std::move(b));
    targets_.push_back({stack.name, layer, false});
  }

  // The first parameter of a module is the innermost.
  void name_levels() {
    for (const auto& [module, firsts] : levels_) {
      size_t level = firsts.size();
      for (const auto& [stack, first] : firsts) {
        std::string name = module;
        --level;
        for (size_t i = 0; i < level; ++i) name += ".base_layer";
        outs_[first].name = name + ".lora_A.weight";
        outs_[first + 1].name = name + ".lora_B.weight";
      }
    }
  }

  // Names without their layers where all layers that have such a tensor are targets, else whole names.
  std::pair<json::Value, json::Value> target_lists() const {
    std::map<std::string, std::set<int32_t>> having, wanted;
    for (const auto& [name, place] : places_.tensors) {
      having[without_layer(name, place.id.layer)].insert(place.id.layer);
      having[without_layer(module_of(name), place.id.layer)].insert(place.id.layer);
    }
    for (const auto& [module, stacks] : places_.stacks)
      for (const Stack& stack : stacks) {
        const int32_t layer = stack.experts.front().front().tensor.id.layer;
        having[without_layer(stack.name, layer)].insert(layer);
      }
    for (const Target& target : targets_) wanted[without_layer(target.name, target.layer)].insert(target.layer);
    std::set<std::string> modules(expert_modules_.begin(), expert_modules_.end()), parameters;
    for (const Target& target : targets_) {
      const std::string end = without_layer(target.name, target.layer);
      (target.module ? modules : parameters).insert(wanted[end] == having[end] ? end : target.name);
    }
    const auto list = [](const std::set<std::string>& names) {
      json::Value array = json::Value::array();
      for (const std::string& name : names) array.push_back(name);
      return array;
    };
    return {list(modules), parameters.empty() ? json::Value() : list(parameters)};
  }

  json::Value config() const {
    // Where experts have modules, PEFT on transformers 5 puts gate and up together, with twice the rank and twice the
    // alpha: alpha / sqrt(rank) would not stay the same, alpha / rank does.
    const bool plain = settings_.rslora && settings_.per_expert;
    const double alpha = plain ? settings_.alpha * std::sqrt(static_cast<double>(settings_.rank)) : settings_.alpha;
    const bool whole = alpha == std::floor(alpha) && std::abs(alpha) < 1e15;
    auto [modules, parameters] = target_lists();
    return json::Value::object()
        .set("alpha_pattern", json::Value::object())
        .set("auto_mapping", json::Value())
        .set("base_model_name_or_path", settings_.base_model)
        .set("bias", "none")
        .set("fan_in_fan_out", false)
        .set("inference_mode", true)
        .set("init_lora_weights", true)
        .set("lora_alpha", whole ? json::Value(static_cast<int64_t>(alpha)) : json::Value(alpha))
        .set("lora_dropout", 0.0)
        .set("modules_to_save", json::Value())
        .set("peft_type", "LORA")
        .set("peft_version", "0.19.0")
        .set("r", settings_.rank)
        .set("rank_pattern", json::Value::object())
        .set("target_modules", std::move(modules))
        .set("target_parameters", std::move(parameters))
        .set("task_type", "CAUSAL_LM")
        .set("use_dora", false)
        .set("use_rslora", settings_.rslora && !plain);
  }

  const families::Family& family_;
  const Model& model_;
  const WriteSettings& settings_;
  const Places places_;
  std::map<std::string, const AdaptedMatrix*> of_;
  std::set<std::pair<int32_t, int>> done_;
  std::set<std::string> stacked_, expert_modules_;
  // Of each module with stacks, these in their order (they are neighbours in places_): the places of their A in outs_.
  std::map<std::string, std::map<const Stack*, size_t>> levels_;
  std::vector<Target> targets_;
  std::vector<Out> outs_;
};

}  // namespace

void check_form(const families::Family& family, const Model& model, bool per_expert) {
  for (const int32_t layer : model.moe_layers())
    if (per_expert && plain_name(family, {Role::expert_gate, layer, 0}, false).empty())
      throw UsageError("--per-expert", "expected a family whose experts have modules of their own, found " +
                                           std::string(family.model_type));
}

void write_adapter(const std::filesystem::path& directory, const families::Family& family, const Model& model,
                   std::span<const AdaptedMatrix> matrices, const WriteSettings& settings) {
  AdapterWriter(family, model, matrices, settings).write(directory);
}

}  // namespace signalbox::loaders::peft
