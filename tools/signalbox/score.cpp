// signalbox score: teacher-forced log-probabilities.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/text.h"
#include "eval/score/sample_lines.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

namespace {

json::Value line_of(const Record& record, const EncodedRecord& encoded, const Result& result, bool edited) {
  json::Value line = json::Value::object(), tokens = json::Value::array(), logprobs = json::Value::array();
  for (int32_t token : encoded.prompt->tokens) tokens.push_back(int64_t{token});
  const int64_t start = encoded.target_start ? std::max<int64_t>(*encoded.target_start - 1, 0) : 0;
  double sum = 0;
  for (size_t i = 0; i < result.logprobs.size(); ++i) {
    logprobs.push_back(result.logprobs[i]);
    if (static_cast<int64_t>(i) >= start) sum += result.logprobs[i];
  }
  line.set("id", record.id).set("tokens", std::move(tokens)).set("logprobs", std::move(logprobs));
  if (encoded.target_start) line.set("target_start", *encoded.target_start);
  line.set("sum_logprob", sum).set("logits_hash", hex64(result.logits_hash));
  if (edited) put_edit_counts(line, result.edits());
  carry_keys(record, line);
  return line;
}

}  // namespace

int score_command(int argc, char** argv) {
  CLI::App app("Log-probabilities of given text: of each record's target, or of all its tokens.", "signalbox score");
  app.footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox score builtin "
      "--input - --json");
  CommonOptions options;
  std::string input;
  add_run_options(app, options);
  add_unmerged_option(app, options);
  app.add_option("--input", input, "records, a JSON object a line; - = standard input")->type_name("FILE")->required();
  app.add_option("--trace", options.trace, "write a trace into this directory, or go on with it")->type_name("DIR");
  app.add_option("--points", options.points, "points of the trace")->type_name("GLOBS")->capture_default_str();
  app.add_flag("--compact", options.compact, "F16 weights in the trace");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.trace.empty() && (!options.points.empty() || options.compact))
    throw UsageError("--points, --compact", "expected --trace beside them, found none");

  std::vector<Record> records = read_records(input);
  check_edits(options, records, "score has only given tokens");
  Session session = open_session(options);
  keep_date(options, session, records, recorded_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Score{});

  OrderedOutput output;
  JobsOfCommand jobs;
  jobs.doing = "scoring";
  jobs.work.set("command", "score");
  jobs.running = session.options;
  jobs.on_result = [&](Result result) {
    const json::Value line =
        line_of(run.records[result.index], run.made.encoded[result.index], result, run.plan != nullptr);
    if (options.json) {
      output.put(result.index, json::dump(line) + "\n");
    } else {
      char text[128];
      std::snprintf(text, sizeof text, "  %zu tokens  sum log p %.6f\n", line.find("tokens")->items().size(),
                    line.find("sum_logprob")->real());
      output.put(result.index, run.records[result.index].id + text);
    }
  };
  return run_jobs_of_command(options, session, run, jobs, argc, argv) == RecordingEnd::interrupted ? 3 : 0;
}

}  // namespace signalbox::tools
