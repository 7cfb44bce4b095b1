// Reading a command line: checks of values, and what is said when one cannot be meant.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace CLI {
class App;
class Validator;
}  // namespace CLI

namespace signalbox::tools {

// Parses; prints help. Returns -1 to go on, else the exit code. Throws UsageError, of several faults the first of: a
// flag that there is not (with the nearest), a word too many, a value that cannot be, what is missing. `for_words` says
// what to do with a word too many, where a command is often given one ("a prompt goes behind --prompt or --chat").
int parse_arguments(CLI::App& app, int argc, char** argv, const std::string& for_words = "");

// Refuses what is no date.
const CLI::Validator& date_validator();

// A whole number in decimal digits, or any number, from low to high: what is expected and what was found.
CLI::Validator in_range(int low, int high);
CLI::Validator in_range(int64_t low, int64_t high);
CLI::Validator in_range(double low, double high);
CLI::Validator at_least(uint64_t low);

// One of these words.
CLI::Validator one_of(std::vector<std::string> words);

}  // namespace signalbox::tools
