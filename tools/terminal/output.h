// Data on standard output: whole, and in the order of the input.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "base/namespaces.h"

namespace signalbox {
namespace json {
class Value;
}
namespace eval {
struct Record;
}
}  // namespace signalbox

namespace signalbox::tools {

bool stdout_is_terminal();
void write_stdout(const std::string& text);  // whole; Error when it cannot

// Keys of the record that travel to the output line: all but its text and what `line` has itself.
void carry_keys(const eval::Record& record, json::Value& line);

// Emits strings in the order of their index, whatever finishes first.
class OrderedOutput {
 public:
  void put(int64_t index, std::string text);

 private:
  std::map<int64_t, std::string> waiting_;
  int64_t next_ = 0;
};

}  // namespace signalbox::tools
