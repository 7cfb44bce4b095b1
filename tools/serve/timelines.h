// What requests left behind under a name: a cache, never state. Each is what decides a text, and what it came to; rows
// that were dropped are made again from that.
#pragma once
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/jobs.h"
#include "engine/watched_jobs.h"
#include "tools/serve/recorded_rows.h"

namespace signalbox::tools {

struct Timeline {
  int key = -1;  // of the API key that made it
  Job job;       // as it ran
  std::shared_ptr<const ChoiceRules> choice;
  uint64_t seed = 0;                         // of sampling and edits
  json::Value edits = json::Value::array();  // as they were asked for
  // Of the timelines whose rows these edits take, by id, without rows.
  std::map<std::string, std::shared_ptr<const Timeline>> sources = {};
  json::Value record;           // as it was asked for; null: its tokens say all
  std::string points;           // globs of its rows; empty: default_points
  bool asked = true;            // somebody wanted its name: others are forgotten first
  std::vector<int32_t> tokens;  // generated
  uint64_t logits_hash = 0;
  std::shared_ptr<const RecordedRows> rows;  // null: none, or dropped
};

// An edit takes rows of a timeline that are not there, or not of these points: whoever catches it has them made
// (record_rows) and tries again.
struct NeedsRows {
  std::string timeline, points;
};

// "timeline:ID" to ID; empty of anything else.
std::string timeline_name(const json::Value& value);
// The ids of all "timeline:ID" in edits.
std::vector<std::string> timelines_in(const json::Value& edits);

// From any thread.
class Timelines {
 public:
  // `most`: with rows, of a GiB in all; of specs alone sixteen times as many are kept, and about `most_bytes` of them.
  explicit Timelines(size_t most = 64, size_t most_bytes = size_t{128} << 20) : most_(most), most_bytes_(most_bytes) {}
  std::string add(Timeline timeline);  // its id: 128 random bits
  void put_rows(const std::string& id, std::shared_ptr<const RecordedRows> rows, std::string points);
  // None for another key's.
  std::optional<Timeline> find(const std::string& id, int key);
  // Those that edits name, without rows, and theirs. One that is not there is left out.
  std::map<std::string, std::shared_ptr<const Timeline>> sources(const json::Value& edits, int key);
  bool remove(const std::string& id, int key);
  size_t size() const;

 private:
  struct Entry {
    Timeline timeline;
    uint64_t used = 0;
    size_t bytes = 0;  // of memory without rows, about
  };
  void drop();
  void erase(std::map<std::string, Entry>::iterator entry);
  mutable std::mutex mutex_;
  const size_t most_, most_bytes_;
  std::map<std::string, Entry> entries_;
  uint64_t clock_ = 0;
  size_t bytes_ = 0;
};

}  // namespace signalbox::tools
