#include "tools/serve/generation_plan.h"

#include <algorithm>
#include <set>

#include "base/near_names.h"
#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/branches.h"
#include "tools/serve/request_ids.h"

namespace signalbox::tools {

namespace {

constexpr int64_t max_recorded_bytes = int64_t{256} << 20;

[[noreturn]] void refuse_value(const std::string& field, const std::string& reason, const std::string& code = "") {
  throw ApiError(400, field + ": " + reason, field, code);
}

// The message of an Error without places that are not the client's.
[[noreturn]] void refuse_with(const std::string& field, const Error& error) {
  throw ApiError(400, field + ": " + error.reason(), field);
}

bool is_name_character(char c) { return is_ascii_letter(c) || is_ascii_digit(c) || c == '_'; }

bool reads_name(const std::string& source, const std::string& name) {
  if (name.empty() || !std::all_of(name.begin(), name.end(), is_name_character)) return false;
  for (size_t at = source.find(name); at != std::string::npos; at = source.find(name, at + 1)) {
    const bool begins = at == 0 || !is_name_character(source[at - 1]);
    const size_t end = at + name.size();
    if (begins && (end == source.size() || !is_name_character(source[end]))) return true;
  }
  return false;
}

EncodedText encode_completion(const ServedModel& model, const GenerationFields& fields, const PromptInput& input) {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&input)) {
    EncodedText out;
    out.tokens = *ids;
    return out;
  }
  EncodeSetup setup = model.session.encode;
  setup.add_special = fields.add_special;
  setup.template_only_specials = fields.signalbox.template_only_specials;
  try {
    return encode_prompt(std::get<std::string>(input), setup);
  } catch (const Error& error) {
    refuse_with("prompt", error);
  }
}

// The text of given ids, special tokens too, and where each stands.
void place_ids(const ServedModel& model, RunPrompt& prompt, bool placed) {
  if (const Tokenizer* tokenizer = model.session.tokenizer.get())
    prompt.text = tokenizer->decode(prompt.prompt->tokens, false);
  if (!placed) return;
  TokenPlacer placer(model.texts, false, 0);
  for (const int32_t id : prompt.prompt->tokens) prompt.placed.push_back(placer.push(id));
}

int64_t allowed_tokens(const ServedModel& model, const GenerationFields& fields, int64_t n_given) {
  const int64_t left = model.max_model_len - n_given;
  const auto refuse = [&](int64_t wanted) {
    refuse_value(fields.chat ? "messages" : "prompt",
                 "expected at most " + std::to_string(model.max_model_len) + " tokens, found " +
                     std::to_string(n_given) + " given and " + std::to_string(wanted) + " to be generated",
                 "context_length_exceeded");
  };
  if (!fields.max_tokens) {
    if (fields.chat && left < 1) refuse(1);
    if (fields.chat) return left;
    if (left < 16) refuse(16);
    return 16;
  }
  if (*fields.max_tokens > left) refuse(*fields.max_tokens);
  return *fields.max_tokens;
}

void plan_stops(const ServedModel& model, GenerationPlan& plan) {
  const GenerationFields& fields = plan.fields;
  const Tokenizer* tokenizer = model.session.tokenizer.get();
  if (!fields.stop.empty() && !tokenizer) refuse_value("stop", "expected a model with a tokenizer, found none");
  // A stop string that is a special token's text is met by that token, which adds no text.
  for (const std::string& text : fields.stop)
    if (const auto id = tokenizer->id_of(text); id && tokenizer->is_special(*id)) plan.stop_words.push_back(*id);
  auto rule = std::make_shared<StopRule>();
  rule->stop_strings = fields.stop;
  rule->stop_tokens = plan.stop_words;
  rule->ignore_eos = fields.ignore_eos && plan.stop_words.empty();
  if (!fields.ignore_eos)
    rule->stop_tokens.insert(rule->stop_tokens.end(), model.session.stop_tokens.begin(),
                             model.session.stop_tokens.end());
  plan.stop = std::move(rule);
}

void plan_recording(const ServedModel& model, GenerationPlan& plan) {
  const SignalboxFields& asked = plan.fields.signalbox;
  if (asked.points.empty()) return;
  plan.points = plan_points(model, asked.points, "signalbox.points");
  int64_t rows = 0;
  for (size_t p = 0; p < plan.prompts.size(); ++p)
    rows += plan.fields.n * (static_cast<int64_t>(plan.prompts[p].prompt->tokens.size()) + plan.max_tokens[p]);
  check_recording(model, *plan.points, rows, "signalbox.points");
}

bool ends_inside_reasoning(const std::string& text) {
  const size_t begin = text.rfind("<think>"), end = text.rfind("</think>");
  return begin != std::string::npos && (end == std::string::npos || end < begin);
}

}  // namespace

void check_model_name(const ServedModel& model, const std::string& name) {
  if (std::find(model.aliases.begin(), model.aliases.end(), name) != model.aliases.end()) return;
  throw ApiError(404, "model: expected " + in_quotes(model.name) + ", found " + in_quotes(name), "model",
                 "model_not_found");
}

void check_recording(const ServedModel& model, const PointSet& points, int64_t n_rows, const std::string& field) {
  int64_t bytes = 0;
  for (const PointAt& at : points.all())
    bytes += 4 * point_width(at.point, at.layer, model.session.shape, model.session.shape.n_active());
  if (n_rows > max_recorded_bytes / std::max<int64_t>(1, bytes))
    refuse_value(field, "expected rows of at most 256 MiB in all, found up to " + gigabytes(n_rows * bytes));
}

PointSet plan_points(const ServedModel& model, const std::string& globs, const std::string& field) {
  PointSet points;
  try {
    points = PointSet::parse(globs, model.session.shape);
  } catch (const Error& error) {
    refuse_with(field, error);
  }
  for (const PointAt& at : points.all())
    if (point_info(at.point).positions())
      refuse_value(field, "expected points of one width, found " + point_name(at.point, at.layer) +
                              " (signalbox trace records it)");
  return points;
}

std::shared_ptr<const EditPlan> plan_edits(ServedModel& model, const json::Ref& edits, uint64_t seed, int key,
                                           const std::vector<std::string>& span_names) {
  std::optional<EditFiles> files;
  const OpenTimeline open_timeline = timeline_opener(model, key);
  try {
    edits.expect_array();
    files.emplace(edits, model.assets, open_timeline);
    auto plan = model.session.edits(json::Ref(files->edits(), "body", edits.path()), "", seed);
    plan->require_spans(span_names);
    return plan;
  } catch (const Error& error) {
    if (!files) refuse_field(error);
    refuse_field(Error(files->told(error.where()), files->told(error.reason())));
  }
}

void count_edits(ServedModel& model, const EditPlan* plan) {
  if (!plan) return;
  std::set<std::string> ops;
  for (const json::Value& edit : plan->source().items()) ops.insert(edit.find("op")->string());
  for (const std::string& op : ops) model.metrics.add("edits_requests_total", 1, "op=\"" + op + "\"");
}

EncodedText encode_chat(const ServedModel& model, const json::Value& messages, bool add_generation_prompt,
                        bool continue_final, const json::Value& kwargs, bool template_only_specials) {
  const Session& session = model.session;
  if (!session.tokenizer) refuse_value("messages", "expected a model with a tokenizer, found none");
  if (!session.chat_template) refuse_value("messages", "expected a model with a chat template, found none");
  const std::string& source = model.description.template_source;
  json::Value variables = session.encode.template_variables;
  for (const auto& [name, value] : kwargs.members()) {
    static constexpr const char* own[] = {"messages",  "tools",    "documents", "add_generation_prompt",
                                          "bos_token", "eos_token"};
    if (std::find(std::begin(own), std::end(own), name) != std::end(own) || !reads_name(source, name))
      refuse_value("chat_template_kwargs", "expected names that the chat template reads, found " + in_quotes(name));
    variables.set(name, value);
  }
  json::Value sent = json::Value::array();
  for (json::Value message : messages.items()) {
    if (message.find("role")->string() == "developer" && source.find("developer") == std::string::npos)
      message.set("role", "system");
    sent.push_back(std::move(message));
  }
  Rendered rendered;
  try {
    rendered = session.chat_template->render(sent, add_generation_prompt, variables);
  } catch (const Error& error) {
    refuse_with("messages", error);
  }
  if (continue_final) {
    const json::Value* content = sent.items().back().find("content");
    const std::string_view last = content && content->is_string() ? trimmed(content->string()) : std::string_view();
    const size_t at = last.empty() ? std::string::npos : rendered.text.rfind(last);
    if (at == std::string::npos)
      refuse_value("continue_final_message", "expected a last message whose text the template prints, found none");
    rendered.text.resize(at + last.size());
  }
  EncodeOptions options;
  options.add_special = false;
  if (template_only_specials) options.literal = rendered.content;
  Encoding encoding;
  try {
    encoding = session.tokenizer->encode(rendered.text, options);
  } catch (const Error& error) {
    refuse_with("messages", error);
  }
  return {std::move(encoding.ids), std::move(encoding.offsets), std::move(rendered.text)};
}

GenerationPlan plan_generation(ServedModel& model, GenerationFields given, int key) {
  GenerationPlan plan;
  plan.fields = std::move(given);
  plan.key = key;
  GenerationFields& fields = plan.fields;
  check_model_name(model, fields.model);
  if (!model.description.refused.empty() && fields.max_tokens != 0)
    refuse_value("model", "expected one whose greedy text no key of generation_config.json changes, found " +
                              model.description.refused + " (--generation-config ignore)");
  plan.seed = fields.seed ? static_cast<uint64_t>(*fields.seed) : fields.temperature > 0 ? random_seed() : 0;

  std::vector<EncodedText> texts;
  if (fields.chat) {
    texts.push_back(encode_chat(model, fields.messages, fields.add_generation_prompt, fields.continue_final,
                                fields.template_kwargs, fields.signalbox.template_only_specials));
    const Tokenizer& tokenizer = *model.session.tokenizer;
    const auto special = [&](const char* text) {
      const auto id = tokenizer.id_of(text);
      return id && tokenizer.is_special(*id);
    };
    if (fields.signalbox.keep_reasoning)
      plan.form = AnswerParts::Form::plain;
    else if (special("<|channel|>") && special("<|message|>"))
      plan.form = AnswerParts::Form::channels;
    else if (model.description.template_source.find("</think>") != std::string::npos)
      plan.form = AnswerParts::Form::think;
  } else {
    for (const PromptInput& input : fields.prompts) texts.push_back(encode_completion(model, fields, input));
  }

  const std::string id = fields.signalbox.id.value_or("prompt");
  for (size_t i = 0; i < texts.size(); ++i) {
    EncodedText& text = texts[i];
    if (text.tokens.empty()) refuse_value(fields.chat ? "messages" : "prompt", "expected tokens, found none");
    RunPrompt prompt;
    prompt.prompt = std::make_shared<const Prompt>(texts.size() > 1 ? id + "/" + std::to_string(i) : id, text.tokens);
    plan.max_tokens.push_back(allowed_tokens(model, fields, static_cast<int64_t>(text.tokens.size())));
    if (fields.echo) {
      if (text.offsets.empty()) {
        place_ids(model, prompt, fields.logprobs);
      } else {
        prompt.text = text.text;
        if (fields.logprobs) prompt.placed = place_prompt_tokens(model.texts, text);
      }
      if (fields.logprobs) prompt.placed.resize(text.tokens.size());
    }
    prompt.inside_reasoning = plan.form == AnswerParts::Form::think && ends_inside_reasoning(text.text);
    plan.prompts.push_back(std::move(prompt));
  }
  plan_stops(model, plan);
  if (fields.signalbox.edits) {
    plan.edits = plan_edits(model, json::Ref(*fields.signalbox.edits, "body", "signalbox.edits"), plan.seed, plan.key);
    for (const RunPrompt& prompt : plan.prompts) {
      Job job;
      job.prompt = prompt.prompt;
      if (!plan.edits->empty()) job.plan = plan.edits;
      job.task = Generate{plan.max_tokens[static_cast<size_t>(&prompt - plan.prompts.data())], {}};
      try {
        model.session.check("body", job);
      } catch (const Error& error) {
        refuse_field(error);
      }
    }
  }
  plan_recording(model, plan);
  return plan;
}

}  // namespace signalbox::tools
