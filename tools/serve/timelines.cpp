#include "tools/serve/timelines.h"

#include <algorithm>

#include "tools/serve/request_ids.h"

namespace signalbox::tools {

namespace {

constexpr size_t most_row_bytes = size_t{1} << 30;  // of all timelines together

void collect_timelines(const json::Value& value, std::vector<std::string>& out) {
  if (const std::string id = timeline_name(value); !id.empty()) out.push_back(id);
  if (value.type() == json::Type::array)
    for (const json::Value& one : value.items())
      if (!one.is_number()) collect_timelines(one, out);
  if (value.type() == json::Type::object)
    for (const auto& [name, one] : value.members()) collect_timelines(one, out);
}

}  // namespace

std::string timeline_name(const json::Value& value) {
  static constexpr std::string_view prefix = "timeline:";
  if (!value.is_string() || !value.string().starts_with(prefix)) return "";
  return value.string().substr(prefix.size());
}

std::vector<std::string> timelines_in(const json::Value& edits) {
  std::vector<std::string> out;
  collect_timelines(edits, out);
  return out;
}

std::string Timelines::add(Timeline timeline) {
  // An edit in memory, as JSON and as it runs, takes some twenty times its text (8.6 MB for 410 kB of bans).
  // (a timeline without edits holds its prompt, which others of its request may hold too).
  const size_t bytes = 4096 + 24 * json::dump(timeline.edits).size() + 32 * timeline.tokens.size() +
                       (timeline.job.prompt ? 4 * timeline.job.prompt->tokens.size() : 0);
  std::string id = random_id("tl_");
  std::lock_guard lock(mutex_);
  entries_[id] = {std::move(timeline), ++clock_, bytes};
  bytes_ += bytes;
  drop();
  return id;
}

void Timelines::put_rows(const std::string& id, std::shared_ptr<const RecordedRows> rows, std::string points) {
  std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(id); found != entries_.end()) {
    found->second.timeline.rows = std::move(rows);
    found->second.timeline.points = std::move(points);
    found->second.used = ++clock_;
  }
  drop();
}

std::optional<Timeline> Timelines::find(const std::string& id, int key) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.timeline.key != key) return std::nullopt;
  found->second.used = ++clock_;
  return found->second.timeline;
}

std::map<std::string, std::shared_ptr<const Timeline>> Timelines::sources(const json::Value& edits, int key) {
  std::map<std::string, std::shared_ptr<const Timeline>> out;
  for (const std::string& id : timelines_in(edits)) {
    std::optional<Timeline> found = find(id, key);
    if (!found) continue;
    found->rows = nullptr;
    out[id] = std::make_shared<const Timeline>(std::move(*found));
  }
  return out;
}

bool Timelines::remove(const std::string& id, int key) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.timeline.key != key) return false;
  erase(found);
  return true;
}

size_t Timelines::size() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

// The least recently used ones lose their rows, then go.
void Timelines::drop() {
  const auto oldest = [&](auto counts) {
    auto found = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
      if (counts(entry->second) && (found == entries_.end() || entry->second.used < found->second.used)) found = entry;
    return found;
  };
  const auto has_rows = [](const Entry& entry) { return entry.timeline.rows != nullptr; };
  size_t n_rows = 0, row_bytes = 0;
  for (const auto& [id, entry] : entries_) {
    n_rows += has_rows(entry);
    if (has_rows(entry)) row_bytes += entry.timeline.rows->bytes();
  }
  while (n_rows > most_ || (n_rows > 1 && row_bytes > most_row_bytes)) {
    auto& rows = oldest(has_rows)->second.timeline.rows;
    row_bytes -= std::min(row_bytes, rows->bytes());
    rows = nullptr;
    --n_rows;
  }
  while (entries_.size() > 1 && (entries_.size() > 16 * most_ || bytes_ > most_bytes_)) {
    const auto unasked = oldest([](const Entry& entry) { return !entry.timeline.asked; });
    erase(unasked != entries_.end() ? unasked : oldest([](const Entry&) { return true; }));
  }
}

void Timelines::erase(std::map<std::string, Entry>::iterator entry) {
  bytes_ -= entry->second.bytes;
  entries_.erase(entry);
}

}  // namespace signalbox::tools
