// Commands that go on where they were stopped.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace signalbox::test {

// Runs `signalbox WORDS --out DIR` to its end. Then makes a directory as a process leaves it that is killed when half
// of the lines of `stage` ("stages/NAME.jsonl") are known and the next one is torn: no file of the end, the manifest
// says "running". The same command must say that it goes on behind these lines, and end with the same bytes.
// `summary`: the file of the end that says of what the tables are.
void check_goes_on(const std::vector<std::string>& words, const std::string& stage,
                   const std::string& summary = "summary.json");

// The same under SIGKILL and SIGTERM at random moments, of a command whose directory is `dir`, which it makes.
// `words`: the whole command.
void check_kills(const std::vector<std::string>& words, const std::string& dir, uint64_t seed);

}  // namespace signalbox::test
