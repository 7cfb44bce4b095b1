#include "eval/store/journal.h"

#include <utility>

namespace signalbox::eval {

namespace {

std::shared_ptr<const Layout> indexed(Layout layout) {
  layout.index();
  return std::make_shared<const Layout>(std::move(layout));
}

LineRules rules_of(const Layout& layout) {
  LineRules rules;
  rules.n_lines = layout.n_lines();
  rules.name = [&layout](int64_t line) { return layout.name(layout.place(line)); };
  rules.check_line = [&layout](int64_t line, const json::Ref& value) { layout.check_line(layout.place(line), value); };
  return rules;
}

}  // namespace

SampleLog::SampleLog(const std::filesystem::path& dir, Layout layout) : SampleLog(dir, indexed(std::move(layout))) {}

SampleLog::SampleLog(const std::filesystem::path& dir, std::shared_ptr<const Layout> layout)
    : LineLog(dir / samples_file, dir / journal_file, rules_of(*layout)), layout_(std::move(layout)) {}

}  // namespace signalbox::eval
