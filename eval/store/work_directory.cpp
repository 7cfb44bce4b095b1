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

[[noreturn]] void refuse(const fs::path& dir, const std::vector<std::string>& changes) {
  throw Error((dir / manifest_file).string(),
              "expected the run that was begun there, found another (take another directory, or remove this one): " +
                  joined_differences(changes));
}

// The manifest of this attempt; on disk already when the directory is new, so that files of a run never stand alone.
Manifest begun(const fs::path& dir, Manifest manifest, Own own) {
  if (manifest.layout) manifest.layout->index();
  const std::optional<Manifest> before = Manifest::read(dir, manifest.schema);
  const std::string now = utc_now();
  if (!before) {
    check_fresh(dir, own);
    remove_leftovers(dir, own);
    manifest.start = now;
    manifest.end.clear();
    manifest.attempts = {{now, "", RunStatus::running}};
    manifest.status = RunStatus::running;
    manifest.write(dir);
    return manifest;
  }
  if (const auto changes = differences(*before, manifest); !changes.empty()) refuse(dir, changes);
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

void check_work(const fs::path& dir, const Manifest& manifest) {
  if (!fs::exists(dir)) return;
  const std::optional<Manifest> before = Manifest::read(dir, manifest.schema);
  if (!before) return check_fresh(dir, {});
  if (const auto changes = differences(*before, manifest); !changes.empty()) refuse(dir, changes);
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
