#include "tools/terminal/output.h"

#include <unistd.h>

#include <cstdio>

#include "base/error.h"
#include "base/json.h"
#include "eval/data/records.h"

namespace signalbox::tools {

using namespace eval;

bool stdout_is_terminal() { return isatty(STDOUT_FILENO) != 0; }

void write_stdout(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) throw Error("standard output", "cannot write");
}

void OrderedOutput::put(int64_t index, std::string text) {
  waiting_.emplace(index, std::move(text));
  for (auto it = waiting_.begin(); it != waiting_.end() && it->first == next_; it = waiting_.begin()) {
    write_stdout(it->second);
    waiting_.erase(it);
    ++next_;
  }
  if (std::fflush(stdout) != 0) throw Error("standard output", "cannot write");
}

void carry_keys(const Record& record, json::Value& line) {
  for (const auto& [key, value] : record.source.members()) {
    if (key == "prompt" || key == "messages" || key == "tokens" || line.find(key)) continue;
    line.set(key, value);
  }
}

}  // namespace signalbox::tools
