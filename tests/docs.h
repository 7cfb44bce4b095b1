// Documents whose examples are tests: blocks of a page, and commands run as pasted.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support.h"

namespace signalbox::test {

// A page by its path from the root of the repository.
std::string page_of(const std::string& file);

// The text of the fenced blocks that begin with ```TAG, in order. Fails the running test case where one has no end.
std::vector<std::string> fenced_blocks(const std::string& page, const std::string& tag);

// Lines indented by four spaces, paragraph by paragraph.
std::vector<std::string> indented_blocks(const std::string& page);

// Runs shell text from the root of the repository until a command fails. "signalbox" is the binary under test; "out/"
// and "/tmp/" are folders in `scratch`.
Ran paste(std::string script, const std::filesystem::path& scratch);

}  // namespace signalbox::test
