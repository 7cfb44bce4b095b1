// The files of a model by name, wherever they lie: in a directory, in the Hugging Face cache, or in the binary.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "base/safetensors.h"

namespace signalbox::loaders {

class ModelFiles {
 public:
  virtual ~ModelFiles() = default;

  // What messages and manifests call a file: "DIR/config.json", "builtin/config.json".
  virtual std::string where(const std::string& name) const = 0;
  virtual bool has(const std::string& name) const = 0;
  // The whole content of a regular file of at most `max_bytes`. Throws Error naming the file.
  virtual std::string read(const std::string& name, uint64_t max_bytes = uint64_t{1} << 30) const = 0;
  // Maps and validates a safetensors file.
  virtual std::shared_ptr<const safetensors::File> open(const std::string& name) const = 0;
  // The directory, for files that a library must open by itself; none for files in memory.
  virtual std::optional<std::filesystem::path> directory() const { return std::nullopt; }

  json::Value read_json(const std::string& name) const { return json::parse(read(name), where(name)); }
};

// Files of a directory. Names with '/' or ".." are refused; symlinks are followed to regular files.
std::shared_ptr<const ModelFiles> open_directory(const std::filesystem::path& directory);

// Files in memory that lives as long as the process; `label` stands for the directory in messages.
std::shared_ptr<const ModelFiles> open_memory(std::string label,
                                              std::map<std::string, std::span<const std::byte>> files);

// Writes the files beside the weights that a checkpoint is used with, config.json apart, into the directory `to`: the
// tokenizer's, the chat templates, generation_config.json, the code that config.json's auto_map may name.
void copy_companions(const ModelFiles& files, const std::filesystem::path& to);

// Where a MODEL argument leads.
struct ResolvedModel {
  std::string name;    // as it was given
  std::string path;    // the directory, or "builtin"
  std::string commit;  // of a model in the cache: 40 hex digits; else empty
  std::shared_ptr<const ModelFiles> files;
};

// MODEL is `builtin` (the files that are given here; none: the name leads nowhere), a directory, or org/name[@revision]
// in the Hugging Face cache ($HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME or ~/.cache, + /huggingface/hub),
// never the network. A revision is a commit or a name under refs/ (default "main"). A snapshot with files missing is
// refused. Throws Error that says where it looked.
ResolvedModel resolve_model(const std::string& model, std::shared_ptr<const ModelFiles> builtin = nullptr);

}  // namespace signalbox::loaders
