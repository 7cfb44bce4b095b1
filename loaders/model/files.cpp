#include "loaders/model/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/files.h"

namespace signalbox::loaders {

namespace {

namespace fs = std::filesystem;

bool plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

class Directory : public ModelFiles {
 public:
  explicit Directory(fs::path directory) : directory_(std::move(directory)) {}

  std::string where(const std::string& name) const override { return (directory_ / name).string(); }

  bool has(const std::string& name) const override {
    std::error_code code;
    // A dangling link counts: opening it gives the error that tells of it.
    return plain_name(name) && fs::exists(fs::symlink_status(directory_ / name, code));
  }

  std::string read(const std::string& name, uint64_t max_bytes) const override {
    check(name);
    const std::string place = where(name);
    const int descriptor = ::open(place.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) throw Error(place, std::string("cannot open the file: ") + std::strerror(errno));
    struct Closer {
      int descriptor;
      ~Closer() { close(descriptor); }
    } closer{descriptor};
    struct stat status {};
    if (fstat(descriptor, &status) != 0)
      throw Error(place, std::string("cannot read the size: ") + std::strerror(errno));
    if (!S_ISREG(status.st_mode)) throw Error(place, "expected a regular file, found something else");
    if (static_cast<uint64_t>(status.st_size) > max_bytes)
      throw Error(place,
                  "expected at most " + std::to_string(max_bytes) + " bytes, found " + std::to_string(status.st_size));
    std::string text(static_cast<size_t>(status.st_size), '\0');
    for (size_t done = 0; done < text.size();) {
      const ssize_t got = ::read(descriptor, text.data() + done, text.size() - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw Error(place, std::string("cannot read the file: ") + std::strerror(errno));
      if (got == 0)
        throw Error(place, "expected " + std::to_string(text.size()) + " bytes, found " + std::to_string(done));
      done += static_cast<size_t>(got);
    }
    return text;
  }

  std::shared_ptr<const safetensors::File> open(const std::string& name) const override {
    check(name);
    return safetensors::File::open(directory_ / name);
  }

  std::optional<fs::path> directory() const override { return directory_; }

 private:
  void check(const std::string& name) const {
    if (!plain_name(name))
      throw Error(directory_.string(), "expected a file name without '/' and \"..\", found \"" + name + "\"");
    std::error_code code;
    if (const fs::path path = directory_ / name; !fs::exists(path, code)) {
      const bool link = fs::is_symlink(fs::symlink_status(path, code));
      throw Error(path.string(), link ? "expected a file, found a link to nothing (an incomplete download?)"
                                      : "expected a file, found none");
    }
  }
  fs::path directory_;
};

class Memory : public ModelFiles {
 public:
  Memory(std::string label, std::map<std::string, std::span<const std::byte>> files)
      : label_(std::move(label)), files_(std::move(files)) {}

  std::string where(const std::string& name) const override { return label_ + "/" + name; }
  bool has(const std::string& name) const override { return files_.count(name) > 0; }
  std::string read(const std::string& name, uint64_t max_bytes) const override {
    const auto bytes = find(name);
    if (bytes.size() > max_bytes)
      throw Error(where(name),
                  "expected at most " + std::to_string(max_bytes) + " bytes, found " + std::to_string(bytes.size()));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  std::shared_ptr<const safetensors::File> open(const std::string& name) const override {
    return safetensors::File::from_memory(where(name), find(name));
  }

 private:
  std::span<const std::byte> find(const std::string& name) const {
    auto found = files_.find(name);
    if (found == files_.end()) throw Error(where(name), "expected a file, found none");
    return found->second;
  }
  std::string label_;
  std::map<std::string, std::span<const std::byte>> files_;
};

// Files beside the weights that a checkpoint is used with.
std::vector<std::string> companions(const ModelFiles& files) {
  std::vector<std::string> names;
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                           "chat_template.jinja", "chat_template.json"})
    if (files.has(name)) names.emplace_back(name);
  // The code that config.json's auto_map may name.
  if (const auto directory = files.directory())
    for (const auto& entry : fs::directory_iterator(*directory))
      if (entry.path().extension() == ".py" && entry.is_regular_file())
        names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::shared_ptr<const ModelFiles> open_directory(const fs::path& directory) {
  std::error_code code;
  if (!fs::is_directory(directory, code))
    throw Error(directory.string(), fs::exists(directory, code) ? "expected a directory, found something else"
                                                                : "expected a directory, found none");
  return std::make_shared<Directory>(directory);
}

std::shared_ptr<const ModelFiles> open_memory(std::string label,
                                              std::map<std::string, std::span<const std::byte>> files) {
  return std::make_shared<Memory>(std::move(label), std::move(files));
}

void copy_companions(const ModelFiles& files, const fs::path& to) {
  for (const std::string& name : companions(files)) write_file_atomically(to / name, files.read(name));
  std::error_code code;
  if (const auto from = files.directory(); from && fs::is_directory(*from / "additional_chat_templates", code))
    fs::copy(*from / "additional_chat_templates", to / "additional_chat_templates", fs::copy_options::recursive, code);
}

// Defined in hub_cache.cpp: where `org/name[@revision]` lies in the cache.
ResolvedModel resolve_in_cache(const std::string& model);

ResolvedModel resolve_model(const std::string& model, std::shared_ptr<const ModelFiles> builtin) {
  if (model == "builtin") {
    if (!builtin) throw Error("builtin", "expected the built-in model, found a binary that holds none");
    return {model, "builtin", "", std::move(builtin)};
  }
  std::error_code code;
  if (fs::is_directory(model, code)) return {model, model, "", open_directory(model)};
  if (fs::exists(model, code)) throw Error(model, "expected a directory of model files, found something else");
  return resolve_in_cache(model);
}

}  // namespace signalbox::loaders
