#include "eval/store/merge.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "eval/store/journal.h"
#include "eval/store/lock.h"
#include "eval/store/manifest.h"
#include "probes/trace.h"
#include "probes/trace_merge.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

constexpr int64_t progress_lines = 1000;

struct Source {
  fs::path dir;
  Manifest manifest;
  const Layout& layout() const { return *manifest.layout; }
};

Source read_source(const fs::path& dir, const std::string& schema) {
  std::optional<Manifest> manifest = Manifest::read(dir, schema);
  if (!manifest) throw Error(dir.string(), std::string("expected the directory of a run, found no ") + manifest_file);
  if (manifest->status != RunStatus::complete)
    throw Error((dir / manifest_file).string(), std::string("expected a shard that is complete, found it ") +
                                                    run_status_name(manifest->status) + " (run its command again)");
  if (!manifest->layout)
    throw Error((dir / manifest_file).string(), "expected the layout of a complete run, found none");
  return {dir, std::move(*manifest)};
}

void check_same_run(const Source& first, const Source& other) {
  std::vector<std::string> changes = differences(first.manifest.identity, other.manifest.identity);
  if (first.manifest.shard.count != other.manifest.shard.count)
    changes.push_back("shards: was " + std::to_string(first.manifest.shard.count) + ", now " +
                      std::to_string(other.manifest.shard.count));
  // Records and their samples are the shard's own.
  Layout a = first.layout(), b = other.layout();
  for (Layout* layout : {&a, &b}) {
    layout->records.clear();
    layout->samples.clear();
  }
  if (changes.empty()) changes = differences(a.to_json(), b.to_json(), "layout");
  if (!changes.empty())
    throw Error((other.dir / manifest_file).string(), "expected a shard of the run in " + first.dir.string() +
                                                          ", found one of another run: " + joined_differences(changes));
}

// The shards in their order. Throws Error unless they are one whole run.
std::vector<Source> read_sources(std::span<const fs::path> dirs, const std::string& schema) {
  if (dirs.empty()) throw Error("merge", "expected the directories of shards, found none");
  std::vector<Source> sources;
  for (const fs::path& dir : dirs) {
    sources.push_back(read_source(dir, schema));
    check_same_run(sources.front(), sources.back());
  }
  std::stable_sort(sources.begin(), sources.end(),
                   [](const Source& a, const Source& b) { return a.manifest.shard.index < b.manifest.shard.index; });
  for (size_t i = 1; i < sources.size(); ++i)
    if (sources[i].manifest.shard == sources[i - 1].manifest.shard)
      throw Error(sources[i].dir.string(), "expected each shard once, found " + sources[i].manifest.shard.text() +
                                               " here and in " + sources[i - 1].dir.string());
  const int64_t count = sources.front().manifest.shard.count;
  std::vector<Shard> missing;
  for (int64_t i = 0, next = 0; i < count; ++i) {
    if (next < static_cast<int64_t>(sources.size()) && sources[static_cast<size_t>(next)].manifest.shard.index == i)
      ++next;
    else
      missing.push_back({i, count});
  }
  if (!missing.empty())
    throw Error("merge", "expected all " + std::to_string(count) + " shards, found none for " +
                             joined(missing, ", ", &Shard::text));
  return sources;
}

// The layout of the whole run: record k is record k / N of shard k mod N.
Layout whole_layout(const std::vector<Source>& sources) {
  Layout layout = sources.front().layout();
  layout.records.clear();
  layout.samples.clear();
  size_t total = 0;
  for (const Source& source : sources) total += source.layout().records.size();
  for (const Source& source : sources) {
    const int64_t expected = source.manifest.shard.records_of(static_cast<int64_t>(total));
    const int64_t found = static_cast<int64_t>(source.layout().records.size());
    if (expected != found)
      throw Error((source.dir / manifest_file).string(), "expected " + std::to_string(expected) + " of " +
                                                             std::to_string(total) + " records, found " +
                                                             std::to_string(found));
  }
  std::unordered_set<std::string> seen;
  for (size_t k = 0; k < total; ++k) {
    const Source& source = sources[k % sources.size()];
    const std::string& id = source.layout().records[k / sources.size()];
    if (!seen.insert(id).second)
      throw Error((source.dir / manifest_file).string(),
                  "expected each record in one shard, found \"" + id + "\" in two");
    layout.records.push_back(id);
    layout.samples.push_back(source.layout().samples[k / sources.size()]);
  }
  layout.index();
  return layout;
}

void write_line(AtomicFile& file, std::string_view text) {
  file.write(text);
  file.write("\n");
}

// Within one seed and intervention the lines of a shard follow each other, so each shard is read once, from its start.
void merge_samples(const fs::path& out, const std::vector<Source>& sources, const Layout& layout,
                   const std::function<void(int64_t, int64_t)>& on_progress) {
  std::vector<std::unique_ptr<LineReader>> readers;
  for (const Source& source : sources) readers.push_back(std::make_unique<LineReader>(source.dir / samples_file));
  AtomicFile output(out / samples_file);
  const int64_t total = layout.n_lines();
  std::string_view text;
  for (int64_t i = 0; i < total; ++i) {
    const Place place = layout.place(i);
    const size_t shard = static_cast<size_t>(place.record) % sources.size();
    LineReader& reader = *readers[shard];
    if (!reader.next(text) || !reader.terminated())
      throw Error((sources[shard].dir / samples_file).string(),
                  "expected a line of " + layout.name(place) + ", found the end");
    const json::Value value = json::parse(text, reader.where());
    layout.check_line(place, json::Ref(value, reader.where()));
    write_line(output, text);
    if (on_progress && ((i + 1) % progress_lines == 0 || i + 1 == total)) on_progress(i + 1, total);
  }
  for (size_t i = 0; i < readers.size(); ++i)
    if (readers[i]->next(text)) throw Error(readers[i]->where(), "expected the end, found another line");
  output.commit();
}

// Record by record, as the samples.
void merge_records(const fs::path& out, const std::vector<Source>& sources, const Layout& layout,
                   const std::string& name) {
  std::error_code failed;
  const auto has = [&](const Source& source) { return fs::exists(source.dir / name, failed); };
  if (std::none_of(sources.begin(), sources.end(), has)) return;
  std::vector<std::unique_ptr<LineReader>> readers;
  for (const Source& source : sources) readers.push_back(std::make_unique<LineReader>(source.dir / name));
  AtomicFile output(out / name);
  std::string_view text;
  for (size_t k = 0; k < layout.records.size(); ++k) {
    LineReader& reader = *readers[k % sources.size()];
    if (!reader.next(text) || !reader.terminated())
      throw Error((sources[k % sources.size()].dir / name).string(),
                  "expected a line of record \"" + layout.records[k] + "\", found the end");
    const json::Value value = json::parse(text, reader.where());
    const json::Ref id = json::Ref(value, reader.where()).at("id");
    if (id.string() != layout.records[k])
      id.fail("expected \"" + layout.records[k] + "\", found \"" + id.string() + "\"");
    write_line(output, text);
  }
  for (const auto& reader : readers)
    if (reader->next(text)) throw Error(reader->where(), "expected the end, found another line");
  output.commit();
}

// Paths of regular files below a directory, relative to it and sorted; none where it does not exist.
std::set<fs::path> files_below(const fs::path& dir) {
  std::set<fs::path> files;
  std::error_code failed;
  if (!fs::exists(dir, failed) && !failed) return files;
  fs::recursive_directory_iterator entry(dir, failed), end;
  for (; !failed && entry != end; entry.increment(failed))
    if (entry->is_regular_file(failed)) files.insert(entry->path().lexically_relative(dir));
  if (failed) throw Error(dir.string(), "cannot read the directory: " + failed.message());
  return files;
}

// Names of traces: directories below DIR/traces that hold one.
std::set<fs::path> traces_of(const Source& source) {
  std::set<fs::path> names;
  for (const fs::path& file : files_below(source.dir / "traces"))
    if (file.filename() == "trace.safetensors") names.insert(file.parent_path());
  return names;
}

void check_trace(const fs::path& dir, const Layout& layout) {
  const TraceReader trace(dir);
  std::vector<std::string> expected;
  for (size_t r = 0; r < layout.records.size(); ++r)
    expected.insert(expected.end(), static_cast<size_t>(layout.samples[r]), layout.records[r]);
  if (trace.sample_ids() != expected)
    throw Error(trace.file(), "expected the " + std::to_string(expected.size()) +
                                  " samples of the shard in their order, found other ids or another order");
}

void merge_all_traces(const fs::path& out, const std::vector<Source>& sources, const Layout& layout,
                      const std::function<void(int64_t, int64_t)>& on_progress) {
  // A shard may have no records when there are fewer of them than shards; it then needs no traces.
  std::vector<int32_t> part_of(sources.size(), -1);
  std::vector<const Source*> parts;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i].layout().records.empty()) continue;
    part_of[i] = static_cast<int32_t>(parts.size());
    parts.push_back(&sources[i]);
  }
  if (parts.empty()) return;
  std::set<fs::path> names;
  std::vector<std::set<fs::path>> found;
  for (const Source* part : parts) {
    found.push_back(traces_of(*part));
    names.insert(found.back().begin(), found.back().end());
  }
  std::vector<TracePick> order;
  std::vector<int64_t> next(parts.size(), 0);
  for (size_t k = 0; k < layout.records.size(); ++k) {
    const int32_t part = part_of[k % sources.size()];
    for (int64_t s = 0; s < layout.samples[k]; ++s) order.push_back({part, next[static_cast<size_t>(part)]++});
  }
  for (const fs::path& name : names) {
    std::vector<fs::path> dirs;
    for (size_t i = 0; i < parts.size(); ++i) {
      dirs.push_back(parts[i]->dir / "traces" / name);
      if (!found[i].contains(name))
        throw Error(dirs.back().string(), "expected a trace as in the other shards, found none");
      check_trace(dirs.back(), parts[i]->layout());
    }
    merge_traces(out / "traces" / name, dirs, order);
    if (on_progress) on_progress(layout.n_lines(), layout.n_lines());
  }
}

// A file, or a directory with all files in it, that must be the same in all shards.
void copy_common(const fs::path& out, const std::vector<Source>& sources, const std::string& name) {
  const fs::path first = sources.front().dir / name;
  std::error_code failed;
  // A file counts as a directory that holds it alone.
  const auto files_of = [&](const fs::path& path) {
    return fs::is_regular_file(path, failed) ? std::set<fs::path>{""} : files_below(path);
  };
  const auto join = [](const fs::path& dir, const fs::path& file) { return file.empty() ? dir : dir / file; };
  const std::set<fs::path> files = files_of(first);
  for (const Source& source : sources) {
    const fs::path other = source.dir / name;
    const std::set<fs::path> others = files_of(other);
    std::vector<fs::path> apart;
    std::set_symmetric_difference(files.begin(), files.end(), others.begin(), others.end(), std::back_inserter(apart));
    if (!apart.empty())
      throw Error(join(other, apart.front()).string(),
                  files.contains(apart.front())
                      ? "expected this file, which is in " + sources.front().dir.string() + ", found none"
                      : "expected no such file, as in " + sources.front().dir.string() + ", found one");
    for (const fs::path& file : files)
      if (&source != &sources.front() && !same_bytes(join(first, file), join(other, file)))
        throw Error(join(other, file).string(),
                    "expected the bytes of " + join(first, file).string() + ", found others");
  }
  std::set<fs::path> made;
  for (const fs::path& file : files) {
    const fs::path to = join(out / name, file);
    fs::create_directories(to.parent_path());
    copy_file_durably(join(first, file), to);
    made.insert(to.parent_path());
  }
  for (const fs::path& dir : made) sync_directory(dir);
}

Manifest whole_manifest(const std::vector<Source>& sources, Layout layout) {
  Manifest manifest = sources.front().manifest;
  json::Value merged = json::Value::array();
  for (const Source& source : sources) {
    const Manifest& one = source.manifest;
    manifest.start = std::min(manifest.start, one.start);  // ISO times in UTC: text order is time order
    manifest.end = std::max(manifest.end, one.end);
    const json::Value* argv = one.info.find("argv");
    json::Value entry = json::Value::object();
    entry.set("shard", one.shard.text()).set("start", one.start).set("end", one.end);
    entry.set("attempts", static_cast<int64_t>(one.attempts.size())).set("argv", argv ? *argv : json::Value());
    merged.push_back(std::move(entry));
  }
  manifest.info.set("merged", std::move(merged));
  manifest.shard = {};
  manifest.layout = std::move(layout);
  manifest.status = RunStatus::running;
  manifest.attempts = {{manifest.start, manifest.end, RunStatus::complete}};
  return manifest;
}

void merge_logs(const fs::path& out, const std::vector<Source>& sources) {
  AtomicFile output(out / "log.txt");
  for (const Source& source : sources) {
    std::error_code failed;
    if (!fs::exists(source.dir / "log.txt", failed)) continue;
    LineReader reader(source.dir / "log.txt");
    for (std::string_view line; reader.next(line);)
      write_line(output, "shard " + source.manifest.shard.text() + ": " + std::string(line));
  }
  write_line(output, utc_now() + " merged: " + std::to_string(sources.size()) + " shards");
  output.commit();
}

bool empty_or_absent(const fs::path& path) {
  std::error_code failed;
  if (!fs::exists(path, failed)) return true;
  return fs::is_directory(path, failed) && fs::is_empty(path, failed) && !failed;
}

// OUT.part: emptied when an interrupted merge left it, locked, and removed again unless it became OUT.
class Building {
 public:
  explicit Building(const fs::path& out) : dir_(out) {
    dir_ += ".part";
    std::error_code failed;
    if (!empty_or_absent(dir_) && !fs::exists(dir_ / DirectoryLock::file_name, failed))
      throw Error(dir_.string(), "expected nothing, or what an interrupted merge left, found other files");
    made_directory(dir_);
    lock_ = std::make_unique<DirectoryLock>(dir_);
    std::vector<fs::path> left;
    for (const auto& entry : fs::directory_iterator(dir_))
      if (entry.path().filename() != DirectoryLock::file_name) left.push_back(entry.path());
    for (const fs::path& path : left) fs::remove_all(path);
  }
  ~Building() {
    if (moved_) return;
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
  Building(const Building&) = delete;
  Building& operator=(const Building&) = delete;

  const fs::path& dir() const { return dir_; }
  void move_to(const fs::path& out) {
    sync_directory(dir_);
    if (std::rename(dir_.c_str(), out.c_str()) != 0)
      throw Error(out.string(), std::string("cannot rename ") + dir_.string() + ": " + std::strerror(errno));
    moved_ = true;
    lock_->moved(out);
    lock_.reset();
    sync_directory(out);
    sync_directory(out.parent_path());
  }

 private:
  fs::path dir_;
  std::unique_ptr<DirectoryLock> lock_;
  bool moved_ = false;
};

}  // namespace

void merge_runs(const fs::path& to, std::span<const fs::path> shards, const MergeOptions& options) {
  fs::path out = to.lexically_normal();
  if (!out.has_filename()) out = out.parent_path();  // "OUT/"
  if (!empty_or_absent(out))
    throw Error(to.string(), "expected a directory that does not exist or is empty, found one with files");
  const std::vector<Source> sources = read_sources(shards, options.schema);
  Layout layout = whole_layout(sources);
  try {
    Building building(out);
    if (options.has_samples) merge_samples(building.dir(), sources, layout, options.on_progress);
    merge_all_traces(building.dir(), sources, layout, options.on_progress);
    for (const std::string& name : options.of_records) merge_records(building.dir(), sources, layout, name);
    for (const std::string& name : options.common) copy_common(building.dir(), sources, name);
    merge_logs(building.dir(), sources);
    Manifest manifest = whole_manifest(sources, std::move(layout));
    manifest.write(building.dir());
    if (options.finalize) options.finalize(building.dir());
    manifest.status = RunStatus::complete;
    manifest.write(building.dir());
    building.move_to(out);
  } catch (const fs::filesystem_error& error) {
    throw Error(error.path1().string(), error.code().message());
  }
}

}  // namespace signalbox::eval
