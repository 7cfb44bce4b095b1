#include "tools/serve/service.h"

#include <cstdio>

#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/generation_plan.h"
#include "tools/serve/generation_run.h"
#include "tools/serve/request_fields.h"

namespace signalbox::tools {

namespace {

constexpr int64_t max_body = int64_t{8} << 20, max_body_with_key = int64_t{64} << 20;

HttpAnswer json_answer(const json::Value& value) {
  HttpAnswer answer;
  answer.body = json::dump(value) + "\n";
  return answer;
}

ApiError not_ready(bool stopping) {
  ApiError error(503,
                 stopping ? "server: expected one that takes requests, found that it stops"
                          : "server: expected a model, found that it is still loading",
                 "", stopping ? "shutdown" : "loading");
  error.retry_after = 1;
  return error;
}

}  // namespace

struct Service::Endpoint {
  const char* method;
  const char* path;  // one that ends with / also stands for all names behind it
  const char* label;
  bool needs_key, needs_model;
  Answerer answer;  // null: completions and chat
};

const Service::Endpoint Service::endpoints[] = {
    {"GET", "/health", "health", false, false, &Service::health},
    {"GET", "/version", "version", true, false, &Service::version},
    {"GET", "/metrics", "metrics", true, false, &Service::metrics_text},
    {"GET", "/v1/models", "models", true, true, &Service::models},
    {"GET", "/v1/models/", "models", true, true, &Service::model_by_name},
    {"POST", "/v1/completions", "completions", true, true, nullptr},
    {"POST", "/v1/chat/completions", "chat", true, true, nullptr},
    {"POST", "/tokenize", "tokenize", true, true, &Service::tokenize},
    {"POST", "/detokenize", "detokenize", true, true, &Service::detokenize},
    {"GET", "/tokenizer_info", "tokenizer_info", true, true, &Service::tokenizer_info},
    {"GET", "/signalbox/v1/model", "model", true, true, &Service::model_facts},
    {"POST", "/signalbox/v1/check", "check", true, true, &Service::check_edits},
};

const Service::Endpoint* Service::find_endpoint(const std::string& path, const std::string& method) {
  for (const Endpoint& endpoint : endpoints) {
    const std::string_view known = endpoint.path;
    const bool same = path == known || (known.ends_with('/') && path.size() > known.size() && path.starts_with(known));
    if (same &&
        (method.empty() || method == endpoint.method || (method == "HEAD" && endpoint.method == std::string("GET"))))
      return &endpoint;
  }
  return nullptr;
}

std::string Service::methods_of(const std::string& path) {
  std::string out;
  for (const char* method : {"GET", "HEAD", "POST", "DELETE"})
    if (find_endpoint(path, method)) out += (out.empty() ? "" : ", ") + std::string(method);
  return out;
}

Service::Service(ServiceOptions options, Metrics& metrics) : options_(std::move(options)), metrics_(metrics) {
  metrics_.set("build_info", 1, "version=\"" SIGNALBOX_VERSION "\"");
  metrics_.add("banned_expert_violations_total", 0);
  for (const char* name : {"prompt_tokens_total", "generation_tokens_total", "cached_tokens_total", "steps_total"})
    metrics_.add(name, 0);
}
Service::~Service() = default;

void Service::serve(ServedModel& model) { model_ = &model; }

void Service::work() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ended_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void Service::end() {
  std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void Service::post(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_one();
}

TransportHandler::Verdict Service::judge(const RequestHead& head, bool) {
  Verdict verdict;
  try {
    check_access(head, options_.access);
    const Endpoint* endpoint = find_endpoint(head.path, head.method);
    if (!endpoint) {
      const std::string methods = methods_of(head.path);
      if (methods.empty()) throw ApiError(404, "path: expected one of this server, found another", "", "not_found");
      verdict.refusal = error_answer(ApiError(405, "method: expected " + methods, "", "method_not_allowed"));
      verdict.refusal->fields.emplace_back("Allow", methods);
      return verdict;
    }
    if (endpoint->needs_key) verdict.key = check_key(head, options_.keys);
    if (endpoint->method == std::string("POST")) check_content_type(head);
    if (endpoint->needs_model && (!model_ || stopping_)) throw not_ready(stopping_);
    verdict.max_body = verdict.key >= 0 ? max_body_with_key : max_body;
  } catch (const ApiError& error) {
    verdict.refusal = error_answer(error);
  }
  return verdict;
}

void Service::handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
  const Endpoint* endpoint = find_endpoint(request.head.path, request.head.method);
  // The same for bodies of all sizes: order is kept, and the thread of the sockets stays free.
  const auto answer = [this, endpoint, exchange, request = std::move(request)] {
    try {
      if (endpoint->answer)
        exchange->answer((this->*endpoint->answer)(request));
      else
        generate(request, exchange, endpoint->label == std::string("chat"));
    } catch (const ApiError& error) {
      exchange->answer(error_answer(error));
    } catch (const Error& error) {
      exchange->answer(error_answer(ApiError(400, error.what())));
    } catch (const std::exception& error) {
      exchange->answer(error_answer(ApiError(500, std::string("server: ") + error.what())));
    }
  };
  if (endpoint->needs_model)
    post(answer);
  else
    answer();
}

void Service::handled(const HandledRequest& request) {
  const Endpoint* endpoint = find_endpoint(request.path, "");
  const std::string label = endpoint ? endpoint->label : "other";
  metrics_.add(
      "requests_total", 1,
      "endpoint=\"" + label + "\",status=\"" + (request.gone ? "gone" : std::to_string(request.status)) + "\"");
  if (!options_.log) return;
  std::fprintf(stderr, "%s %s %s %lld+%lld tokens %.1f ms\n", request.method.c_str(),
               endpoint ? request.path.c_str() : "-", request.gone ? "gone" : std::to_string(request.status).c_str(),
               static_cast<long long>(request.n_given), static_cast<long long>(request.n_generated),
               request.seconds * 1000);
}

void Service::turned_away(const char* why) { metrics_.add("rejected_total", 1, "reason=\"" + std::string(why) + "\""); }

HttpAnswer Service::health(const HttpRequest&) {
  if (!model_ || stopping_) return error_answer(not_ready(stopping_));
  return json_answer(json::Value::object().set("status", "ok"));
}

HttpAnswer Service::version(const HttpRequest&) {
  return json_answer(json::Value::object().set("version", SIGNALBOX_VERSION));
}

HttpAnswer Service::metrics_text(const HttpRequest&) {
  HttpAnswer answer;
  answer.content_type = "text/plain; version=0.0.4";
  answer.body = metrics_.text();
  return answer;
}

void Service::generate(const HttpRequest& request, std::shared_ptr<Exchange> exchange, bool chat) {
  ServedModel& model = *model_;
  const json::Value body = parse_body(request.body);
  const FieldLimits limits{model.session.model.n_vocab, options_.refuse_unknown};
  GenerationPlan plan =
      plan_generation(model, chat ? read_chat_fields(body, limits) : read_completion_fields(body, limits), request.key);
  if (plan.edits)
    for (const json::Value& edit : plan.edits->source().items())
      metrics_.add("edits_requests_total", 1, "op=\"" + edit.find("op")->string() + "\"");
  const auto run = std::make_shared<GenerationRun>(model, std::move(plan), std::move(exchange));
  run->submit();
}

}  // namespace signalbox::tools
