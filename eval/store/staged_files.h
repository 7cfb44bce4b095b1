// Several files of a directory that take the places of their predecessors together.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/store/lock.h"

namespace signalbox::eval {

// New files, or directories of files, are written, under their own names, into path(), a directory below; commit()
// flushes that, names it as whole and moves the files to their places. A process that is killed before that name leaves
// the old files; one that is killed after it leaves the new ones, some of which the next StagedFiles of the directory
// moves for it. Holds the directory's lock: a second process is an Error that names the first.
class StagedFiles {
 public:
  // Makes the directory where it does not exist and ends what an earlier process had begun. `names`: all files that
  // this set may have; those that it lacks at the end go away with the old set. Throws Error.
  StagedFiles(std::filesystem::path dir, std::vector<std::string> names);
  // Without commit() nothing has changed.
  ~StagedFiles();
  StagedFiles(const StagedFiles&) = delete;
  StagedFiles& operator=(const StagedFiles&) = delete;

  const std::filesystem::path& path() const { return part_; }
  // Throws Error, also for a file that is not one of the names.
  void commit();

 private:
  void move_whole();
  std::filesystem::path dir_, part_, whole_;
  DirectoryLock lock_;
  std::vector<std::string> names_;
};

// Throws Error, naming the file, where `dir` holds one that is none of `names`, so that nothing is written among the
// files of others. `what` such a directory holds: "a lens". A directory that does not exist is anybody's.
void require_own_directory(const std::filesystem::path& dir, const std::vector<std::string>& names,
                           const std::string& what);

}  // namespace signalbox::eval
