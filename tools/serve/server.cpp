#include "tools/serve/server.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <thread>

#include "base/json.h"
#include "tools/serve/stop_watch.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

namespace {

std::string directory_name(const std::string& model) {
  const std::filesystem::path path = std::filesystem::path(model).lexically_normal();
  return path.filename().empty() ? path.parent_path().filename().string() : path.filename().string();
}

void print_ready(const ServerOptions& options, const Transport& transport, const Session& session) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? json::Value() : json::Value(text); };
  if (options.json) {
    json::Value line = json::Value::object();
    line.set("url", text_or_null(transport.url()))
        .set("socket", text_or_null(transport.socket()))
        .set("pid", int64_t{getpid()})
        .set("model_hash", session.model_hash);
    write_stdout(json::dump(line) + "\n");
  } else {
    write_stdout("listening on " + (transport.url().empty() ? "unix:" + transport.socket() : transport.url()) + "\n");
  }
  std::fflush(stdout);
}

// Threads of a server, which end before what they use.
struct Threads {
  Threads(Service& service, Transport& transport, Telling& telling)
      : service(service),
        transport(transport),
        telling(telling),
        work([&] { service.work(); }),
        tell([&] { telling.run(transport); }),
        sockets([&] {
          while (true) {
            try {
              return transport.run();
            } catch (const std::exception& error) {
              std::fprintf(stderr, "signalbox: server: %s\n", error.what());
            }
          }
        }) {}
  ~Threads() {
    finish();
    transport.close(2);
    sockets.join();
  }
  // What was told and is still to be written: it needs the model.
  void finish() {
    telling.end();
    if (tell.joinable()) tell.join();
    service.end();
    if (work.joinable()) work.join();
  }
  Service& service;
  Transport& transport;
  Telling& telling;
  std::thread work, tell, sockets;
};

}  // namespace

void run_server(const ServerOptions& options, const std::function<Session()>& open,
                const std::function<ModelDescription(Session&)>& describe) {
  if (options.transport.socket.empty() && options.service.keys.empty() && !is_loopback(options.transport.host))
    throw Error(options.transport.host + " (--host)",
                "expected --api-key-file beside an address that others can reach, found none");
  const Assets assets = options.assets.empty() ? Assets() : Assets(options.assets);
  Metrics metrics;
  Service service(options.service, metrics);
  Transport transport(options.transport, service);
  std::atomic<EngineLoop*> engine{nullptr};
  std::atomic<bool> stop_asked{false}, stop_at_once{false};
  StopWatch watch(options.exit_with_parent, [&](bool at_once) {
    stop_asked = true;
    stop_at_once = stop_at_once || at_once;
    service.stop();
    transport.stop_accepting();
    // A model that is being opened is given up.
    if (!engine) {
      if (!transport.socket().empty()) ::unlink(transport.socket().c_str());
      std::_Exit(0);
    }
    engine.load()->stop(at_once);
  });
  Telling telling;
  Threads threads(service, transport, telling);
  if (!options.quiet)
    std::fprintf(stderr, "taking connections at %s, opening %s\n",
                 transport.url().empty() ? transport.socket().c_str() : transport.url().c_str(), options.model.c_str());

  Session session = open();
  EngineLoop loop(session, options.limits, metrics, telling);
  ModelDescription description = describe(session);
  const std::string directory = directory_name(options.model);
  ServedModel model{session,
                    std::move(description),
                    options.served_name.empty() ? directory : options.served_name,
                    {},
                    "",
                    std::time(nullptr),
                    loop.max_positions(),
                    loop,
                    metrics,
                    [&](std::function<void()> task) { service.post(std::move(task)); },
                    assets,
                    TokenTexts(session.tokenizer.get()),
                    TokenTexts(session.tokenizer.get())};
  model.aliases = {model.name, options.model, directory};
  model.fingerprint = "signalbox-" SIGNALBOX_VERSION "-" + session.model_hash.substr(0, 12) + "-" + session.numerics +
                      "-" + session.backend->isa();
  service.serve(model);
  engine = &loop;
  if (stop_asked) loop.stop(stop_at_once);
  print_ready(options, transport, session);

  // What still runs when the grace is over ends with an error of its own.
  std::atomic<bool> finished{false};
  std::thread grace([&] {
    auto asked = std::chrono::steady_clock::time_point::max();
    while (!finished) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const auto now = std::chrono::steady_clock::now();
      if (stop_asked) asked = std::min(asked, now);
      if (stop_asked && std::chrono::duration<double>(now - asked).count() > options.grace_seconds) loop.stop(true);
    }
  });
  loop.run();
  finished = true;
  grace.join();
  threads.finish();
}

}  // namespace signalbox::tools
