#include "tools/serve/service.h"

#include <charconv>
#include <cstdio>

#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/branches.h"
#include "tools/serve/generation_plan.h"
#include "tools/serve/generation_run.h"
#include "tools/serve/page.h"
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
  Answerer answer;
  Starter start = nullptr;  // instead of `answer`
};

const Service::Endpoint Service::endpoints[] = {
    {"GET", "/", "page", false, false, &Service::page_file},
    {"GET", "/health", "health", false, false, &Service::health},
    {"GET", "/version", "version", true, false, &Service::version},
    {"GET", "/metrics", "metrics", true, false, &Service::metrics_text},
    {"GET", "/v1/models", "models", true, true, &Service::models},
    {"GET", "/v1/models/", "models", true, true, &Service::model_by_name},
    {"POST", "/v1/completions", "completions", true, true, nullptr, &Service::completions},
    {"POST", "/v1/chat/completions", "chat", true, true, nullptr, &Service::chat},
    {"POST", "/tokenize", "tokenize", true, true, &Service::tokenize},
    {"POST", "/detokenize", "detokenize", true, true, &Service::detokenize},
    {"GET", "/tokenizer_info", "tokenizer_info", true, true, &Service::tokenizer_info},
    {"GET", "/signalbox/v1/model", "model", true, true, &Service::model_facts},
    {"POST", "/signalbox/v1/check", "check", true, true, &Service::check_edits},
    {"POST", "/signalbox/v1/score", "score", true, true, nullptr, &Service::score},
    {"POST", "/signalbox/v1/branches", "branches", true, true, nullptr, &Service::branches},
    {"GET", "/signalbox/v1/timelines/", "timelines", true, true, nullptr, &Service::timeline},
    {"DELETE", "/signalbox/v1/timelines/", "timelines", true, true, nullptr, &Service::timeline},
};

const Service::Endpoint* Service::find_endpoint(const std::string& path, const std::string& method) {
  for (const Endpoint& endpoint : endpoints) {
    const std::string_view known = endpoint.path;
    const bool same = path == known || (known.size() > 1 && known.ends_with('/') && path.size() > known.size() &&
                                        path.starts_with(known));
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
        (this->*endpoint->start)(request, exchange);
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

// It holds nothing of the model and takes the key, where there is one, from its own address: browsers send none for it.
HttpAnswer Service::page_file(const HttpRequest&) {
  HttpAnswer answer;
  for (const auto& [name, value] : page().headers)
    if (name == "Content-Type")
      answer.content_type = value;
    else
      answer.fields.emplace_back(name, value);
  answer.body = page().html;
  return answer;
}

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
  if (run->plan().fields.signalbox.given)
    run->on_finished = [this, key = request.key](GenerationRun& of) {
      for (Choice& choice : of.choices()) {
        Timeline timeline;
        timeline.key = key;
        timeline.job = of.job_of(choice);
        timeline.bias = of.bias();
        timeline.edits = of.plan().fields.signalbox.edits.value_or(json::Value::array());
        timeline.tokens = choice.ids;
        timeline.logits_hash = choice.logits_hash;
        timeline.rows = choice.rows;
        choice.timeline = timelines_.add(std::move(timeline));
      }
      metrics_.set("timelines", static_cast<int64_t>(timelines_.size()));
    };
  run->submit();
}

void Service::completions(const HttpRequest& request, std::shared_ptr<Exchange> exchange) {
  generate(request, std::move(exchange), false);
}

void Service::chat(const HttpRequest& request, std::shared_ptr<Exchange> exchange) {
  generate(request, std::move(exchange), true);
}

void Service::branches(const HttpRequest& request, std::shared_ptr<Exchange> exchange) {
  run_branches(*model_, timelines_, parse_body(request.body), request.key, std::move(exchange));
}

void Service::score(const HttpRequest& request, std::shared_ptr<Exchange> exchange) {
  run_score(*model_, parse_body(request.body), std::move(exchange));
}

void Service::timeline(const HttpRequest& request, std::shared_ptr<Exchange> exchange) {
  const std::string rest = request.head.path.substr(std::string_view("/signalbox/v1/timelines/").size());
  const size_t slash = rest.find('/');
  const std::string id = rest.substr(0, slash), what = slash == std::string::npos ? "" : rest.substr(slash + 1);
  const ApiError unknown(404, "timeline: expected one that this key has made, found none of this name", "",
                         "not_found");
  if (request.head.method == "DELETE") {
    if (!what.empty() || !timelines_.remove(id, request.key)) throw unknown;
    metrics_.set("timelines", static_cast<int64_t>(timelines_.size()));
    return exchange->answer(json_answer(json::Value::object().set("id", id).set("deleted", true)));
  }
  const std::optional<Timeline> found = timelines_.find(id, request.key);
  if (!found) throw unknown;
  if (what == "export") return exchange->answer(json_answer(export_timeline(*model_, *found)));
  if (what != "trace") throw ApiError(404, "path: expected timelines/ID/export or timelines/ID/trace", "", "not_found");
  int64_t from = 0, to = -1;
  std::string_view query = request.head.query;
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view one = query.substr(0, end), name = one.substr(0, one.find('='));
    const std::string_view value = one.size() > name.size() ? one.substr(name.size() + 1) : std::string_view();
    int64_t number = -1;
    const auto [stop, failed] = std::from_chars(value.data(), value.data() + value.size(), number);
    if ((name != "from" && name != "to") || failed != std::errc() || stop != value.data() + value.size() || number < 0)
      throw ApiError(400, "query: expected from=ROW and to=ROW", std::string(name));
    (name == "from" ? from : to) = number;
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
  }
  const int64_t n_rows = found->job.n_given() + static_cast<int64_t>(found->tokens.size());
  if (to < 0) to = n_rows;
  if (from > to || to > n_rows)
    throw ApiError(400,
                   "query: expected rows 0 <= from <= to <= " + std::to_string(n_rows) +
                       ", found from=" + std::to_string(from) + " and to=" + std::to_string(to),
                   to > n_rows ? "to" : "from");
  answer_trace(*model_, timelines_, id, *found, from, to, std::move(exchange));
}

}  // namespace signalbox::tools
