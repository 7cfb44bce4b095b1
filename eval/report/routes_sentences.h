// What an analysis of routes found, in plain sentences made of its numbers.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// Plain text, a sentence or two each, from the tables that the directory has. They claim only what a test of the table
// says, and say so where it does not reject.
std::vector<std::string> routes_sentences(const std::filesystem::path& analysis);

// As an HTML list; nothing where there are none.
std::string sentences_list(const std::vector<std::string>& sentences);

}  // namespace signalbox::eval
