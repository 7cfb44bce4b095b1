// What SIGINT, SIGTERM and SIGUSR1 do to a command.
#pragma once
#include <atomic>

#include "base/namespaces.h"

namespace signalbox::tools {

// Set by any of them. The only global of the process: a signal handler can reach nothing else.
extern std::atomic<bool> interrupted;
// From here on a signal only sets `interrupted`. Before, it ends the process with code 3.
void catch_signals();
void exit_on_signals();
// Ends the command with exit code 3, destructors included.
struct Interrupted {};
void stop_if_interrupted();

}  // namespace signalbox::tools
