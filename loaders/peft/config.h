// adapter_config.json of PEFT: what of a LoRA adapter stands there, and what is refused by name.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "loaders/peft/targets.h"
#include "loaders/tokenizer/regex.h"

namespace signalbox::loaders::peft {

inline constexpr const char *config_name = "adapter_config.json", *weights_name = "adapter_model.safetensors";

// A regular expression for the end of a module's name, and what it has for those that match.
struct Pattern {
  std::string key;
  tokenizer::Regex regex;
  double value = 0;
};

struct Config {
  std::string where;  // the file
  int64_t rank = 8;
  double alpha = 8;
  bool rslora = false;
  std::vector<Pattern> ranks, alphas;  // the first that matches decides
  Targets targets;
  std::optional<std::string> version;  // peft_version
  std::string base_model;              // base_model_name_or_path; empty: not said

  // Of a module, or of a parameter that is a target itself.
  int64_t rank_of(std::string_view name) const;
  double scale_of(std::string_view name) const;  // alpha / rank, with use_rslora alpha / sqrt(rank)
  // How PEFT took the axes of a stack of experts [n, out, in]: up to 0.18 in their order, as if that were [n, in, out];
  // later as they are. Unknown without a version, and for versions between the two.
  enum class Axes : uint8_t { unknown, in_order, as_they_are };
  Axes axes() const;
};

// Throws Error naming file and key: another peft_type than LORA, and whatever changes more than a low-rank addition
// does (DoRA, biases, weights that the initialisation changed, keys unknown here with a value).
Config read_config(const json::Value& root, const std::string& where);

}  // namespace signalbox::loaders::peft
