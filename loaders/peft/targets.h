// Which modules and parameters of a model an adapter_config.json says that its adapter changes: PEFT's own rules.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "loaders/tokenizer/regex.h"

namespace signalbox::loaders::peft {

// Names are those of modules in transformers ("model.layers.3.self_attn.q_proj"). A list names modules by all of their
// name or by what stands behind a dot of it; a text is a regular expression of the whole name, or "all-linear".
class Targets {
 public:
  Targets() = default;
  // Throws Error naming file and key: other types than PEFT takes, and what it refuses to combine.
  explicit Targets(const json::Ref& config);

  // Whether anything is said: files made by hand may have neither target_modules nor target_parameters.
  bool given() const { return modules_given_ || !parameters_.empty(); }
  // Empty where the module is a target; else the key that says otherwise. `linear`: of those that all-linear means,
  // which are all but the table and the head.
  std::string why_not(std::string_view module, bool linear) const;
  bool parameter(std::string_view name) const;
  bool any_parameter() const { return !parameters_.empty(); }

  // Modules kept whole: each name is the end of that of a module, or of one around it.
  const std::vector<std::string>& kept_whole() const { return kept_whole_; }
  // The first of them that this module is one of, or none.
  const std::string* keeps_whole(std::string_view module) const;

 private:
  // A list of names, or an expression.
  struct Names {
    std::vector<std::string> list;
    std::optional<tokenizer::Regex> regex;
    bool all_linear = false;
    bool has(std::string_view name) const;
  };
  static Names read_names(const json::Ref& of, bool of_targets);
  bool of_layers(std::string_view module) const;

  bool modules_given_ = false;
  Names modules_, excluded_;
  std::vector<std::string> parameters_, kept_whole_;
  std::vector<tokenizer::Regex> within_whole_;  // of a name that is one of kept_whole_, or is within one
  std::optional<std::vector<int64_t>> layers_;  // none: all
  std::vector<tokenizer::Regex> before_layer_;  // up to the number of a layer and the dot behind it; none: any
};

}  // namespace signalbox::loaders::peft
