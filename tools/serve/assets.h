// Files that requests may name: those of one directory, as asset:NAME.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::tools {

class Assets {
 public:
  Assets() = default;  // none
  // Throws Error where it is no directory.
  explicit Assets(const std::filesystem::path& directory);
  ~Assets();
  Assets(Assets&& other) noexcept : directory_(std::exchange(other.directory_, -1)) {}
  Assets& operator=(Assets&& other) noexcept {
    std::swap(directory_, other.directory_);
    return *this;
  }

  // A descriptor of a regular file of the directory itself, never of what a link leads to. Throws Error with `where`.
  int open(const std::string& name, const json::Ref& where) const;

 private:
  int directory_ = -1;
};

// Edits as a request gives them, with every asset:NAME as a path that reads what was opened. Lives until a plan is
// made.
class EditFiles {
 public:
  // Throws Error for a text that would be read as a file and is no asset.
  EditFiles(const json::Ref& edits, const Assets& assets);
  ~EditFiles();
  EditFiles(const EditFiles&) = delete;
  EditFiles& operator=(const EditFiles&) = delete;

  const json::Value& edits() const { return edits_; }
  // A message with the names that the request used.
  std::string told(std::string message) const;

 private:
  json::Value path_of(const json::Ref& value, const Assets& assets, bool with_tensor);
  json::Value edits_ = json::Value::array();
  std::vector<std::pair<std::string, std::string>> names_;  // path, asset:NAME
  std::vector<int> descriptors_;
};

}  // namespace signalbox::tools
