// samples.jsonl of a run: its lines by the places of a layout.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "base/namespaces.h"
#include "eval/store/layout.h"
#include "eval/store/line_log.h"

namespace signalbox::eval {

inline constexpr const char* samples_file = "samples.jsonl";
inline constexpr const char* journal_file = "journal.jsonl";

// A LineLog whose lines have the keys of their places (Layout::check_line).
class SampleLog : public LineLog {
 public:
  // Takes up what the directory holds, as LineLog does.
  SampleLog(const std::filesystem::path& dir, Layout layout);

  const Layout& layout() const { return *layout_; }
  using LineLog::has;
  using LineLog::put;
  bool has(const Place& place) const { return has(layout_->line(place)); }
  void put(const Place& place, std::string_view text) { put(layout_->line(place), text); }

 private:
  SampleLog(const std::filesystem::path& dir, std::shared_ptr<const Layout> layout);
  std::shared_ptr<const Layout> layout_;  // the rules refer to it
};

}  // namespace signalbox::eval
