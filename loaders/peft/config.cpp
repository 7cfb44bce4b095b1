#include "loaders/peft/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text.h"

namespace signalbox::loaders::peft {

namespace {

// Keys that change nothing of a finished adapter: where it came from, how it was trained, what its tensors say anyway.
constexpr std::string_view silent[] = {"auto_mapping",
                                       "base_model_name_or_path",
                                       "revision",
                                       "task_type",
                                       "inference_mode",
                                       "target_modules",
                                       "exclude_modules",
                                       "layers_to_transform",
                                       "layers_pattern",
                                       "lora_dropout",
                                       "megatron_core",
                                       "qalora_group_size",
                                       "runtime_config",
                                       "modules_to_save",
                                       "r",
                                       "lora_alpha",
                                       "use_rslora",
                                       "rank_pattern",
                                       "alpha_pattern",
                                       "target_parameters",
                                       "peft_type",
                                       "peft_version",
                                       "bias",
                                       "init_lora_weights"};

bool says_nothing(const json::Value& value) {
  switch (value.type()) {
    case json::Type::null: return true;
    case json::Type::boolean: return !value.boolean();
    case json::Type::string: return value.string().empty();
    case json::Type::array: return value.items().empty();
    case json::Type::object: return value.members().empty();
    default: return false;
  }
}

// Initialisations that take what they put into the adapter away from the base weights, which are then not the model's.
bool changes_base(const std::string& init) {
  for (const char* name : {"pissa", "olora", "corda", "loftq", "lora_ga"})
    if (init.starts_with(name)) return true;
  return false;
}

// As Python's re.match(rf"(.*\.)?({key})$", name).
std::vector<Pattern> read_patterns(const json::Ref& root, const char* key, bool whole) {
  std::vector<Pattern> patterns;
  const auto found = root.find(key);
  if (!found) return patterns;
  for (const auto& [name, value] : found->members()) {
    const double number = whole ? static_cast<double>(value.integer(1, INT32_MAX)) : value.number();
    patterns.push_back(
        {name, tokenizer::Regex("\\A(?:.*\\.)?(?:" + name + ")\\z", found->where() + ": " + key), number});
  }
  return patterns;
}

double value_for(const std::vector<Pattern>& patterns, std::string_view name, double otherwise) {
  for (const Pattern& pattern : patterns) {
    std::vector<tokenizer::ByteRange> matches;
    pattern.regex.find_all(name, matches);
    if (!matches.empty()) return pattern.value;
  }
  return otherwise;
}

}  // namespace

int64_t Config::rank_of(std::string_view name) const {
  return static_cast<int64_t>(value_for(ranks, name, static_cast<double>(rank)));
}

double Config::scale_of(std::string_view name) const {
  const auto rank = static_cast<double>(rank_of(name));
  return value_for(alphas, name, alpha) / (rslora ? std::sqrt(rank) : rank);
}

Config::Axes Config::axes() const {
  if (!version) return Axes::unknown;
  int major = 0, minor = 0;
  const char *at = version->data(), *end = at + version->size();
  const auto first = std::from_chars(at, end, major);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return Axes::unknown;
  if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc()) return Axes::unknown;
  if (major > 0 || minor >= 19) return Axes::as_they_are;
  return version->find("dev") == std::string::npos ? Axes::in_order : Axes::unknown;
}

Config read_config(const json::Value& value, const std::string& where) {
  const json::Ref root(value, where);
  root.expect_object();
  Config config;
  config.where = where;
  const json::Ref type = root.at("peft_type");
  if (type.string() != "LORA") type.fail("expected \"LORA\", found " + in_quotes(type.string()));
  if (const auto bias = root.find("bias"); bias && bias->string() != "none")
    bias->fail("expected \"none\" (biases that train are not read), found " + in_quotes(bias->string()));
  if (const auto init = root.find("init_lora_weights"))
    if (init->value().is_string() && changes_base(init->string()))
      init->fail("expected an initialisation that leaves the base weights alone, found " + in_quotes(init->string()) +
                 " (PEFT converts such an adapter: save_pretrained(path_initial_model_for_weight_conversion=...))");
  for (const auto& [key, member] : root.members())
    if (std::find(std::begin(silent), std::end(silent), key) == std::end(silent) && !says_nothing(member.value()))
      member.fail("expected no such key (not applied here), found " + json::dump(member.value()));
  if (const auto rank = root.find("r")) config.rank = rank->integer(1, INT32_MAX);
  if (const auto alpha = root.find("lora_alpha")) config.alpha = alpha->number();
  if (const auto rslora = root.find("use_rslora")) config.rslora = rslora->boolean();
  config.ranks = read_patterns(root, "rank_pattern", true);
  config.alphas = read_patterns(root, "alpha_pattern", false);
  config.targets = Targets(root);
  if (const auto base = root.find("base_model_name_or_path")) config.base_model = base->string();
  if (const auto version = root.find("peft_version")) config.version = version->string();
  return config;
}

}  // namespace signalbox::loaders::peft
