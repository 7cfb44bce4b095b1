#include "eval/store/work_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/files.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

constexpr const char* log_file = "log.txt";
// What says that work was begun, and what follows from its inputs in an instant: where nothing else is, nothing is
// done.
constexpr std::string_view says_begun[] = {manifest_file, log_file, DirectoryLock::file_name};
constexpr std::string_view follows_from_inputs[] = {"plan.json", "records.jsonl", "settings.json"};

using Own = std::span<const char* const>;

void for_each_name(const fs::path& dir, const std::function<void(const std::string&)>& visit) {
  std::error_code failed;
  for (fs::directory_iterator entry(dir, failed), end; !failed && entry != end; entry.increment(failed))
    visit(entry->path().filename().string());
  if (failed) throw Error(dir.string(), "cannot read the directory: " + failed.message());
}

// A directory without a manifest may hold only what a run that was killed at its first instant left, and files of
// others where the work names its own.
void check_fresh(const fs::path& dir, Own own) {
  for_each_name(dir, [&](const std::string& name) {
    if (own.empty()) {
      const bool early = name.starts_with(manifest_file) && is_temporary_name(name);
      if (!early && name != DirectoryLock::file_name && name != log_file)
        throw Error(dir.string(), "expected an empty directory or one that holds a run, found \"" + name +
                                      "\" and no " + manifest_file);
    } else if (name == log_file || std::find(own.begin(), own.end(), name) != own.end()) {
      throw Error(dir.string(), "expected a directory without \"" + name + "\", or one where this work was begun (" +
                                    manifest_file + "), found such a file (take another directory, or remove it)");
    }
  });
}

// Of files that were being written when a process was killed.
void remove_leftovers(const fs::path& dir, Own own) {
  if (own.empty()) return remove_temporaries(dir);
  std::vector<std::string> found;
  for_each_name(dir, [&](const std::string& name) {
    const auto is_of = [&](std::string_view file) { return name.starts_with(std::string(file) + ".tmp-"); };
    if (is_temporary_name(name) && (is_of(manifest_file) || std::any_of(own.begin(), own.end(), is_of)))
      found.push_back(name);
  });
  for (const std::string& name : found)
    if (::unlink((dir / name).c_str()) != 0)
      throw Error((dir / name).string(), std::string("cannot remove the file: ") + std::strerror(errno));
}

// Whether the work has anything that took time. `other`: files that are neither that nor say that it was begun.
bool anything_done(const fs::path& dir, Own own, std::vector<fs::path>& other) {
  const auto holds = [](const auto& names, const std::string& name) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  std::error_code failed;
  for (fs::recursive_directory_iterator entry(dir, failed), end; !failed && entry != end; entry.increment(failed)) {
    const std::string name = entry->path().filename().string();
    if (entry.depth() == 0 && !own.empty() && !holds(own, name)) {
      entry.disable_recursion_pending();
      continue;
    }
    std::error_code unknown;
    if (entry->is_directory(unknown) && !entry->is_symlink(unknown)) continue;
    if (holds(says_begun, name) || is_temporary_name(name)) continue;
    if (!holds(follows_from_inputs, name) && !(entry->is_regular_file(unknown) && entry->file_size(unknown) == 0))
      return true;
    other.push_back(entry->path());
  }
  if (failed) throw Error(dir.string(), "cannot read the directory: " + failed.message());
  return false;
}

[[noreturn]] void refuse(const fs::path& dir, const std::vector<std::string>& changes) {
  throw Error((dir / manifest_file).string(),
              "expected the run that was begun there, found another (take another directory, or remove this one): " +
                  joined_differences(changes));
}

// Refuses work that differs from what was begun there, unless that is not complete and nothing of it is done: then
// other work takes its place, such as the same command with a flag put right. True: `other` may go, and the work begins
// anew.
bool takes_place(const fs::path& dir, const Manifest& before, const Manifest& manifest, Own own,
                 std::vector<fs::path>& other) {
  const auto changes = differences(before, manifest);
  if (changes.empty()) return false;
  if (before.status == RunStatus::complete || anything_done(dir, own, other)) refuse(dir, changes);
  return true;
}

// The manifest of this attempt; on disk already when the directory is new, so that files of a run never stand alone.
Manifest begun(const fs::path& dir, Manifest manifest, Own own) {
  if (manifest.layout) manifest.layout->index();
  const std::optional<Manifest> before = Manifest::read(dir, manifest.schema);
  const std::string now = utc_now();
  std::vector<fs::path> other;
  const bool anew = before && takes_place(dir, *before, manifest, own, other);
  if (!before || anew) {
    if (!anew) check_fresh(dir, own);
    for (const fs::path& file : other) fs::remove(file);
    remove_leftovers(dir, own);
    manifest.start = now;
    manifest.end.clear();
    manifest.attempts = {{now, "", RunStatus::running}};
    manifest.status = RunStatus::running;
    manifest.write(dir);
    return manifest;
  }
  remove_leftovers(dir, own);
  if (before->status == RunStatus::complete) return *before;
  if (!manifest.layout) manifest.layout = before->layout;
  manifest.start = before->start;
  manifest.end = before->end;
  manifest.attempts = before->attempts;
  for (RunAttempt& attempt : manifest.attempts)
    if (attempt.status == RunStatus::running) attempt.status = RunStatus::interrupted;  // killed
  manifest.attempts.push_back({now, "", RunStatus::running});
  manifest.status = RunStatus::running;
  return manifest;
}

}  // namespace

WorkDirectory::WorkDirectory(fs::path dir, Manifest manifest, Own own)
    : dir_(made_directory(std::move(dir))), lock_(dir_), manifest_(begun(dir_, std::move(manifest), own)) {
  complete_ = manifest_.status == RunStatus::complete;
  if (complete_) return;
  if (continued()) manifest_.write(dir_);
  log_begin();
}

WorkDirectory::~WorkDirectory() {
  if (complete_ || ended_) return;
  try {
    finish(RunStatus::failed);
  } catch (const std::exception&) {
    // An Error is on its way already, and this one would hide it.
  }
}

void check_work(const fs::path& dir, const Manifest& manifest, Own own) {
  if (!fs::exists(dir)) return;
  const std::optional<Manifest> before = Manifest::read(dir, manifest.schema);
  if (!before) return check_fresh(dir, own);
  std::vector<fs::path> other;
  takes_place(dir, *before, manifest, own, other);
}

void WorkDirectory::log_begin() {
  log(std::string(continued() ? "continued" : "begun") + " by process " + std::to_string(::getpid()));
}

void WorkDirectory::reopen() {
  if (!complete_) return;
  complete_ = false;
  manifest_.status = RunStatus::running;
  manifest_.attempts.push_back({utc_now(), "", RunStatus::running});
  manifest_.write(dir_);
  log_begin();
}

void WorkDirectory::set_layout(const Layout& layout) {
  if (!manifest_.layout) {
    manifest_.layout = layout;
    manifest_.write(dir_);
    return;
  }
  const auto changes = differences(manifest_.layout->to_json(), layout.to_json(), "layout");
  if (!changes.empty()) refuse(dir_, changes);
}

void WorkDirectory::set_info(const std::string& key, json::Value value) { manifest_.info.set(key, std::move(value)); }

void WorkDirectory::log(std::string_view line) {
  const fs::path file = dir_ / log_file;
  std::string text = utc_now() + " ";
  for (char c : line) text += c == '\n' || c == '\r' ? ' ' : c;
  text += '\n';
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) throw Error(file.string(), std::string("cannot open the file: ") + std::strerror(errno));
  try {
    write_all(descriptor, text, file.string());
  } catch (...) {
    ::close(descriptor);
    throw;
  }
  if (::close(descriptor) != 0) throw Error(file.string(), std::string("cannot write: ") + std::strerror(errno));
}

void WorkDirectory::finish(RunStatus status) {
  if (complete_) return;
  manifest_.status = status;
  manifest_.end = utc_now();
  manifest_.attempts.back().status = status;
  manifest_.attempts.back().end = manifest_.end;
  manifest_.write(dir_);
  ended_ = true;
  log(run_status_name(status));
}

}  // namespace signalbox::eval
