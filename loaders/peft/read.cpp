#include "loaders/peft/read.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include "base/half.h"
#include "base/sha256.h"
#include "base/text.h"
#include "engine/roles.h"
#include "loaders/model/files.h"
#include "loaders/peft/config.h"
#include "loaders/peft/places.h"

namespace signalbox::loaders::peft {

namespace {

constexpr std::string_view prefix = "base_model.model.", nested = ".base_layer";

using Values = std::shared_ptr<std::vector<float>>;

// A low-rank pair of the file: tensors by their role.
struct Pair {
  const safetensors::TensorInfo *a = nullptr, *b = nullptr;
};

// What the file holds of one module.
struct Module {
  std::map<int, Pair> levels;  // by the number of ".base_layer" in the name
  Pair embedding;
};

class Reader {
 public:
  Reader(const std::filesystem::path& directory, const families::Family& family, const Model& model)
      : files_(open_directory(directory)), places_(find_places(family, model)) {
    adapter_.name = directory.string();
    for (const char* name : {config_name, weights_name})
      if (!files_->has(name)) throw Error(files_->where(name), "expected a LoRA adapter as PEFT stores it, found none");
    const std::string config = files_->read(config_name);
    config_ = read_config(json::parse(config, files_->where(config_name)), files_->where(config_name));
    file_ = files_->open(weights_name);
    Sha256 hash;
    hash.update(config).update(file_->bytes().data(), file_->bytes().size());
    adapter_.hash = hash.hex();
    adapter_.owners.push_back(file_);
  }

  ModelAdapter run() {
    std::map<std::string, Module> modules;
    for (const safetensors::TensorInfo& info : file_->tensors()) sort(info, modules);
    for (const auto& [name, module] : modules) {
      if (module.embedding.a || module.embedding.b) read_embedding(name, module.embedding);
      if (module.levels.empty()) continue;
      if (places_.stacks.contains(name)) {
        read_stacks(name, module);
      } else {
        read_module(name, module);
      }
    }
    expect_each_once();
    expect_all(modules);
    file_->check_unchanged();
    return std::move(adapter_);
  }

 private:
  // Names of two generations of transformers lead to the same tensors.
  void expect_each_once() const {
    std::set<std::string> seen;
    for (const AdaptedMatrix& one : adapter_.matrices)
      if (!seen.insert(weight_name(one.id)).second)
        throw Error(file_->name(), "expected one adapter of each tensor, found two of " + weight_name(one.id));
  }

  // What the configuration says that the adapter changes, and the file's tensors, are the same: PEFT would leave
  // tensors of other modules out, and modules without tensors as they are.
  void expect_target(const safetensors::TensorInfo& info, const std::string& module, Role role) const {
    if (!config_.targets.given() || config_.targets.parameter(module + ".weight")) return;
    const std::string why = config_.targets.why_not(module, is_linear(role));
    if (!why.empty())
      throw Error(where(info), "expected a module that " + config_.where + " names for an adapter, found " +
                                   in_quotes(module) + ", which is not one by its " + why);
  }

  static bool is_linear(Role role) { return role != Role::embed && role != Role::lm_head; }

  // A tensor that may have several names.
  struct Named {
    TensorPlace place;
    std::string wanted_as, key;  // under which name, by which key; empty: it is no target
    bool there = false;
  };

  void expect_all(const std::map<std::string, Module>& modules) const {
    std::map<std::string, Named> tensors;
    // What the file has tensors of by themselves: of experts in which layers.
    std::set<std::pair<Role, int32_t>> kinds;
    const auto kind_of = [](const TensorId& id) { return std::pair(id.role, id.expert < 0 ? -1 : id.layer); };
    for (const auto& [name, place] : places_.tensors) {
      if (!name.ends_with(".weight") || !has_gradient(place.id.role)) continue;
      const std::string module = module_of(name);
      Named& one = tensors[weight_name(place.id)];
      one.place = place;
      const bool parameter = place.id.expert < 0 && config_.targets.parameter(name);
      if (parameter || (config_.targets.given() && config_.targets.why_not(module, is_linear(place.id.role)).empty())) {
        one.wanted_as = module;
        one.key = parameter ? "target_parameters" : "target_modules";
      }
      if (!modules.contains(module)) continue;
      one.there = true;
      kinds.insert(kind_of(place.id));
    }
    const auto missing = [&](const std::string& key, const std::string& name) {
      throw Error(config_.where, key + ": expected tensors in " + file_->name() +
                                     " of all that it names, found none of " + in_quotes(name));
    };
    for (const auto& [id, one] : tensors) {
      if (one.wanted_as.empty() || one.there) continue;
      // Where transformers has experts in one parameter a name may mean that, and not those beside it: then the file
      // has none of the latter.
      const Role role = one.place.id.role;
      if (one.key == "target_parameters" || is_attention_matrix(role) || !is_linear(role) ||
          kinds.contains(kind_of(one.place.id)))
        missing(one.key, one.wanted_as);
    }
    for (const auto& [module, stacks] : places_.stacks)
      for (const Stack& stack : stacks)
        if (config_.targets.parameter(stack.name) && !modules.contains(module))
          missing("target_parameters", stack.name);
    for (const std::string& name : config_.targets.kept_whole())
      if (!kept_.contains(name)) missing("modules_to_save", name);
  }

  std::string where(const safetensors::TensorInfo& info) const {
    return file_->name() + ": tensor " + in_quotes(info.name);
  }

  void sort(const safetensors::TensorInfo& info, std::map<std::string, Module>& modules) {
    std::string_view name = info.name;
    if (!name.starts_with(prefix))
      throw Error(where(info), "expected a name that begins with " + in_quotes(prefix) + ", found another");
    name.remove_prefix(prefix.size());
    const auto cut = [&](std::string_view end) {
      if (!name.ends_with(end)) return false;
      name.remove_suffix(end.size());
      return true;
    };
    const auto level = [&] {
      int n = 0;
      while (cut(nested)) ++n;
      return n;
    };
    if (cut(".lora_A.weight")) {
      const int n = level();
      modules[std::string(name)].levels[n].a = &info;
    } else if (cut(".lora_B.weight")) {
      const int n = level();
      modules[std::string(name)].levels[n].b = &info;
    } else if (cut(".lora_embedding_A")) {
      modules[std::string(name)].embedding.a = &info;
    } else if (cut(".lora_embedding_B")) {
      modules[std::string(name)].embedding.b = &info;
    } else {
      read_whole(info, std::string(name));
    }
  }

  void expect_shape(const safetensors::TensorInfo& info, const std::vector<int64_t>& shape) const {
    if (info.shape != shape)
      throw Error(where(info), "expected the shape " + safetensors::shape_text(shape) + ", found " +
                                   safetensors::shape_text(info.shape));
  }

  Values values_of(const safetensors::TensorInfo& info) {
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(info.elements()));
    if (info.type == DType::f32) {
      std::memcpy(values->data(), file_->data(info), info.bytes);
    } else if (info.type == DType::f16 || info.type == DType::bf16) {
      for (size_t i = 0; i < values->size(); ++i) {
        uint16_t half;
        std::memcpy(&half, file_->data(info) + 2 * i, 2);
        (*values)[i] = info.type == DType::f16 ? float_of_f16(half) : float_of_bf16(half);
      }
    } else {
      throw Error(where(info), "expected F32, F16 or BF16, found " + info.dtype);
    }
    for (const float value : *values)
      if (!std::isfinite(value)) throw Error(where(info), "expected finite values, found " + short_number(value));
    return values;
  }

  // A tensor that a training kept whole: the model's name of it, with what PEFT may have put in between taken out.
  void read_whole(const safetensors::TensorInfo& info, std::string name) {
    for (const std::string_view inner : {".base_layer", ".modules_to_save"})
      if (const size_t at = name.find(inner); at != std::string::npos) name.erase(at, inner.size());
    const auto found = places_.tensors.find(name);
    if (found == places_.tensors.end()) refuse(info, name);
    const TensorPlace& place = found->second;
    const std::string* kept = config_.targets.keeps_whole(module_of(name));
    if (kept) kept_.insert(*kept);
    // PEFT adds table and head by itself where it takes them for changed.
    if (!kept && is_linear(place.id.role))
      throw Error(where(info), "expected modules_to_save in " + config_.where +
                                   " to name a module that is kept whole, " + "found none that names " +
                                   in_quotes(module_of(name)));
    const bool vector = info.shape.size() == 1;
    expect_shape(info, vector ? std::vector<int64_t>{place.cols} : std::vector<int64_t>{place.rows, place.cols});
    if (vector && place.rows != 1) expect_shape(info, {place.rows, place.cols});
    const Values values = values_of(info);
    WholeTensor whole;
    whole.id = place.id;
    if (vector) {
      whole.vector = {values->data(), place.cols};
    } else {
      whole.matrix = matrix(values, 0, place.rows, place.cols);
    }
    adapter_.whole.push_back(whole);
    adapter_.owners.push_back(values);
  }

  [[noreturn]] void refuse(const safetensors::TensorInfo& info, const std::string& name) const {
    throw Error(where(info), "expected the name of one of the model's modules, found " + in_quotes(name) +
                                 ", which it does not have (another model's adapter?)");
  }

  void expect_pair(const Pair& pair) const {
    if (pair.a && pair.b) return;
    const safetensors::TensorInfo& one = pair.a ? *pair.a : *pair.b;
    throw Error(where(one), std::string("expected ") + (pair.a ? "a lora_B" : "a lora_A") +
                                " of the same module beside it, found none");
  }

  // The rank of a pair as the configuration has it, which the tensors must have.
  int64_t rank(const Pair& pair, const std::string& name, int64_t n_experts, int64_t found) const {
    const int64_t rank = config_.rank_of(name);
    if (found != rank * n_experts)
      throw Error(
          where(*pair.a),
          "expected the rank " + std::to_string(rank * n_experts) +
              (n_experts > 1 ? " (" + std::to_string(rank) + " for each of " + std::to_string(n_experts) + " experts)"
                             : "") +
              " as " + config_.where + " says, found the shape " + safetensors::shape_text(pair.a->shape));
    return rank;
  }

  static Matrix matrix(const Values& values, int64_t first, int64_t rows, int64_t cols) {
    Matrix out;
    out.data = values->data() + first;
    out.rows = rows;
    out.cols = out.row_stride = cols;
    return out;
  }

  static bool all_zero(const Matrix& m) {
    const auto* values = static_cast<const float*>(m.data);
    return std::all_of(values, values + m.rows * m.cols, [](float x) { return x == 0; });
  }

  // `owners` of the values are kept already.
  void add(const TensorId& id, const Matrix& a, const Matrix& b, double scale) {
    if (scale == 0 || all_zero(a) || all_zero(b)) return;
    adapter_.matrices.push_back({id, {a, b, static_cast<float>(scale)}});
  }

  // A router or a shared expert may be a target as a parameter, whose name has ".weight" behind.
  std::string pattern_name(const std::string& name) const {
    return config_.targets.parameter(name + ".weight") ? name + ".weight" : name;
  }

  void read_module(const std::string& name, const Module& module) {
    const auto& [level, pair] = *module.levels.begin();
    expect_pair(pair);
    const auto found = places_.tensors.find(name + ".weight");
    if (found == places_.tensors.end()) refuse(*pair.a, name);
    if (level != 0 || module.levels.size() > 1)
      throw Error(where(*module.levels.rbegin()->second.a),
                  "expected one adapter of a module with one weight, found base_layer in its name");
    const TensorPlace& place = found->second;
    expect_target(*pair.a, name, place.id.role);
    if (place.id.role == Role::embed)
      throw Error(where(*pair.a), "expected lora_embedding_A and lora_embedding_B of a table, found lora_A");
    const std::string as = pattern_name(name);
    const int64_t r = rank(pair, as, 1, pair.a->shape.empty() ? 0 : pair.a->shape[0]);
    expect_shape(*pair.a, {r, place.cols});
    expect_shape(*pair.b, {place.rows, r});
    const Values a = values_of(*pair.a), b = values_of(*pair.b);
    adapter_.owners.insert(adapter_.owners.end(), {a, b});
    add(place.id, matrix(a, 0, r, place.cols), matrix(b, 0, place.rows, r), config_.scale_of(as));
  }

  // Of a table [n, d]: A [r, n] and B [d, r]; row t changes by s B A[:, t].
  void read_embedding(const std::string& name, const Pair& pair) {
    expect_pair(pair);
    const auto found = places_.tensors.find(name + ".weight");
    if (found == places_.tensors.end()) refuse(*pair.a, name);
    const TensorPlace& place = found->second;
    expect_target(*pair.a, name, place.id.role);
    const int64_t r = rank(pair, name, 1, pair.a->shape.empty() ? 0 : pair.a->shape[0]);
    expect_shape(*pair.a, {r, place.rows});
    expect_shape(*pair.b, {place.cols, r});
    const Values a = transposed(*values_of(*pair.b), place.cols, r), b = transposed(*values_of(*pair.a), r, place.rows);
    adapter_.owners.insert(adapter_.owners.end(), {a, b});
    add(place.id, matrix(a, 0, r, place.cols), matrix(b, 0, place.rows, r), config_.scale_of(name));
  }

  static Values transposed(const std::vector<float>& from, int64_t rows, int64_t cols) {
    auto out = std::make_shared<std::vector<float>>(from.size());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c)
        (*out)[static_cast<size_t>(c * rows + r)] = from[static_cast<size_t>(r * cols + c)];
    return out;
  }

  void read_stacks(const std::string& name, const Module& module) {
    const std::vector<Stack>& stacks = places_.stacks.at(name);
    std::vector<const Stack*> targets;
    for (const Stack& stack : stacks)
      if (config_.targets.parameter(stack.name)) targets.push_back(&stack);
    const Pair& some = module.levels.begin()->second;
    if (targets.empty() && config_.targets.given())
      throw Error(where(some.a ? *some.a : *some.b),
                  "expected target_parameters in " + config_.where + " to name a parameter of " + in_quotes(name) +
                      ", found none of " + joined(stacks, ", ", [](const Stack& stack) { return stack.name; }));
    if (targets.empty())  // nothing is said: it has all that can be
      for (const Stack& stack : stacks)
        if (!stack.vectors) targets.push_back(&stack);
    if (targets.size() != module.levels.size())
      throw Error(where(some.a ? *some.a : *some.b),
                  "expected a level of base_layer for each parameter of the module that is a target (" +
                      joined(targets, ", ", [](const Stack* stack) { return stack->name; }) + "), found " +
                      std::to_string(module.levels.size()) + " (see target_parameters in " + config_.where + ")");
    // The first parameter is the innermost.
    int level = static_cast<int>(targets.size());
    for (const Stack* stack : targets) {
      const auto found = module.levels.find(--level);
      if (found == module.levels.end())
        throw Error(where(some.a ? *some.a : *some.b), "expected levels of base_layer from 0 to " +
                                                           std::to_string(targets.size() - 1) + ", found none of " +
                                                           std::to_string(level));
      expect_pair(found->second);
      read_stack(*stack, found->second);
    }
  }

  void read_stack(const Stack& stack, const Pair& pair) {
    if (stack.vectors)
      throw Error(where(*pair.a), "expected adapters of matrices, found one of the biases " + stack.name);
    const int64_t n = stack.n_experts, found = pair.a->shape.empty() ? 0 : pair.a->shape[0];
    const int64_t r = rank(pair, stack.name, n, found);
    // In PEFT up to 0.18 "in" is the first axis behind the experts, whatever it means.
    const std::vector<int64_t> a_shape{r * n, stack.cols}, b_shape{stack.rows, r * n};
    const std::vector<int64_t> a_other{r * n, stack.rows}, b_other{stack.cols, r * n};
    const bool fits = pair.a->shape == a_shape && pair.b->shape == b_shape;
    const bool other = !stack.transposed && pair.a->shape == a_other && pair.b->shape == b_other;
    bool swapped = other && !fits;
    if (fits && other) {
      const Config::Axes axes = config_.axes();
      if (axes == Config::Axes::unknown)
        throw Error(where(*pair.a),
                    "expected a peft_version in " + config_.where + " (the shape " + safetensors::shape_text(a_shape) +
                        " leaves open which axis is in: versions to 0.18 and from 0.19 differ), found " +
                        (config_.version ? in_quotes(*config_.version) : "none"));
      swapped = axes == Config::Axes::in_order;
    } else if (!fits && !other) {
      expect_shape(*pair.a, a_shape);
      expect_shape(*pair.b, b_shape);
    }
    const double scale = config_.scale_of(stack.name);
    const Values a = values_of(*pair.a), b = values_of(*pair.b);
    const int64_t in = stack.cols;
    for (int64_t e = 0; e < n; ++e) {
      // a_e [r, in], b_e [out, r] of the stacked matrix: b's columns k n + e; swapped, each is the other transposed.
      auto a_e = std::make_shared<std::vector<float>>(static_cast<size_t>(r * in));
      auto b_e = std::make_shared<std::vector<float>>(static_cast<size_t>(stack.rows * r));
      for (int64_t k = 0; k < r; ++k) {
        for (int64_t i = 0; i < in; ++i)
          (*a_e)[static_cast<size_t>(k * in + i)] = swapped ? (*b)[static_cast<size_t>(i * r * n + k * n + e)]
                                                            : (*a)[static_cast<size_t>((e * r + k) * in + i)];
        for (int64_t o = 0; o < stack.rows; ++o)
          (*b_e)[static_cast<size_t>(o * r + k)] = swapped ? (*a)[static_cast<size_t>((e * r + k) * stack.rows + o)]
                                                           : (*b)[static_cast<size_t>(o * r * n + k * n + e)];
      }
      adapter_.owners.push_back(a_e);
      for (const Part& part : stack.experts[static_cast<size_t>(e)]) {
        auto own = std::make_shared<std::vector<float>>(static_cast<size_t>(part.tensor.rows * r));
        for (int64_t o = 0; o < part.tensor.rows; ++o)
          std::copy_n(b_e->data() + (part.first + o * part.step) * r, r, own->data() + o * r);
        adapter_.owners.push_back(own);
        add(part.tensor.id, matrix(a_e, 0, r, in), matrix(own, 0, part.tensor.rows, r), scale);
      }
    }
  }

  std::shared_ptr<const ModelFiles> files_;
  Places places_;
  Config config_;
  std::shared_ptr<const safetensors::File> file_;
  std::set<std::string> kept_;  // of modules_to_save, those that the file has tensors of
  ModelAdapter adapter_;
};

}  // namespace

ModelAdapter read_adapter(const std::filesystem::path& directory, const families::Family& family, const Model& model) {
  return Reader(directory, family, model).run();
}

}  // namespace signalbox::loaders::peft
