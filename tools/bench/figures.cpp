#include "tools/bench/figures.h"

#include "tools/terminal/output.h"

namespace signalbox::tools {

void Figures::print(const std::string& text) const {
  write_stdout(text);
  if (std::fflush(stdout) != 0) throw Error("standard output", "cannot write");
}

void Figures::line(const char* figure, const json::Value& value) const {
  if (!json_) return;
  json::Value line = json::Value::object();
  line.set("figure", figure);
  for (const auto& [key, item] : value.members()) line.set(key, item);
  print(json::dump(line) + "\n");
}

void Figures::left_out(const std::string& what, const std::string& why) {
  json::Value entry = json::Value::object();
  entry.set("what", what).set("why", why);
  line("left_out", entry);
  text("left out: %s (%s)\n", what.c_str(), why.c_str());
  left_out_.push_back(std::move(entry));
}

void Figures::finish() {
  document.set("left_out", left_out_);
  if (json_) print(json::dump(document) + "\n");
}

}  // namespace signalbox::tools
