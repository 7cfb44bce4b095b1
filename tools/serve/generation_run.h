// A request for completions or chat while it runs: its choices, and the answer or stream that they make.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "tools/serve/engine_loop.h"
#include "tools/serve/event_stream.h"
#include "tools/serve/held_text.h"
#include "tools/serve/request_fields.h"
#include "tools/serve/served_model.h"

namespace signalbox::tools {

// A prompt as it runs.
struct RunPrompt {
  std::shared_ptr<const Prompt> prompt;
  std::string text;                 // with echo: what stands in front of what is generated
  std::vector<PlacedToken> placed;  // with echo and logprobs
  bool inside_reasoning = false;    // chat: the prompt ends within it
};

// What was decided of a request before it runs.
struct GenerationPlan {
  GenerationFields fields;
  std::vector<RunPrompt> prompts;
  std::vector<int64_t> max_tokens;  // [prompts]
  uint64_t seed = 0;
  std::shared_ptr<const EditPlan> edits;
  std::optional<PointSet> points;
  std::shared_ptr<const StopRule> stop;
  std::vector<int32_t> stop_words;  // tokens whose text is one of the stop strings
  AnswerParts::Form form = AnswerParts::Form::plain;
  int key = -1;
};

// A token of a choice, with its log p.
struct ChoiceToken {
  int32_t id = 0;
  PlacedToken placed;
  bool ready = false, first = false;  // first: of the whole text, which nothing predicts
  double log_prob = 0;
  std::vector<std::pair<int32_t, double>> top;
};

struct Choice {
  size_t index = 0, prompt = 0;
  uint32_t sample = 0;
  std::vector<int32_t> ids;          // generated
  std::vector<ChoiceToken> tokens;   // with logprobs: given ones too, with echo
  std::string text;                  // decoded so far, the prompt's with echo
  size_t sent = 0, sent_tokens = 0;  // bytes of text; of tokens
  int64_t sent_rows = 0;
  bool role_sent = false, ended = false;
  std::unique_ptr<TokenPlacer> placer;
  std::unique_ptr<AnswerParts> parts;  // chat
  std::shared_ptr<RecordedRows> rows;
  std::string finish_reason, stopped_by;
  uint64_t logits_hash = 0;
  std::string timeline;
};

class GenerationRun : public JobOwner, public std::enable_shared_from_this<GenerationRun> {
 public:
  GenerationRun(ServedModel& model, GenerationPlan plan, std::shared_ptr<Exchange> exchange);

  // Hands the jobs to the engine. Throws ApiError.
  void submit();
  // Called with the finished choices, before the answer; from any thread but one at a time.
  std::function<void(GenerationRun&)> on_finished;

  const GenerationPlan& plan() const { return plan_; }
  std::vector<Choice>& choices() { return choices_; }
  Job job_of(const Choice& choice) const;
  std::shared_ptr<const ChoiceRules> choice() const { return choice_; }

  void started(size_t) override;
  void logits(size_t place, int64_t token, std::span<const float> logits) override;
  void token(size_t place, int32_t id, const std::string& text) override;
  void done(size_t place, Result result) override;
  void failed(size_t place, const std::string& message) override;
  void cancelled(size_t place, const std::string& why) override;
  bool tick() override;

 private:
  bool wants_given_logits() const { return plan_.fields.echo && plan_.fields.logprobs; }
  bool by_ref() const { return plan_.fields.signalbox.format == SignalboxFields::Format::ref; }
  void flush(Choice& choice);
  void send_chunk(const json::Value& choice);
  json::Value part_of(const Choice& choice, std::string text, std::string reasoning, size_t token_end, int64_t row_end,
                      bool last);
  void finish_all();
  void answer_error(int status, const std::string& message, const std::string& code);
  json::Value head(bool chunk) const;
  json::Value usage() const;
  json::Value logprobs_json(const Choice& choice, size_t begin, size_t end, int64_t n_points) const;
  json::Value signalbox_json(const Choice& choice, int64_t row_begin, int64_t row_end, bool last) const;
  json::Value choice_json(Choice& choice) const;
  std::string token_key(const Choice& choice, const ChoiceToken& token, int64_t n_points) const;

  ServedModel& model_;
  const GenerationPlan plan_;
  EventStream stream_;
  const std::string id_;
  const int64_t created_;
  std::vector<Choice> choices_;
  std::shared_ptr<const ChoiceRules> choice_;
  std::string chunk_head_;
  size_t n_open_ = 0;
  std::atomic<EngineLoop::Ticket> ticket_{0};
  bool over_ = false;
  using Clock = std::chrono::steady_clock;
  Clock::time_point began_ = Clock::now(), last_token_;
  bool first_token_ = true;
};

}  // namespace signalbox::tools
