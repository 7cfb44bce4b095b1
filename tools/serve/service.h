// The endpoints: which there are, who may call them, and what each does.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/namespaces.h"
#include "tools/serve/access.h"
#include "tools/serve/metrics.h"
#include "tools/serve/served_model.h"
#include "tools/serve/transport.h"

namespace signalbox::tools {

struct ServiceOptions {
  AccessRules access;
  KeyRing keys;
  bool refuse_unknown = true;
  bool log = true;
  bool log_prompts = false;  // bodies too
};

class Service : public TransportHandler {
 public:
  Service(ServiceOptions options, Metrics& metrics);
  ~Service() override;

  // From here on requests are answered; before, all but a few get 503.
  void serve(ServedModel& model);
  // From here on requests get 503 again.
  void stop() { stopping_ = true; }
  // A thread's work, until end(): bodies are read and answers of many tokens written here.
  void work();
  void end();
  void post(std::function<void()> task);

  Verdict judge(const RequestHead& head, bool off_loopback) override;
  void handle(HttpRequest request, std::shared_ptr<Exchange> exchange) override;
  void handled(const HandledRequest& request) override;
  void turned_away(const char* why) override;
  void connected(int64_t n) override;

 private:
  struct Endpoint;
  static const Endpoint endpoints[];
  static const Endpoint* find_endpoint(const std::string& path, const std::string& method);
  static std::string methods_of(const std::string& path);
  using Answerer = HttpAnswer (Service::*)(const HttpRequest&);

  HttpAnswer page_file(const HttpRequest&);
  HttpAnswer health(const HttpRequest&);
  HttpAnswer version(const HttpRequest&);
  HttpAnswer metrics_text(const HttpRequest&);
  HttpAnswer models(const HttpRequest&);
  HttpAnswer model_by_name(const HttpRequest&);
  HttpAnswer tokenize(const HttpRequest&);
  HttpAnswer detokenize(const HttpRequest&);
  HttpAnswer tokenizer_info(const HttpRequest&);
  HttpAnswer model_facts(const HttpRequest&);
  HttpAnswer check_edits(const HttpRequest&);
  // Those that answer later.
  using Starter = void (Service::*)(const HttpRequest&, std::shared_ptr<Exchange>);
  void completions(const HttpRequest& request, std::shared_ptr<Exchange> exchange);
  void chat(const HttpRequest& request, std::shared_ptr<Exchange> exchange);
  void branches(const HttpRequest& request, std::shared_ptr<Exchange> exchange);
  void score(const HttpRequest& request, std::shared_ptr<Exchange> exchange);
  void timeline(const HttpRequest& request, std::shared_ptr<Exchange> exchange);
  void generate(const HttpRequest& request, std::shared_ptr<Exchange> exchange, bool chat);
  // `n_rebuilt`: timelines that were run again for it.
  void answer(const Endpoint& endpoint, const std::shared_ptr<const HttpRequest>& request,
              const std::shared_ptr<Exchange>& exchange, int n_rebuilt);
  void log_body(const HttpRequest& request) const;

  const ServiceOptions options_;
  Metrics& metrics_;
  std::atomic<ServedModel*> model_{nullptr};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool ended_ = false;
};

}  // namespace signalbox::tools
