#include "tools/serve/service.h"

#include <charconv>
#include <cstdio>

#include "base/text.h"
#include "base/utf8.h"
#include "tools/serve/api_error.h"
#include "tools/serve/branches.h"
#include "tools/serve/generation_plan.h"
#include "tools/serve/generation_run.h"
#include "tools/serve/page.h"
#include "tools/serve/request_fields.h"

namespace signalbox::tools {

namespace {

// Timelines that one request's edits may have run again: as many as keep their rows.
constexpr int max_rebuilt = 64;

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

// Accept-Encoding names gzip, and not with a weight of 0.
bool takes_gzip(const RequestHead& head) {
  const std::string* accepted = head.find("accept-encoding");
  for (std::string_view rest = accepted ? *accepted : std::string_view(); !rest.empty();) {
    const size_t end = rest.find(',');
    const std::string_view one = rest.substr(0, end);
    const size_t weight = one.find(';');
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    if (ascii_lower(trimmed(one.substr(0, weight))) != "gzip") continue;
    if (weight == std::string_view::npos) return true;
    std::string_view quality = trimmed(one.substr(weight + 1));
    if (!quality.starts_with("q=") && !quality.starts_with("Q=")) return true;
    quality.remove_prefix(2);
    return quality.find_first_not_of("0.") != std::string_view::npos;
  }
  return false;
}

// "from=0&to=5&layers=2-4&points=router.ids", of rows that there are.
TraceQuery read_trace_query(const ServedModel& model, const Timeline& timeline, std::string_view query) {
  const int64_t n_rows = timeline.job.n_given() + static_cast<int64_t>(timeline.tokens.size());
  TraceQuery out;
  out.to = n_rows;
  std::string layers;
  const auto row_of = [](const std::string& name, const std::string& value) {
    int64_t number = -1;
    const auto [stop, failed] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (failed != std::errc() || stop != value.data() + value.size() || number < 0)
      throw ApiError(400, name + ": expected a row, found " + in_quotes(value), name);
    return number;
  };
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view one = query.substr(0, end);
    const std::string name(one.substr(0, one.find('=')));
    const std::string value = percent_decoded(one.size() > name.size() ? one.substr(name.size() + 1) : "");
    if (name == "from")
      out.from = row_of(name, value);
    else if (name == "to")
      out.to = row_of(name, value);
    else if (name == "layers")
      layers = value;
    else if (name == "points")
      out.points = value;
    else
      throw ApiError(400, "query: expected from, to, layers and points, found " + in_quotes(name), name,
                     "unknown_parameter");
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
  }
  if (out.from > out.to || out.to > n_rows)
    throw ApiError(400,
                   "query: expected rows 0 <= from <= to <= " + std::to_string(n_rows) +
                       ", found from=" + std::to_string(out.from) + " and to=" + std::to_string(out.to),
                   out.to > n_rows ? "to" : "from");
  if (layers.empty()) return out;
  const std::string globs = out.points + (out.points.empty() ? "" : ",") +
                            (timeline.points.empty() ? std::string(default_points) : timeline.points);
  const json::Value text(layers);
  try {
    out.layers = read_layers(json::Ref(text, "body", "layers"), model, plan_points(model, globs, "points"));
  } catch (const Error& error) {
    refuse_field(error);
  }
  return out;
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
  for (const char* name : {"connections", "timelines", "batch_rows"}) metrics_.set(name, 0);
  metrics_.add("banned_expert_violations_total", 0);
  for (const char* name :
       {"prompt_tokens_total", "generation_tokens_total", "cached_tokens_total", "steps_total", "rows_total"})
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
  const auto shared = std::make_shared<const HttpRequest>(std::move(request));
  // The same for bodies of all sizes: order is kept, and the thread of the sockets stays free.
  if (endpoint->needs_model)
    post([this, endpoint, exchange, shared] { answer(*endpoint, shared, exchange, 0); });
  else
    answer(*endpoint, shared, exchange, 0);
}

void Service::answer(const Endpoint& endpoint, const std::shared_ptr<const HttpRequest>& request,
                     const std::shared_ptr<Exchange>& exchange, int n_rebuilt) {
  try {
    if (n_rebuilt == 0) log_body(*request);
    try {
      if (endpoint.answer)
        exchange->answer((this->*endpoint.answer)(*request));
      else
        (this->*endpoint.start)(*request, exchange);
    } catch (const NeedsRows& needs) {
      // Its edits take rows that are not there: they are made first.
      const std::optional<Timeline> timeline = model_.load()->timelines.find(needs.timeline, request->key);
      if (!timeline || n_rebuilt == max_rebuilt)
        throw ApiError(503, "edits: expected rows of timelines that stay, found that others took their place");
      record_rows(*model_, needs.timeline, *timeline, needs.points, exchange,
                  [this, &endpoint, request, exchange, n_rebuilt](const Timeline&) {
                    post([this, &endpoint, request, exchange, n_rebuilt] {
                      answer(endpoint, request, exchange, n_rebuilt + 1);
                    });
                  });
    }
  } catch (const ApiError& error) {
    exchange->answer(error_answer(error));
  } catch (const Error& error) {
    exchange->answer(error_answer(ApiError(400, error.what())));
  } catch (const std::exception& error) {
    exchange->answer(error_answer(ApiError(500, std::string("server: ") + error.what())));
  }
}

// A line of JSON whatever was sent.
void Service::log_body(const HttpRequest& request) const {
  if (!options_.log_prompts || request.body.empty()) return;
  std::string text;
  try {
    text = json::dump(json::parse(request.body, "body"));
  } catch (const Error&) {
    std::string rest = request.body, valid;
    append_lossy(valid, rest, true);
    text = json::dump(json::Value(valid));
  }
  std::fprintf(stderr, "%s %s %s\n", request.head.method.c_str(), request.head.path.c_str(), text.c_str());
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

void Service::connected(int64_t n) { metrics_.set("connections", n); }

// It holds nothing of the model and takes the key, where there is one, from its own address: browsers send none for it.
HttpAnswer Service::page_file(const HttpRequest& request) {
  const bool gzip = takes_gzip(request.head);
  HttpAnswer answer;
  for (const auto& [name, value] : page().headers)
    if (name == "Content-Type")
      answer.content_type = value;
    else
      answer.fields.emplace_back(name, value);
  answer.fields.emplace_back("Vary", "Accept-Encoding");
  if (gzip) answer.fields.emplace_back("Content-Encoding", "gzip");
  answer.body = gzip ? page().gzip : page().html;
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
  count_edits(model, plan.edits.get());
  const json::Value edits = plan.fields.signalbox.edits.value_or(json::Value::array());
  const auto sources = model.timelines.sources(edits, request.key);
  const auto run = std::make_shared<GenerationRun>(model, std::move(plan), std::move(exchange));
  run->on_finished = [&model, edits, sources, key = request.key](GenerationRun& of) {
    for (Choice& choice : of.choices()) {
      Timeline timeline;
      timeline.key = key;
      timeline.job = of.job_of(choice);
      timeline.choice = of.choice();
      timeline.seed = of.plan().seed;
      timeline.edits = edits;
      timeline.sources = sources;
      timeline.tokens = choice.ids;
      timeline.logits_hash = choice.logits_hash;
      timeline.rows = choice.rows;
      timeline.points = of.plan().fields.signalbox.points;
      timeline.asked = of.plan().fields.signalbox.given;
      choice.timeline = model.timelines.add(std::move(timeline));
    }
    model.metrics.set("timelines", static_cast<int64_t>(model.timelines.size()));
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
  run_branches(*model_, parse_body(request.body), request.key, std::move(exchange));
}

void Service::score(const HttpRequest& request, std::shared_ptr<Exchange> exchange) {
  run_score(*model_, parse_body(request.body), request.key, std::move(exchange));
}

void Service::timeline(const HttpRequest& request, std::shared_ptr<Exchange> exchange) {
  ServedModel& model = *model_;
  const std::string rest = request.head.path.substr(std::string_view("/signalbox/v1/timelines/").size());
  const size_t slash = rest.find('/');
  const std::string id = rest.substr(0, slash), what = slash == std::string::npos ? "" : rest.substr(slash + 1);
  const ApiError unknown(404, "timeline: expected one that this key has made, found none of this name", "",
                         "not_found");
  if (request.head.method == "DELETE") {
    if (!what.empty() || !model.timelines.remove(id, request.key)) throw unknown;
    metrics_.set("timelines", static_cast<int64_t>(model.timelines.size()));
    return exchange->answer(json_answer(json::Value::object().set("id", id).set("deleted", true)));
  }
  const std::optional<Timeline> found = model.timelines.find(id, request.key);
  if (!found) throw unknown;
  if (what == "export") return exchange->answer(json_answer(export_timeline(model, *found)));
  if (what != "trace") throw ApiError(404, "path: expected timelines/ID/export or timelines/ID/trace", "", "not_found");
  answer_trace(model, id, *found, read_trace_query(model, *found, request.head.query), std::move(exchange));
}

}  // namespace signalbox::tools
