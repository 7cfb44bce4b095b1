#include "eval/store/directory.h"

#include <utility>

#include "base/error.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

bool is_there(const fs::path& path) {
  std::error_code failed;
  return fs::exists(path, failed);
}

}  // namespace

RunDirectory::RunDirectory(fs::path dir, Manifest manifest) : work_(std::move(dir), std::move(manifest)) {
  if (!work_.complete()) return;
  if (!work_.manifest().layout)
    throw Error((path() / manifest_file).string(), "expected a layout of a complete run, found none");
  samples_.emplace(path(), *work_.manifest().layout);
  if (samples_->whole() && is_there(path() / "metrics.json") && !is_there(path() / journal_file)) return;
  samples_.reset();
  work_.reopen();
}

void RunDirectory::begin(Layout layout) {
  if (samples_) throw Error(path().string(), "expected begin() once, and not on a complete run");
  layout.index();
  work_.set_layout(layout);
  samples_.emplace(path(), std::move(layout));
  if (samples_->cut_bytes() > 0) log("cut off torn lines of " + std::to_string(samples_->cut_bytes()) + " bytes");
  log(std::to_string(samples_->n_known()) + " of " + std::to_string(samples_->n_lines()) + " samples known");
}

SampleLog& RunDirectory::samples() {
  if (!samples_) throw Error(path().string(), "expected begin() before samples()");
  return *samples_;
}

fs::path RunDirectory::trace_dir(std::string_view intervention) const {
  const fs::path name(intervention);
  bool inside = !name.empty() && name.is_relative() && !name.filename().empty();
  for (const fs::path& part : name) inside = inside && part != ".." && part != ".";
  if (!inside)
    throw Error(path().string(),
                "expected a name that can be a directory, found \"" + std::string(intervention) + "\"");
  return path() / "traces" / name;
}

void RunDirectory::finish(RunStatus status) {
  if (complete()) return;
  if (status == RunStatus::complete)
    finish_samples();
  else if (samples_)
    samples_->sync();
  work_.finish(status);
}

}  // namespace signalbox::eval
