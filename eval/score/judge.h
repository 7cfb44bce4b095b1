// Judges: commands of the user's that score a text, so that a run can use any classifier without compiling anything.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

struct JudgeCommand {
  std::string name;
  std::vector<std::string> argv;  // run as it is, without a shell; argv[0] is looked up in PATH
  double timeout_seconds = 60;    // for one run of the command: a text, or a batch
  int64_t batch = 0;              // texts for one run, as JSON lines; 0: one text, as it is
};

// {"command": ["python3", "judge.py"], "timeout": 60, "batch": 32}: "command" is required and holds at least one
// string, "timeout" is in seconds, above 0 and at most a day, "batch" from 1 to 100000 (none: 0). Throws Error at the
// place.
JudgeCommand parse_judge(const std::string& name, const json::Ref& object);

// A command's words, in which those that name a file in `dir` are that file (the program: only with a '/').
std::vector<std::string> command_beside(const std::vector<std::string>& argv, const std::filesystem::path& dir);

// A file {"NAME": {"command": ...}, ...}, what an experiment has as "judges"; commands beside it. Throws Error.
std::vector<JudgeCommand> read_judges(const std::filesystem::path& file);

// What a judge is asked of.
struct JudgedText {
  std::string record, prompt;  // id and text of the record
  std::string text;            // what was generated
};

// Runs a command without a batch once. It gets the text, as it is, on standard input (it need not read it), and the
// record's id and the prompt in the environment as SIGNALBOX_ID and SIGNALBOX_PROMPT, and says its score in the first
// line of standard output: a number from 0 to 1, or true or false (1 and 0); further lines are ignored. Throws Error
// that names the judge and the id, with the last line of standard error: no such program, an exit code other than 0, a
// signal, no score, or more time than the timeout, at which the command and the processes of its group are killed. An
// id or a prompt that an environment cannot hold (over 120 KiB, or with a zero byte) is an Error too. Safe to call from
// several threads.
double run_judge(const JudgeCommand& judge, const std::string& id, const std::string& prompt, std::string_view text);

// Runs a command once for several texts. It gets a JSON line for each, {"id": "1", "record": "r1", "prompt": "...",
// "text": "..."}, with ids that count from 1 in this batch, and says one for each, in any order: {"id": "1", "score":
// 0.5}, the score a number from 0 to 1, or true or false (other keys are not read, lines of white space are skipped).
// [texts] scores. Throws Error as run_judge does, and for a line that is no such object, an id that was not asked, one
// that is said twice, and one that is missing; they name the judge and the id with its record.
std::vector<double> run_judge_batch(const JudgeCommand& judge, std::span<const JudgedText> texts);

}  // namespace signalbox::eval
