// Judges: commands of the user's that score a text, so that a run can use any classifier without compiling anything.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace signalbox::eval {

struct JudgeCommand {
  std::string name;
  std::vector<std::string> argv;  // run as it is, without a shell; argv[0] is looked up in PATH
  double timeout_seconds = 60;    // for one text
};

// {"command": ["python3", "judge.py"], "timeout": 60}: "command" is required and holds at least one string, "timeout"
// is in seconds, above 0 and at most a day. Throws Error at the place.
JudgeCommand parse_judge(const std::string& name, const json::Ref& object);

// Runs the command once. It gets the text, as it is, on standard input (it need not read it), and the record's id and
// the prompt in the environment as SIGNALBOX_ID and SIGNALBOX_PROMPT, and says its score in the first line of standard
// output: a number from 0 to 1, or true or false (1 and 0); further lines are ignored. Throws Error that names the
// judge and the id, with the last line of standard error: no such program, an exit code other than 0, a signal, no
// score, or more time than the timeout, at which the command and the processes of its group are killed. An id or a
// prompt that an environment cannot hold (over 120 KiB, or with a zero byte) is an Error too. Safe to call from several
// threads.
double run_judge(const JudgeCommand& judge, const std::string& id, const std::string& prompt, std::string_view text);

}  // namespace signalbox::eval
