#include "eval/store/staged_files.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

constexpr const char* whole_name = "new-files";
constexpr const char* part_name = "new-files.part";
constexpr const char* list_name = "new-files.json";  // in it: {"files": [...], "gone": [...]}

void move(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    throw Error(to.string(), std::string("cannot rename the finished file: ") + std::strerror(errno));
}

void remove_below(const fs::path& path) {
  std::error_code failed;
  fs::remove_all(path, failed);
  if (failed) throw Error(path.string(), "cannot remove: " + failed.message());
}

json::Value list_of(const std::vector<std::string>& names) {
  json::Value list = json::Value::array();
  for (const std::string& name : names) list.push_back(name);
  return list;
}

// A name of the list, which must not lead out of the directory.
fs::path file_name(const json::Ref& name) {
  const fs::path file = name.string();
  if (file.empty() || file != file.filename() || file == "." || file == "..")
    name.fail("expected the name of a file, found \"" + name.string() + "\"");
  return file;
}

}  // namespace

void require_own_directory(const fs::path& dir, const std::vector<std::string>& names, const std::string& what) {
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(dir, failed)) {
    const std::string name = entry.path().filename().string();
    if (std::find(names.begin(), names.end(), name) != names.end() || name == DirectoryLock::file_name ||
        name == whole_name || name == part_name || is_temporary_name(name))
      continue;
    throw Error(dir.string(),
                "expected an empty directory or one that holds " + what + ", found \"" + name + "\" in it");
  }
}

StagedFiles::StagedFiles(fs::path dir, std::vector<std::string> names)
    : dir_(made_directory(std::move(dir))),
      part_(dir_ / part_name),
      whole_(dir_ / whole_name),
      lock_(dir_),
      names_(std::move(names)) {
  move_whole();
  remove_below(part_);
  made_directory(part_);
}

StagedFiles::~StagedFiles() {
  std::error_code failed;
  fs::remove_all(part_, failed);
}

void StagedFiles::commit() {
  std::vector<std::string> files, gone;
  for (const auto& entry : fs::directory_iterator(part_)) {
    const std::string name = entry.path().filename().string();
    if (std::find(names_.begin(), names_.end(), name) == names_.end())
      throw Error(entry.path().string(), "expected a file of the set, found another");
    files.push_back(name);
  }
  std::sort(files.begin(), files.end());
  for (const std::string& name : names_)
    if (!std::binary_search(files.begin(), files.end(), name)) gone.push_back(name);
  const json::Value list = json::Value::object().set("files", list_of(files)).set("gone", list_of(gone));
  write_file_atomically(part_ / list_name, json::dump(list) + "\n");
  move(part_, whole_);
  sync_directory(dir_);
  move_whole();
}

// Each step may have been done already.
void StagedFiles::move_whole() {
  if (!fs::exists(whole_)) return;
  const json::Value list = json::parse_file(whole_ / list_name);
  const json::Ref ref(list, (whole_ / list_name).string());
  for (const json::Ref& name : ref.at("files").items()) {
    const fs::path file = file_name(name);
    if (!fs::exists(whole_ / file)) continue;
    if (fs::is_directory(dir_ / file)) remove_below(dir_ / file);
    move(whole_ / file, dir_ / file);
  }
  for (const json::Ref& name : ref.at("gone").items()) remove_below(dir_ / file_name(name));
  sync_directory(dir_);
  remove_below(part_);
  move(whole_, part_);  // a list without its files would mislead
  remove_below(part_);
}

}  // namespace signalbox::eval
