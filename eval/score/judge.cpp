#include "eval/score/judge.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/no_number.h"
#include "base/text.h"
#include "eval/score/judge_process.h"

namespace signalbox::eval {

namespace {

constexpr size_t max_variable = 120 << 10;     // Linux takes 128 KiB a string
constexpr size_t max_batch_output = 64 << 20;  // a judge may give its reasons

std::optional<double> score_in(std::string_view line) {
  line = line.substr(0, line.find('\n'));
  while (!line.empty() && std::strchr(" \r\t", line.back())) line.remove_suffix(1);
  while (!line.empty() && std::strchr(" \t", line.front())) line.remove_prefix(1);
  const std::string word = ascii_lower(line);
  if (word == "true") return 1;
  if (word == "false") return 0;
  double value = 0;
  const auto [end, failed] = std::from_chars(line.data(), line.data() + line.size(), value);
  if (line.empty() || failed != std::errc() || end != line.data() + line.size()) return std::nullopt;
  if (!(value >= 0 && value <= 1)) return std::nullopt;
  return value;
}

std::optional<double> score_of(const json::Value& value) {
  if (value.type() == json::Type::boolean) return value.boolean() ? 1 : 0;
  if (!value.is_number() || !(value.real() >= 0 && value.real() <= 1)) return std::nullopt;
  return value.real();
}

std::string batch_input(std::span<const JudgedText> texts) {
  std::string lines;
  for (size_t i = 0; i < texts.size(); ++i) {
    json::Value line = json::Value::object();
    line.set("id", std::to_string(i + 1)).set("record", texts[i].record);
    line.set("prompt", texts[i].prompt).set("text", texts[i].text);
    lines += json::dump(line) + "\n";
  }
  return lines;
}

// Reads the lines that a judge says of a batch.
class BatchReader {
 public:
  BatchReader(const std::string& where, std::span<const JudgedText> texts, const JudgeOutput& output)
      : where_(where), texts_(texts), output_(output), scores_(texts.size(), no_number) {}

  std::vector<double> read() {
    std::string_view rest = output_.said;
    for (size_t number = 1; !rest.empty(); ++number) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) take(line, number);
    }
    for (size_t i = 0; i < scores_.size(); ++i)
      if (std::isnan(scores_[i])) fail("expected a score of " + name(i) + ", found none");
    return std::move(scores_);
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const {
    throw Error(where_, with_complaint(reason, output_.complaint));
  }
  std::string name(size_t i) const { return "id \"" + std::to_string(i + 1) + "\" (" + texts_[i].record + ")"; }

  void take(std::string_view text, size_t number) {
    const std::string place = "line " + std::to_string(number) + " of its output: ";
    json::Value line;
    try {
      line = json::parse(text, "line");
    } catch (const Error&) {
    }
    const json::Value* id = line.type() == json::Type::object ? line.find("id") : nullptr;
    if (!id || !id->is_string())
      fail(place + "expected an object {\"id\": \"1\", \"score\": 0.5}, found " + shortened(text));
    size_t i = texts_.size();
    std::from_chars(id->string().data(), id->string().data() + id->string().size(), i);
    if (--i >= texts_.size() || std::to_string(i + 1) != id->string())
      fail(place + "expected an id of the batch, found " + shortened(json::dump(*id)));
    if (!std::isnan(scores_[i])) fail(place + "expected each id once, found " + name(i) + " again");
    const json::Value* value = line.find("score");
    const std::optional<double> score = value ? score_of(*value) : std::nullopt;
    if (!score)
      fail(place + name(i) + ": expected a \"score\" from 0 to 1, true or false, found " +
           (value ? shortened(json::dump(*value)) : "none"));
    scores_[i] = *score;
  }

  static std::string shortened(std::string_view text) {
    std::string out(text.substr(0, 80));
    if (text.size() > out.size()) out += "...";
    return out;
  }

  const std::string& where_;
  const std::span<const JudgedText> texts_;
  const JudgeOutput& output_;
  std::vector<double> scores_;
};

}  // namespace

JudgeCommand parse_judge(const std::string& name, const json::Ref& object) {
  object.expect_object();
  object.reject_unknown({"command", "timeout", "batch"});
  JudgeCommand judge;
  judge.name = name;
  const json::Ref command = object.at("command");
  for (const json::Ref& word : command.items()) {
    if (word.string().find('\0') != std::string::npos) word.fail("expected text without a zero byte, found one");
    judge.argv.push_back(word.string());
  }
  if (judge.argv.empty() || judge.argv.front().empty())
    command.fail("expected a program and its arguments, found none");
  if (const auto timeout = object.find("timeout")) {
    judge.timeout_seconds = timeout->number();
    if (!(judge.timeout_seconds > 0 && judge.timeout_seconds <= 86400))
      timeout->fail("expected seconds above 0 and at most 86400, found " + json::dump(timeout->value()));
  }
  if (const auto batch = object.find("batch")) judge.batch = batch->integer(1, 100000);
  return judge;
}

std::vector<std::string> command_beside(const std::vector<std::string>& argv, const std::filesystem::path& dir) {
  std::vector<std::string> command = argv;
  for (size_t i = 0; i < command.size(); ++i) {
    const std::filesystem::path local = dir / command[i];
    std::error_code ignored;
    if (!command[i].empty() && (i > 0 || command[i].find('/') != std::string::npos) &&
        std::filesystem::is_regular_file(local, ignored))
      command[i] = local.string();
  }
  return command;
}

std::vector<JudgeCommand> read_judges(const std::filesystem::path& file) {
  const json::Value value = json::parse_file(file);
  std::vector<JudgeCommand> judges;
  for (const auto& [name, judge] : json::Ref(value, file.string()).members()) {
    judges.push_back(parse_judge(name, judge));
    judges.back().argv = command_beside(judges.back().argv, file.parent_path());
  }
  return judges;
}

double run_judge(const JudgeCommand& judge, const std::string& id, const std::string& prompt, std::string_view text) {
  const std::string where = "judge " + judge.name + ": " + id;
  for (const auto& [value, what] : {std::pair{&id, "id"}, {&prompt, "prompt"}}) {
    if (value->size() > max_variable)
      throw Error(where, std::string("expected ") + (value == &id ? "an id" : "a prompt") +
                             " of at most 120 KiB for the environment, found " + std::to_string(value->size()) +
                             " bytes");
    if (value->find('\0') != std::string::npos)
      throw Error(where, std::string(what) + ": expected text without a zero byte for the environment, found one");
  }
  JudgeRequest request;
  request.command = judge.argv;
  request.variables = {{"SIGNALBOX_ID", id}, {"SIGNALBOX_PROMPT", prompt}};
  request.input = text;
  request.timeout_seconds = judge.timeout_seconds;
  request.wanted = "a score";
  const JudgeOutput output = run_judge_process(request, where);
  const std::optional<double> score = score_in(output.said);
  if (!score) {
    const std::string line = output.said.substr(0, std::min({output.said.find('\n'), output.said.size(), size_t{80}}));
    throw Error(where,
                with_complaint("expected a number from 0 to 1, true or false in its first line, found \"" + line + "\"",
                               output.complaint));
  }
  return *score;
}

std::vector<double> run_judge_batch(const JudgeCommand& judge, std::span<const JudgedText> texts) {
  if (texts.empty()) return {};
  std::string where = "judge " + judge.name + ": batch of " + texts.front().record;
  if (texts.size() > 1) where += " to " + texts.back().record;
  const std::string input = batch_input(texts);
  JudgeRequest request;
  request.command = judge.argv;
  request.input = input;
  request.timeout_seconds = judge.timeout_seconds;
  request.wanted = "scores of " + std::to_string(texts.size()) + (texts.size() == 1 ? " text" : " texts");
  request.max_output = max_batch_output;
  request.whole_output = true;
  const JudgeOutput output = run_judge_process(request, where);
  return BatchReader(where, texts, output).read();
}

}  // namespace signalbox::eval
