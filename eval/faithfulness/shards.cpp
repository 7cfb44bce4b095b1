#include "eval/faithfulness/shards.h"

#include "base/error.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

StudyShards::StudyShards(std::span<const std::filesystem::path> dirs, const std::string& schema,
                         const json::Value& identity)
    : dirs_(dirs.size()) {
  for (const std::filesystem::path& dir : dirs) {
    const std::optional<Manifest> manifest = Manifest::read(dir, schema);
    const std::string where = (dir / manifest_file).string();
    if (!manifest) throw Error(dir.string(), std::string("expected a shard of a study, found no ") + manifest_file);
    if (const auto changes = differences(identity, manifest->identity); !changes.empty())
      throw Error(where, "expected a shard of this study, found one of another: " + joined_differences(changes));
    if (manifest->shard.count != static_cast<int64_t>(dirs.size()))
      throw Error(where, "expected a shard of " + std::to_string(dirs.size()) + ", found " + manifest->shard.text());
    if (manifest->status != RunStatus::complete)
      throw Error(where, std::string("expected a shard that is complete, found it ") +
                             run_status_name(manifest->status) + " (run its command again)");
    std::filesystem::path& place = dirs_.at(static_cast<size_t>(manifest->shard.index));
    if (!place.empty())
      throw Error(where,
                  "expected each shard once, found " + manifest->shard.text() + " in " + place.string() + " too");
    place = dir;
  }
}

void StudyShards::begin(const std::string& stage) {
  readers_.clear();
  for (const std::filesystem::path& dir : dirs_) {
    const std::filesystem::path file = dir / "stages" / (stage + ".jsonl");
    // A shard in which nothing is asked has no file.
    readers_.push_back(std::filesystem::exists(file) ? std::make_unique<LineReader>(file) : nullptr);
  }
}

std::string StudyShards::next(size_t record, std::string& where) {
  const size_t shard = shard_of(record);
  if (!readers_[shard]) throw Error((dirs_[shard] / "stages").string(), "expected a file of this stage, found none");
  std::string_view text;
  if (!readers_[shard]->next(text)) throw Error(readers_[shard]->where(), "expected another line, found the end");
  where = readers_[shard]->where();
  return std::string(text);
}

void StudyShards::end() {
  std::string_view text;
  for (const auto& reader : readers_)
    if (reader && reader->next(text)) throw Error(reader->where(), "expected the end, found another line");
}

}  // namespace signalbox::eval
