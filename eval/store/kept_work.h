// Long work on items that are finished one by one, in a directory of its own: a line of each finished item stays below
// it, and the same work begun again goes on behind them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/store/line_log.h"
#include "eval/store/work_directory.h"

namespace signalbox::eval {

// Where an analysis keeps what it has finished, and whom it tells what was there. A stem that is empty keeps nothing.
struct Kept {
  std::filesystem::path stem;  // "DIR/stages/NAME": NAME.jsonl and NAME.journal.jsonl
  std::function<void(const std::string& what)> on_kept;
};

// A line for each item of one stage.
class KeptItems {
 public:
  // `ids`: of the items, each once; a line has the id of its item. `what` they are called: "pairs". Tells kept.on_kept
  // of lines that are there. Throws Error as LineLog does, and for a line of another item.
  KeptItems(const Kept& kept, std::vector<std::string> ids, const std::string& what);
  KeptItems(const KeptItems&) = delete;
  KeptItems& operator=(const KeptItems&) = delete;

  bool has(size_t item) const { return log_ && log_->has(static_cast<int64_t>(item)); }
  // The finished line of an item, an object with "id"; null: it is not finished.
  json::Value find(size_t item) const;
  // `line`: an object without "id", to which it is added in front.
  void put(size_t item, const json::Value& line);
  // All items are finished.
  void finish();
  // Flushes to disk; also without this nothing is lost when the process is killed.
  void sync();
  // Finished items whose lines are of no use: they are to be made again.
  void forget(const std::vector<size_t>& items);

 private:
  LineRules rules() const;
  std::filesystem::path stem_;
  std::vector<std::string> ids_;
  std::unique_ptr<LineLog> log_;  // null: nothing is kept
};

// The names of what such a directory may hold: the work's own files, and how it is made.
std::vector<std::string> kept_work_names(std::vector<std::string> files);

class KeptWork {
 public:
  // `files`: what the work makes. Throws Error as WorkDirectory does.
  KeptWork(const std::filesystem::path& dir, Manifest manifest, std::vector<std::string> files);

  const std::filesystem::path& dir() const { return work_.path(); }
  bool has_files() const;
  // The manifest says that nothing is left to do, and all files are there.
  bool complete() const { return work_.complete() && has_files(); }
  // The stem of a stage's lines (Kept). A directory that was complete, but has lost them, is at work again.
  std::filesystem::path stage(const std::string& name);
  void interrupt() { work_.finish(RunStatus::interrupted); }
  // Calls write(dir), which makes the files, unless complete().
  void finish(const std::function<void(const std::filesystem::path& dir)>& write);
  // Of complete work: its lines go, where the files say all that they do.
  void drop_stages();

 private:
  WorkDirectory work_;
  std::vector<std::string> files_;
};

}  // namespace signalbox::eval
