// Which of a model's tensors the modules of transformers hold, by the tables of loaders/families/.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/weights.h"
#include "loaders/families/family.h"

namespace signalbox::loaders::peft {

// A tensor's rows in a stored one: row i of it is row first + i * step there.
struct Part {
  TensorPlace tensor;  // id and shape alone
  int64_t first = 0, step = 1;
};

// A parameter that holds the tensors of all experts: [n_experts, rows, cols], or with the last two the other way round.
struct Stack {
  std::string name;  // "model.layers.3.mlp.experts.down_proj"
  int64_t n_experts = 0, rows = 0, cols = 0;
  bool transposed = false;
  bool vectors = false;                    // biases
  std::vector<std::vector<Part>> experts;  // [n_experts]
};

struct Places {
  std::map<std::string, TensorPlace> tensors;        // by full name: "model.layers.3.self_attn.q_proj.weight"
  std::map<std::string, std::vector<Stack>> stacks;  // by module, its parameters in their order
};

Places find_places(const families::Family& family, const Model& model);

// The module of a weight: the name without its last part.
std::string module_of(const std::string& parameter);

}  // namespace signalbox::loaders::peft
