// A server from its first connection to its last: listens, opens the model, answers, stops.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "tools/serve/engine_loop.h"
#include "tools/serve/service.h"
#include "tools/serve/transport.h"

namespace signalbox::tools {

struct ServerOptions {
  TransportOptions transport;
  ServiceOptions service;
  EngineLimits limits;
  std::string model;             // as it was asked for
  std::string served_name;       // empty: from the model
  std::filesystem::path assets;  // that requests may name; empty: none
  bool json = false, quiet = false;
  bool exit_with_parent = false;
  double grace_seconds = 10;  // for requests that run when the server is told to stop
};

// Listens, then opens the model, then prints where it listens on standard output; returns when it was told to stop
// (SIGTERM, SIGINT) and what ran has ended. Throws Error: an address that is taken, a model that cannot be opened.
void run_server(const ServerOptions& options, const std::function<Session()>& open,
                const std::function<ModelDescription(Session&)>& describe);

}  // namespace signalbox::tools
