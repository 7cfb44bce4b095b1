#include "loaders/peft/targets.h"

#include <algorithm>
#include <charconv>

#include "base/text.h"

namespace signalbox::loaders::peft {

namespace {

constexpr std::string_view all_linear = "all-linear";

bool is_end(std::string_view name, const std::string& end) {
  return name == end || (name.size() > end.size() && name.ends_with(end) && name[name.size() - end.size() - 1] == '.');
}

bool any_end(std::string_view name, const std::vector<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(), [&](const std::string& end) { return is_end(name, end); });
}

std::vector<std::string> strings(const json::Ref& list) {
  std::vector<std::string> out;
  for (const json::Ref& item : list.items()) out.push_back(item.string());
  return out;
}

std::optional<std::string> first_match(const tokenizer::Regex& regex, std::string_view text) {
  std::vector<tokenizer::ByteRange> matches;
  regex.find_all(text, matches);
  if (matches.empty()) return std::nullopt;
  return std::string(text.substr(matches.front().begin, matches.front().end - matches.front().begin));
}

std::optional<int64_t> number(std::string_view digits) {
  int64_t value = 0;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (code != std::errc() || end != digits.data() + digits.size() || digits.empty()) return std::nullopt;
  return value;
}

std::vector<std::string_view> segments_of(std::string_view name) {
  std::vector<std::string_view> out;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    out.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

}  // namespace

bool Targets::Names::has(std::string_view name) const {
  if (regex) return first_match(*regex, name).has_value();
  return any_end(name, list);
}

Targets::Names Targets::read_names(const json::Ref& of, bool of_targets) {
  Names names;
  if (of.value().type() == json::Type::array) {
    names.list = strings(of);
  } else if (!of.value().is_string()) {
    of.fail_type("a list of names or a regular expression");
  } else if (of_targets && ascii_lower(of.string()) == all_linear) {
    names.all_linear = true;
  } else {
    names.regex.emplace("\\A(?:" + of.string() + ")\\z", of.where() + ": " + of.path());
  }
  return names;
}

Targets::Targets(const json::Ref& config) {
  const auto layers = config.find("layers_to_transform"), pattern = config.find("layers_pattern");
  if (const auto modules = config.find("target_modules")) {
    modules_given_ = true;
    modules_ = read_names(*modules, true);
    for (const auto* of_layers : {&layers, &pattern})
      if (*of_layers && modules->value().is_string())
        (*of_layers)->fail("expected none beside target_modules that are a text (PEFT refuses both), found one");
  }
  if (const auto excluded = config.find("exclude_modules")) excluded_ = read_names(*excluded, false);
  if (const auto parameters = config.find("target_parameters")) parameters_ = strings(*parameters);
  if (const auto kept = config.find("modules_to_save")) kept_whole_ = strings(*kept);
  for (const std::string& name : kept_whole_)
    within_whole_.emplace_back("\\A(?:|.*\\.)(?:" + name + ")(?:\\z|\\.)", config.where() + ": modules_to_save");
  if (layers) {
    std::vector<int64_t> numbers;
    if (layers->value().type() == json::Type::array) {
      for (const json::Ref& item : layers->items()) numbers.push_back(item.integer(0, INT32_MAX));
    } else {
      numbers.push_back(layers->integer(0, INT32_MAX));
    }
    if (!numbers.empty()) layers_ = std::move(numbers);
  }
  if (!pattern) return;
  const std::vector<std::string> patterns =
      pattern->value().is_string() ? std::vector<std::string>{pattern->string()} : strings(*pattern);
  if (!patterns.empty() && !layers)
    pattern->fail("expected layers_to_transform beside it (PEFT refuses it alone), found none");
  for (const std::string& one : patterns)
    if (!one.empty())
      before_layer_.emplace_back("\\A(?:|.*?\\.)(?:" + one + ")\\.\\d+\\.", pattern->where() + ": layers_pattern");
}

// The layer's number is the first segment that is a number, with another one before it and something on both sides.
bool Targets::of_layers(std::string_view module) const {
  if (!layers_) return true;
  std::optional<int64_t> layer;
  if (before_layer_.empty()) {
    const std::vector<std::string_view> segments = segments_of(module);
    for (size_t i = 2; i + 1 < segments.size() && !layer; ++i) layer = number(segments[i]);
  }
  for (const tokenizer::Regex& regex : before_layer_) {
    const auto found = first_match(regex, module);
    if (!found) continue;
    const size_t dot = found->rfind('.', found->size() - 2);
    layer = number(std::string_view(*found).substr(dot + 1, found->size() - dot - 2));
    break;
  }
  return layer && std::find(layers_->begin(), layers_->end(), *layer) != layers_->end();
}

std::string Targets::why_not(std::string_view module, bool linear) const {
  if (excluded_.has(module)) return "exclude_modules";
  for (const tokenizer::Regex& regex : within_whole_)
    if (first_match(regex, module)) return "modules_to_save";
  if (modules_.all_linear) return linear ? "" : "target_modules";
  if (modules_.regex) return modules_.has(module) ? "" : "target_modules";
  // A whole name counts whatever its layer.
  if (std::find(modules_.list.begin(), modules_.list.end(), module) != modules_.list.end()) return "";
  if (!modules_.has(module)) return "target_modules";
  return of_layers(module) ? "" : "layers_to_transform";
}

bool Targets::parameter(std::string_view name) const { return any_end(name, parameters_); }

const std::string* Targets::keeps_whole(std::string_view module) const {
  for (const std::string& name : kept_whole_)
    for (size_t end = 0; end <= module.size(); ++end)  // of the module, and of those around it
      if ((end == module.size() || module[end] == '.') && module.substr(0, end).ends_with(name)) return &name;
  return nullptr;
}

}  // namespace signalbox::loaders::peft
