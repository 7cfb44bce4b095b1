// One run of a judge's command: what it gets, how long it may take, and what it says.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace signalbox::eval {

using JudgeVariables = std::vector<std::pair<std::string, std::string>>;  // of the environment: name and value

struct JudgeRequest {
  std::vector<std::string> command;  // without a shell; the first word is looked up in PATH
  JudgeVariables variables;          // beside the environment of this process, without its SIGNALBOX_ID and _PROMPT
  std::string_view input;            // for standard input; need not be read
  double timeout_seconds = 60;
  std::string wanted;            // "a score", for the message when the time is over
  size_t max_output = 64 << 10;  // bytes of standard output
  bool whole_output = false;     // more is an error; else what is beyond is dropped
};

struct JudgeOutput {
  std::string said, complaint;  // standard output; the end of standard error
};

// Runs the command in a process group of its own, which is killed when the time is over. Throws Error at `where`, with
// the last line of standard error: no such program, an exit code other than 0, a signal, too much output, no end before
// the timeout. Safe to call from several threads.
JudgeOutput run_judge_process(const JudgeRequest& request, const std::string& where);

// "REASON; it said: LAST LINE OF THE COMPLAINT", or the reason alone where there is none.
std::string with_complaint(const std::string& reason, const std::string& complaint);

}  // namespace signalbox::eval
