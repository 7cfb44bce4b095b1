#include "loaders/peft/base_model.h"

#include "base/text.h"
#include "loaders/peft/config.h"

namespace signalbox::loaders::peft {

namespace {

namespace fs = std::filesystem;

// "base-8x7b" of "org/Base-8x7B@main", "out/Base-8x7B/" and ".../models--org--Base-8x7B/snapshots/COMMIT".
std::string last_part(std::string name) {
  constexpr std::string_view of_cache = "models--";
  while (name.ends_with('/')) name.pop_back();
  if (const size_t at = name.rfind(of_cache); at != std::string::npos) {
    name = name.substr(at + of_cache.size());
    name = name.substr(0, name.find('/'));
    if (const size_t org = name.find("--"); org != std::string::npos) name = name.substr(org + 2);
  } else {
    name = name.substr(name.rfind('/') + 1);
  }
  return ascii_lower(name.substr(0, name.find('@')));
}

bool same_name(const std::string& made_for, const ResolvedModel& model) {
  std::error_code code;
  if (fs::is_directory(made_for, code) && fs::is_directory(model.path, code))
    return fs::equivalent(made_for, model.path, code);
  return last_part(made_for) == last_part(model.name) || last_part(made_for) == last_part(model.path);
}

}  // namespace

MadeFor made_for(const fs::path& directory) {
  const auto files = open_directory(directory);
  MadeFor made;
  made.name = read_config(files->read_json(config_name), files->where(config_name)).base_model;
  const auto file = files->open(weights_name);
  if (const auto found = file->metadata().find(base_weights_key); found != file->metadata().end())
    made.weights = found->second;
  return made;
}

std::string other_base(const fs::path& adapter, const MadeFor& made, const ResolvedModel& model,
                       const std::function<std::string()>& weights) {
  if (!made.weights.empty()) {
    if (made.weights == weights()) return "";
    return adapter.string() + ": made for other weights than those of " + model.name +
           (made.name.empty() ? "" : " (for those of " + made.name + ")") + ", put on them all the same";
  }
  if (made.name.empty() || same_name(made.name, model)) return "";
  return adapter.string() + ": made for " + made.name + " by its " + config_name + ", put on " + model.name +
         " all the same";
}

}  // namespace signalbox::loaders::peft
