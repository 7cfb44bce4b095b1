#include "eval/store/kept_work.h"

#include <algorithm>

#include "base/error.h"
#include "base/files.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

constexpr const char* stages_folder = "stages";

fs::path lines_of(const fs::path& stem) { return stem.string() + ".jsonl"; }
fs::path journal_of(const fs::path& stem) { return stem.string() + ".journal.jsonl"; }

}  // namespace

KeptItems::KeptItems(const Kept& kept, std::vector<std::string> ids, const std::string& what)
    : stem_(kept.stem), ids_(std::move(ids)) {
  if (stem_.empty()) return;
  made_directory(stem_.parent_path());
  log_ = std::make_unique<LineLog>(lines_of(stem_), journal_of(stem_), rules());
  if (log_->n_known() > 0 && kept.on_kept)
    kept.on_kept(std::to_string(log_->n_known()) + " of " + std::to_string(log_->n_lines()) + " " + what);
}

LineRules KeptItems::rules() const {
  LineRules rules;
  rules.n_lines = static_cast<int64_t>(ids_.size());
  rules.name = [this](int64_t line) { return "id \"" + ids_[static_cast<size_t>(line)] + "\""; };
  rules.check_line = [this](int64_t line, const json::Ref& value) {
    const json::Ref id = value.at("id");
    if (const std::string& own = ids_[static_cast<size_t>(line)]; id.string() != own)
      id.fail("expected \"" + own + "\", found \"" + id.string() + "\"");
  };
  return rules;
}

json::Value KeptItems::find(size_t item) const {
  if (!has(item)) return {};
  return json::parse(log_->line(static_cast<int64_t>(item)), lines_of(stem_).string() + ", id \"" + ids_[item] + "\"");
}

void KeptItems::put(size_t item, const json::Value& line) {
  if (!log_) return;
  json::Value whole = json::Value::object();
  whole.set("id", ids_[item]);
  for (const auto& [key, value] : line.members()) whole.append_member(key, value);
  log_->put(static_cast<int64_t>(item), json::dump(whole));
}

void KeptItems::finish() {
  if (log_) log_->finish();
}

void KeptItems::sync() {
  if (log_) log_->sync();
}

// Lines are never changed: those that are left move to a new journal.
void KeptItems::forget(const std::vector<size_t>& items) {
  if (!log_ || items.empty()) return;
  AtomicFile journal(journal_of(stem_));
  for (size_t i = 0; i < ids_.size(); ++i)
    if (const auto line = static_cast<int64_t>(i);
        log_->has(line) && std::find(items.begin(), items.end(), i) == items.end())
      journal.write("[" + std::to_string(i) + "," + log_->line(line) + "]\n");
  journal.commit();
  log_.reset();
  fs::remove(lines_of(stem_));
  log_ = std::make_unique<LineLog>(lines_of(stem_), journal_of(stem_), rules());
}

std::vector<std::string> kept_work_names(std::vector<std::string> files) {
  for (const char* other : {stages_folder, manifest_file, "log.txt", DirectoryLock::file_name, "report.html"})
    files.emplace_back(other);
  return files;
}

KeptWork::KeptWork(const fs::path& dir, Manifest manifest, std::vector<std::string> files)
    : work_(dir, std::move(manifest)), files_(std::move(files)) {}

bool KeptWork::has_files() const {
  return std::all_of(files_.begin(), files_.end(),
                     [&](const std::string& file) { return fs::exists(work_.path() / file); });
}

fs::path KeptWork::stage(const std::string& name) {
  const fs::path stem = made_directory(work_.path() / stages_folder) / name;
  if (!fs::exists(lines_of(stem))) work_.reopen();
  return stem;
}

void KeptWork::finish(const std::function<void(const fs::path& dir)>& write) {
  if (complete()) return;
  work_.reopen();
  write(work_.path());
  work_.finish(RunStatus::complete);
}

void KeptWork::drop_stages() { fs::remove_all(work_.path() / stages_folder); }

}  // namespace signalbox::eval
