// A directory that a long command works in: one process at a time, a manifest that says what the work is, and a log.
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/namespaces.h"
#include "eval/store/lock.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

class WorkDirectory {
 public:
  // Makes or continues the work in `dir`. Of `manifest` the caller gives schema, identity, info, shard and, when it
  // knows it, the layout. Throws Error: another process holds the directory; it has files but no manifest; it holds
  // work of another schema, identity, shard or layout (every difference in one line). But where nothing of that
  // work is done yet, be it that it failed at once or was stopped, other work of the schema takes its place. A
  // directory whose work is complete is left as it is, byte by byte; otherwise the manifest now says "running" and has
  // one attempt more.
  //
  // `own`: the names of the files that the work makes, where it may share its directory with files of others. New work
  // is then refused only where one of these stands already, and nothing else in the directory is touched. Empty: all
  // that is below the directory belongs to the work.
  WorkDirectory(std::filesystem::path dir, Manifest manifest, std::span<const char* const> own = {});
  // Without finish() the attempt ends as "failed" (an Error is on its way).
  ~WorkDirectory();
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;

  const std::filesystem::path& path() const { return dir_; }
  const Manifest& manifest() const { return manifest_; }
  // The manifest says that nothing is left to do.
  bool complete() const { return complete_; }
  // Was there work here before?
  bool continued() const { return manifest_.attempts.size() > (complete_ ? 0u : 1u); }

  // A complete directory lacks something after all, or is to hold something else: one attempt more.
  void reopen();
  // The layout goes to the manifest, or is compared with the one that is there. Throws Error as the constructor does.
  void set_layout(const Layout& layout);
  // A member of Manifest::info; it is on disk after finish().
  void set_info(const std::string& key, json::Value value);

  // Appends a line with the time to log.txt and flushes it; newlines within become spaces. A log that cannot be written
  // is an Error.
  void log(std::string_view line);

  // Ends the attempt: writes the manifest with this status. On a directory that is complete() it does nothing.
  void finish(RunStatus status);

 private:
  void log_begin();
  std::filesystem::path dir_;
  DirectoryLock lock_;
  bool complete_ = false, ended_ = false;
  Manifest manifest_;
};

// What the constructor would refuse of work that is begun or continued there, but for a lock that another process
// holds; nothing is changed. Throws Error.
void check_work(const std::filesystem::path& dir, const Manifest& manifest, std::span<const char* const> own = {});

}  // namespace signalbox::eval
