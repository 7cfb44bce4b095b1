// Files that requests may name: those of one directory, as asset:NAME.
#pragma once
#include <filesystem>
#include <functional>
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

// The rows of a timeline as a trace in memory.
struct TimelineTrace {
  int descriptor = -1;  // the caller's to close
  std::string sample;   // its only one
};
// `points`: globs of what is needed; throws Error at `where`, or NeedsRows (timelines.h).
using OpenTimeline =
    std::function<TimelineTrace(const std::string& id, const std::string& points, const json::Ref& where)>;

// Edits as a request gives them, with every asset:NAME and timeline:ID as a path that reads what was opened. Lives
// until a plan is made.
class EditFiles {
 public:
  // Throws Error for a text that would be read as a file and is neither, and what open_timeline throws.
  EditFiles(const json::Ref& edits, const Assets& assets, const OpenTimeline& open_timeline);
  ~EditFiles();
  EditFiles(const EditFiles&) = delete;
  EditFiles& operator=(const EditFiles&) = delete;

  const json::Value& edits() const { return edits_; }
  // A message with the names that the request used.
  std::string told(std::string message) const;

 private:
  json::Value path_of(const json::Ref& value, bool with_tensor);
  // Of a whole trace: rows of one sample, which the edit then names.
  void put_trace(json::Value& edit, json::Value& holder, const char* key, const json::Ref& value);
  const Assets& assets_;
  const OpenTimeline& open_timeline_;
  json::Value edits_ = json::Value::array();
  std::vector<std::pair<std::string, std::string>> names_;  // path, asset:NAME
  std::vector<int> descriptors_;
};

}  // namespace signalbox::tools
