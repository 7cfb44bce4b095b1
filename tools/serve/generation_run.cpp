#include "tools/serve/generation_run.h"

#include <algorithm>
#include <ctime>

#include "base/utf8.h"
#include "tools/serve/api_error.h"
#include "tools/serve/request_ids.h"
#include "tools/serve/row_logprobs.h"

namespace signalbox::tools {

namespace {

double seconds_from(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

GenerationRun::GenerationRun(ServedModel& model, GenerationPlan plan, std::shared_ptr<Exchange> exchange)
    : model_(model),
      plan_(std::move(plan)),
      stream_(std::move(exchange)),
      id_(random_id(plan_.fields.chat ? "chatcmpl-" : "cmpl-")),
      created_(std::time(nullptr)) {
  const GenerationFields& fields = plan_.fields;
  for (size_t p = 0; p < plan_.prompts.size(); ++p)
    for (int32_t s = 0; s < fields.n; ++s) {
      const RunPrompt& prompt = plan_.prompts[p];
      Choice choice;
      choice.index = choices_.size();
      choice.prompt = p;
      choice.sample = static_cast<uint32_t>(s);
      if (fields.echo) choice.text = prompt.text;
      if (fields.logprobs) {
        const auto n_points = static_cast<int64_t>(count_code_points(choice.text));
        choice.placer = std::make_unique<TokenPlacer>(model_.telling_texts, true, n_points);
        for (size_t t = 0; t < prompt.placed.size(); ++t) {
          ChoiceToken token;
          token.id = prompt.prompt->tokens[t];
          token.placed = prompt.placed[t];
          token.ready = token.first = t == 0;
          choice.tokens.push_back(std::move(token));
        }
      }
      if (fields.chat) choice.parts = std::make_unique<AnswerParts>(plan_.form, prompt.inside_reasoning);
      if (plan_.points) {
        const bool edited = plan_.edits && !plan_.edits->empty();
        choice.rows =
            std::make_shared<RecordedRows>(model_.session.shape, *plan_.points,
                                           edited ? std::max(plan_.edits->max_slots(), model_.session.shape.n_active())
                                                  : model_.session.shape.n_active(),
                                           edited && plan_.edits->has_router_edits());
      }
      choices_.push_back(std::move(choice));
    }
  n_open_ = choices_.size();
  if (!fields.logit_bias.empty()) choice_ = std::make_shared<const ChoiceRules>(ChoiceRules{fields.logit_bias, {}});
}

Job GenerationRun::job_of(const Choice& choice) const {
  const GenerationFields& fields = plan_.fields;
  Job job;
  job.prompt = plan_.prompts[choice.prompt].prompt;
  if (plan_.edits && !plan_.edits->empty()) job.plan = plan_.edits;
  job.sample = choice.sample;
  job.adapters = model_.session.beside;
  const int64_t max_tokens = plan_.max_tokens[choice.prompt];
  if (max_tokens == 0 && fields.logprobs) {
    job.task = Score{};
    return job;
  }
  Sampling sampling;
  sampling.temperature = fields.temperature;
  sampling.top_p = fields.top_p;
  sampling.top_k = fields.top_k;
  sampling.seed = plan_.seed;
  job.task = Generate{max_tokens, sampling, plan_.stop};
  return job;
}

void GenerationRun::submit() {
  const GenerationFields& fields = plan_.fields;
  JobGroupRequest request;
  request.owner = shared_from_this();
  request.watch.held = stream_.held();
  for (const Choice& choice : choices_) {
    JobWishes wishes;
    wishes.shows_logits = fields.logprobs;
    if (wants_given_logits()) wishes.logits_from = 0;
    wishes.choice = choice_;
    request.watch.wishes.push_back(std::move(wishes));
    request.jobs.push_back(job_of(choice));
    if (plan_.points) request.rows.push_back(choice.rows);
  }
  const EngineLoop::Ticket ticket = model_.engine.submit(std::move(request));
  ticket_ = ticket;
  stream_.exchange().on_gone([engine = &model_.engine, ticket] { engine->cancel(ticket, "client_gone"); });
}

void GenerationRun::started(size_t place) {
  Choice& choice = choices_[place];
  if (plan_.fields.stream && plan_.fields.echo && !plan_.fields.logprobs) flush(choice);
}

void GenerationRun::logits(size_t place, int64_t token, std::span<const float> logits) {
  Choice& choice = choices_[place];
  const auto n_given = static_cast<int64_t>(plan_.prompts[choice.prompt].prompt->tokens.size());
  const int64_t entry = token + 1 - (wants_given_logits() ? 0 : n_given);
  if (entry < 0 || entry >= static_cast<int64_t>(choice.tokens.size())) return;  // behind the last one
  ChoiceToken& of = choice.tokens[static_cast<size_t>(entry)];
  RowLogProbs found = row_log_probs(logits, of.id, plan_.fields.top_logprobs);
  of.log_prob = found.chosen;
  of.top = std::move(found.top);
  of.ready = true;
  if (plan_.fields.stream) flush(choice);
}

void GenerationRun::token(size_t place, int32_t id, const std::string& text) {
  Choice& choice = choices_[place];
  const auto now = Clock::now();
  if (first_token_) model_.metrics.observe("time_to_first_token_seconds", seconds_from(began_));
  if (!first_token_) model_.metrics.observe("inter_token_seconds", seconds_from(last_token_));
  first_token_ = false;
  last_token_ = now;
  choice.ids.push_back(id);
  choice.text += text;
  if (choice.parts) choice.parts->push(model_.telling_texts, id, text);
  if (plan_.fields.logprobs) {
    ChoiceToken token;
    token.id = id;
    token.placed = choice.placer->push(id);
    choice.tokens.push_back(std::move(token));
  } else if (plan_.fields.stream) {
    flush(choice);
  }
}

void GenerationRun::done(size_t place, Result result) {
  Choice& choice = choices_[place];
  const std::string front = plan_.fields.echo ? plan_.prompts[choice.prompt].text : "";
  std::string text = front + result.text;
  if (choice.parts) choice.parts->finish(text.size() > choice.text.size() ? text.substr(choice.text.size()) : "");
  choice.text = std::move(text);
  choice.logits_hash = result.logits_hash;
  const bool by_word = !result.tokens.empty() && result.finish_reason == "eos" &&
                       std::count(plan_.stop_words.begin(), plan_.stop_words.end(), result.tokens.back()) > 0;
  choice.stopped_by = result.finish_reason.empty() ? "length" : by_word ? "stop" : result.finish_reason;
  choice.finish_reason = choice.stopped_by == "length" ? "length" : "stop";
  choice.ended = true;
  model_.metrics.add("generation_tokens_total", static_cast<int64_t>(choice.ids.size()));
  --n_open_;
  if (over_) return;
  if (n_open_ == 0) {
    over_ = true;
    int64_t n_given = 0, n_generated = 0;
    for (const RunPrompt& prompt : plan_.prompts) n_given += static_cast<int64_t>(prompt.prompt->tokens.size());
    for (const Choice& one : choices_) n_generated += static_cast<int64_t>(one.ids.size());
    model_.metrics.add("prompt_tokens_total", n_given);
    model_.metrics.observe("request_seconds", seconds_from(began_));
    stream_.exchange().tell_tokens(n_given, n_generated);
  }
  if (plan_.fields.stream) {
    if (n_open_ == 0 && on_finished) on_finished(*this);
    flush(choice);
  }
  if (n_open_ > 0) return;
  if (plan_.fields.stream)
    finish_all();
  else
    model_.post([self = shared_from_this()] {
      if (self->on_finished) self->on_finished(*self);
      self->finish_all();
    });
}

void GenerationRun::failed(size_t, const std::string& message) {
  --n_open_;
  answer_error(500, message, "");
}

void GenerationRun::cancelled(size_t, const std::string& why) {
  --n_open_;
  if (why == "shutdown")
    answer_error(503, "server: expected to finish, found that it stops", "shutdown");
  else if (why == "time")
    answer_error(503, "server: expected the request to end within --max-seconds", "too_long");
  else
    answer_error(503, "the request was cancelled: " + why, why);
}

// The rest of the group ends unheard.
void GenerationRun::answer_error(int status, const std::string& message, const std::string& code) {
  if (over_) return;
  over_ = true;
  if (ticket_ > 0 && n_open_ > 0) model_.engine.cancel(ticket_, "failed");
  stream_.fail(ApiError(status, message, "", code));
}

bool GenerationRun::tick() { return over_ || stream_.tick(plan_.fields.stream); }

// ---- streams

// Sends what is final of a choice.
void GenerationRun::flush(Choice& choice) {
  const GenerationFields& fields = plan_.fields;
  if (fields.chat && !choice.role_sent) {
    choice.role_sent = true;
    json::Value delta = json::Value::object(), one = json::Value::object();
    delta.set("role", "assistant").set("content", "");
    one.set("index", static_cast<int64_t>(choice.index)).set("delta", std::move(delta)).set("logprobs", nullptr);
    one.set("finish_reason", nullptr);
    send_chunk(one);
  }
  const std::string_view text = choice.text;
  size_t end = text.size();
  if (!choice.ended) {
    const size_t front = fields.echo ? plan_.prompts[choice.prompt].text.size() : 0;
    end -= open_end(text.substr(std::min(front, text.size())), fields.stop);
    // A stop string may already be whole: the engine says so with the job's end.
    for (const std::string& stop : fields.stop) end = std::min(end, text.find(stop, front));
    if (choice.parts) end = std::min(end, choice.parts->decided());
  }
  end = std::max(end, choice.sent);
  // Tokens whose log p is known and whose text is out.
  size_t token_end = choice.sent_tokens;
  const auto n_points =
      token_end < choice.tokens.size() ? static_cast<int64_t>(count_code_points(text.substr(0, end))) : 0;
  while (token_end < choice.tokens.size() && choice.tokens[token_end].ready &&
         (choice.ended || choice.tokens[token_end].placed.end <= n_points))
    ++token_end;
  if (choice.ended) token_end = choice.tokens.size();
  // More may come while this is written.
  const int64_t row_end = choice.rows ? choice.rows->n_rows() : 0;
  const bool rows = !by_ref() && row_end > choice.sent_rows;
  if (end == choice.sent && token_end == choice.sent_tokens && !rows && !choice.ended) return;
  std::string content(text.substr(choice.sent, end - choice.sent)), reasoning;
  if (choice.parts) std::tie(content, reasoning) = choice.parts->split(text, choice.sent, end);
  if (content.empty() && reasoning.empty() && token_end == choice.sent_tokens && !rows && !choice.ended) {
    choice.sent = end;
    return;
  }
  const bool some = !content.empty() || !reasoning.empty() || token_end > choice.sent_tokens || rows;
  const bool last = choice.ended && !fields.chat;
  if (some || last) {
    const json::Value one = part_of(choice, std::move(content), std::move(reasoning), token_end, row_end, last);
    choice.sent = end;
    choice.sent_tokens = token_end;
    choice.sent_rows = row_end;
    send_chunk(one);
  }
  if (fields.chat && choice.ended) send_chunk(part_of(choice, "", "", token_end, row_end, true));
}

// Every chunk of a stream begins alike.
void GenerationRun::send_chunk(const json::Value& choice) {
  if (chunk_head_.empty()) {
    chunk_head_ = json::dump(head(true));
    chunk_head_.pop_back();
    chunk_head_ += ",\"choices\":[";
  }
  stream_.send_text(chunk_head_ + json::dump(choice) + (plan_.fields.include_usage ? "],\"usage\":null}" : "]}"));
}

json::Value GenerationRun::part_of(const Choice& choice, std::string text, std::string reasoning, size_t token_end,
                                   int64_t row_end, bool last) {
  const GenerationFields& fields = plan_.fields;
  json::Value one = json::Value::object();
  one.set("index", static_cast<int64_t>(choice.index));
  if (fields.chat) {
    json::Value delta = json::Value::object();
    if (!text.empty() || (!last && reasoning.empty())) delta.set("content", std::move(text));
    if (!reasoning.empty()) delta.set("reasoning_content", reasoning).set("reasoning", reasoning);
    one.set("delta", std::move(delta));
  } else {
    one.set("text", std::move(text));
  }
  const bool some = fields.logprobs && !(fields.chat && last);
  const auto n_points = choice.ended ? static_cast<int64_t>(count_code_points(choice.text)) : INT64_MAX;
  one.set("logprobs", some ? logprobs_json(choice, choice.sent_tokens, token_end, n_points) : json::Value());
  one.set("finish_reason", last ? json::Value(choice.finish_reason) : json::Value());
  if (last || (choice.rows && !by_ref())) one.set("signalbox", signalbox_json(choice, choice.sent_rows, row_end, last));
  if (last && fields.return_token_ids) {
    json::Value ids = json::Value::array();
    for (const int32_t id : choice.ids) ids.push_back(int64_t{id});
    one.set("token_ids", std::move(ids));
  }
  return one;
}

void GenerationRun::finish_all() {
  if (plan_.fields.stream) {
    if (plan_.fields.include_usage) {
      json::Value chunk = head(true);
      chunk.set("choices", json::Value::array()).set("usage", usage());
      stream_.send(chunk);
    }
    stream_.end();
    return;
  }
  json::Value list = json::Value::array(), out = head(false), ours = json::Value::object(),
              ignored = json::Value::array();
  for (Choice& choice : choices_) list.push_back(choice_json(choice));
  for (const std::string& name : plan_.fields.ignored) ignored.push_back(name);
  ours.set("seed", static_cast<int64_t>(plan_.seed)).set("ignored", std::move(ignored));
  out.set("choices", std::move(list)).set("usage", usage()).set("signalbox", std::move(ours));
  if (plan_.fields.chat && plan_.fields.return_token_ids) {
    json::Value ids = json::Value::array();
    for (const int32_t id : plan_.prompts.front().prompt->tokens) ids.push_back(int64_t{id});
    out.set("prompt_token_ids", std::move(ids));
  }
  HttpAnswer answer;
  answer.body = json::dump(out) + "\n";
  stream_.exchange().answer(std::move(answer));
}

}  // namespace signalbox::tools
