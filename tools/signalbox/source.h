// Where the records of a command come from that takes a single prompt too.
#pragma once
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace signalbox::tools {

using namespace eval;

struct RecordSource {
  std::string prompt, chat, input;
  CLI::Option *prompt_option = nullptr, *chat_option = nullptr;

  bool is_single() const { return input.empty(); }
  // Of the file, or one with the id "prompt". Throws Error as read_records does.
  std::vector<Record> records() const;
};

// --prompt, --chat and --input, of which one must be given.
void add_source_options(CLI::App& app, RecordSource& source);

}  // namespace signalbox::tools
