// org/name[@revision] in the Hugging Face cache, read as huggingface_hub lays it out and never completed from the
// network: models--ORG--NAME/{refs/REVISION, snapshots/COMMIT/, blobs/, trees/COMMIT.json}.
#include "loaders/model/hub_cache.h"

#include <algorithm>
#include <cstdlib>

#include "base/near_names.h"
#include "base/text.h"
#include "loaders/model/files.h"

namespace signalbox::loaders {

ResolvedModel resolve_in_cache(const std::string& model);

namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path expand_home(const std::string& path) {
  if (path == "~" || path.rfind("~/", 0) == 0) return fs::path(environment("HOME") + path.substr(1));
  return path;
}

fs::path cache_root() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (std::string value = environment(name); !value.empty()) return expand_home(value);
  if (std::string value = environment("HF_HOME"); !value.empty()) return expand_home(value) / "hub";
  if (std::string value = environment("XDG_CACHE_HOME"); !value.empty())
    return expand_home(value) / "huggingface" / "hub";
  return expand_home("~/.cache") / "huggingface" / "hub";
}

// What the hub allows in a part of a name; keeps "..", '/' and control characters out of paths.
bool name_part(const std::string& text) {
  if (text.empty() || text.size() > 96 || text.find("..") != std::string::npos || text.front() == '.') return false;
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; });
}

bool revision_name(const std::string& text) {
  if (text.empty() || text.size() > 255 || text.front() == '/' || text.find("..") != std::string::npos) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f && c != '\\'; });
}

bool commit_hash(const std::string& text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(),
                                          [](unsigned char c) { return std::isdigit(c) || (c >= 'a' && c <= 'f'); });
}

bool needed(const std::string& name) {
  for (const std::string& pattern : snapshot_patterns()) {
    const size_t star = pattern.find('*');
    if (star == std::string::npos ? name == pattern
                                  : name.size() >= pattern.size() && name.starts_with(pattern.substr(0, star)) &&
                                        name.ends_with(pattern.substr(star + 1)))
      return true;
  }
  return false;
}

void check_complete(const fs::path& repository, const fs::path& snapshot, const std::string& commit,
                    const std::string& hint) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(snapshot, code))
    if (needed(entry.path().filename().string()) && !fs::exists(entry.path(), code))
      throw Error(entry.path().string(), "expected a file, found a link to nothing (an incomplete download)" + hint);
  const fs::path tree = repository / "trees" / (commit + ".json");
  if (!fs::exists(tree, code)) return;
  const json::Value listing = json::parse_file(tree);
  const json::Ref root(listing, tree.string());
  auto version = root.find("format_version");
  if (!version || version->integer() != 1) return;  // another format: a hint we cannot read
  for (const auto& [name, item] : root.at("files").members()) {
    if (!needed(name)) continue;
    const fs::path file = snapshot / name;
    if (!fs::exists(file, code))
      throw Error(file.string(), "expected a file that the commit has, found none (an incomplete download)" + hint);
    if (auto size = item.find("size");
        size && fs::file_size(file, code) != static_cast<uint64_t>(size->size()) && !code)
      throw Error(file.string(), "expected " + std::to_string(size->integer()) + " bytes as the commit has, found " +
                                     std::to_string(fs::file_size(file, code)) + " (an incomplete download)" + hint);
  }
}

// What gets a model, at the end of a refusal. A name without an organisation is more likely a mistyped folder.
std::string download_hint(const HubName& name) {
  if (name.id.find('/') == std::string::npos) return "";
  return "; signalbox download " + name.id + (name.revision == "main" ? "" : " --revision " + name.revision) +
         " gets it";
}

// Names that may have been meant: the built-in model's, and those of models in the cache.
std::string nearest_model(const std::string& model, const fs::path& root) {
  std::vector<std::string> known = {"builtin"};
  std::error_code code;
  for (fs::directory_iterator entry(root, code), end; !code && entry != end; entry.increment(code)) {
    std::string name = entry->path().filename().string();
    if (!name.starts_with("models--")) continue;
    name.erase(0, 8);
    if (const size_t dashes = name.find("--"); dashes != std::string::npos) name.replace(dashes, 2, "/");
    known.push_back(name);
  }
  std::sort(known.begin(), known.end());
  const std::vector<std::string> near = near_names(model.substr(0, model.find('@')), known);
  return near.empty() ? "" : " (nearest: " + joined(near) + ")";
}

}  // namespace

const std::vector<std::string>& snapshot_patterns() {
  static const std::vector<std::string> patterns = {
      "config.json",           "generation_config.json",      "tokenizer.json",      "tokenizer.model",
      "tokenizer_config.json", "special_tokens_map.json",     "chat_template.jinja", "model.safetensors",
      "model-*.safetensors",   "model.safetensors.index.json"};
  return patterns;
}

std::optional<HubName> hub_name(const std::string& model) {
  const size_t at = model.find('@');
  const HubName name = {model.substr(0, at), at == std::string::npos ? "main" : model.substr(at + 1)};
  const size_t slash = name.id.find('/');
  if (!name_part(name.id.substr(0, slash)) || (slash != std::string::npos && !name_part(name.id.substr(slash + 1))) ||
      !revision_name(name.revision))
    return std::nullopt;
  return name;
}

ResolvedModel resolve_in_cache(const std::string& model) {
  const std::optional<HubName> name = hub_name(model);
  if (!name)
    throw Error(model,
                "expected a directory, org/name[@revision] in the Hugging Face cache, or builtin; found none of them");
  const std::string& revision = name->revision;
  std::string folder = "models--" + name->id;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");

  const fs::path root = cache_root();
  const fs::path repository = root / folder;
  std::error_code code;
  if (!fs::is_directory(repository, code))
    throw Error(model, "expected a directory or a model in the cache " + root.string() + ", found neither" +
                           nearest_model(model, root) + download_hint(*name));
  std::string commit = revision;
  if (!commit_hash(commit) || fs::exists(repository / "refs" / revision, code)) {
    const fs::path reference = repository / "refs" / revision;
    if (!fs::is_regular_file(reference, code))
      throw Error(model, "expected the revision in " + reference.string() + ", found none" + download_hint(*name));
    commit = open_directory(reference.parent_path())->read(reference.filename().string(), 1024);
    while (!commit.empty() && static_cast<unsigned char>(commit.back()) <= ' ') commit.pop_back();
    if (!commit_hash(commit))
      throw Error(reference.string(), "expected a commit of 40 hex digits, found something else");
  }
  const fs::path snapshot = repository / "snapshots" / commit;
  if (!fs::is_directory(snapshot, code))
    throw Error(model, "expected the snapshot " + snapshot.string() + ", found none" + download_hint(*name));
  check_complete(repository, snapshot, commit, download_hint(*name));
  return {model, snapshot.string(), commit, open_directory(snapshot)};
}

}  // namespace signalbox::loaders
