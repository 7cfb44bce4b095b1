// Calls of the command, and its lines.
#pragma once
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "tests/support.h"

namespace signalbox::tools {
int faithfulness_command(int argc, char** argv);
int trace_command(int argc, char** argv);
int generate_command(int argc, char** argv);
}  // namespace signalbox::tools

namespace signalbox::test {

template <class Command>
int call(Command command, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "command");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return command(static_cast<int>(argv.size()), argv.data());
}

inline std::string failure(const std::vector<std::string>& arguments) {
  try {
    call(tools::faithfulness_command, arguments);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline std::vector<json::Value> lines_of(const std::filesystem::path& file) {
  std::vector<json::Value> out;
  std::istringstream in(read_file(file));
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line, file.string()));
  return out;
}

inline std::string text_of(const json::Value& line, const char* key) { return line.find(key)->string(); }

// The first records of a set of the built-in model, with more keys for the first.
inline std::string records(const std::string& set, size_t n) {
  std::istringstream in(read_file(source_dir() / "tools/builtin/heldout" / set));
  std::string out;
  for (std::string line; n > 0 && std::getline(in, line); --n) out += line + "\n";
  return out;
}

// The line of a test of a record.
inline const json::Value& find(const std::vector<json::Value>& lines, const std::string& id, const std::string& test,
                               int64_t step, const std::string& policy = "", double fraction = 0) {
  for (const json::Value& line : lines)
    if (text_of(line, "id") == id && text_of(line, "test") == test &&
        (!line.find("step") || line.find("step")->integer() == step) &&
        (policy.empty() || (text_of(line, "policy") == policy && line.find("fraction")->real() == fraction)))
      return line;
  throw Error("test", "expected a line " + id + " " + test);
}

}  // namespace signalbox::test
