// Commands that are killed at any moment and run again.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace signalbox::test {

// Starts the binary, its output going nowhere.
pid_t start_binary(const std::vector<std::string>& arguments);

// Seconds that the binary takes for these arguments; it must end with code 0.
double seconds_of(const std::vector<std::string>& arguments);

// Runs the binary again and again and kills it after a random part of `seconds` (SIGKILL, sometimes SIGTERM, after
// which it must end with code 3 or be done), until it ends with code 0. Later attempts live longer, so that a slow
// machine comes to an end. Returns the number of kills.
int run_with_kills(const std::vector<std::string>& arguments, double seconds, uint64_t seed);

}  // namespace signalbox::test
