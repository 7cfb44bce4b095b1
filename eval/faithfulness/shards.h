// Lines of a study's stages, taken from the directories of its shards.
#pragma once
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

class StudyShards {
 public:
  // In any order. Throws Error: one that holds no study or one that is not complete, one of another study (`identity`;
  // every difference in one line), shards that are missing or twice.
  StudyShards(std::span<const std::filesystem::path> dirs, const std::string& schema, const json::Value& identity);

  size_t count() const { return dirs_.size(); }
  size_t shard_of(size_t record) const { return record % dirs_.size(); }

  // Begins a stage's file in every shard; next() gives the line of the stage that comes next for a record, `where` what
  // messages about it begin with; end() says that all were taken. Throw Error where lines are missing or left.
  void begin(const std::string& stage);
  std::string next(size_t record, std::string& where);
  void end();

 private:
  std::vector<std::filesystem::path> dirs_;  // by shard
  std::vector<std::unique_ptr<LineReader>> readers_;
};

}  // namespace signalbox::eval
