#include "tools/signalbox/choice_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text.h"
#include "engine/choosing_runner.h"
#include "tools/signalbox/arguments.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

// "12:0.5" of a flag: two numbers, the first of them whole.
template <class Number>
std::pair<int64_t, Number> read_pair(const char* flag, const std::string& text, const char* expected) {
  std::pair<int64_t, Number> out;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, out.first);
  const bool middle = first.ec == std::errc() && first.ptr != end && *first.ptr == ':' && out.first >= 0;
  const auto second = middle ? std::from_chars(first.ptr + 1, end, out.second) : first;
  if (!middle || second.ec != std::errc() || second.ptr != end)
    throw UsageError(flag, std::string("expected ") + expected + ", found " + in_quotes(text));
  return out;
}

}  // namespace

void add_choice_options(CLI::App& app, ChoiceRules& rules) {
  app.add_option_function<std::vector<std::string>>(
         "--logit-bias",
         [&rules](const std::vector<std::string>& all) {
           for (const std::string& text : all) {
             const auto [id, by] = read_pair<float>("--logit-bias", text, "ID:BY, a token id and a number");
             if (!(std::abs(by) <= 1e6f))
               throw UsageError("--logit-bias", "expected a number from -1e6 to 1e6, found " + in_quotes(text));
             for (const auto& other : rules.bias)
               if (other.first == id) throw UsageError("--logit-bias", "expected each token once, found " + text);
             rules.bias.emplace_back(static_cast<int32_t>(std::min<int64_t>(id, INT32_MAX)), by);
           }
         },
         "add BY to the logit of token ID before one is chosen (may be given several times)")
      ->type_name("ID:BY")
      ->allow_extra_args(false)
      ->group("Sampling");
  app.add_option_function<std::vector<std::string>>(
         "--force-token",
         [&rules](const std::vector<std::string>& all) {
           for (const std::string& text : all) {
             const auto [position, id] = read_pair<int32_t>("--force-token", text, "POSITION:ID, both counted from 0");
             if (id < 0 || !rules.forced.emplace(position, id).second)
               throw UsageError("--force-token", "expected one token of a position, found " + in_quotes(text));
           }
         },
         "put token ID at this position, whatever the model chooses (may be given several times)")
      ->type_name("POSITION:ID")
      ->allow_extra_args(false)
      ->group("Sampling");
}

RecordingEnd run_choosing(const CommonOptions& options, const Session& session, PreparedRun& run,
                          const JobsOfCommand& jobs, const ChoiceRules& rules) {
  tell_cpu_fallback(options, session);
  Progress progress(jobs.doing, run.total_tokens, options.quiet || !jobs.shows_progress, "tokens");
  RunEvents events;
  events.on_progress = [&](int64_t tokens) { progress.update(tokens); };
  events.on_token = jobs.on_token;
  events.on_done = [&](Result result) {
    progress.done();  // what prints a result does not write behind a bar
    jobs.on_result(std::move(result));
  };
  catch_signals();
  ProbeSink* sink = jobs.in_front ? jobs.in_front(nullptr) : nullptr;
  Forward forward = session.forward(widest_route(run.jobs()));
  const bool whole = run_jobs_choosing(forward, run.jobs(), jobs.running, rules, events, sink);
  return whole ? RecordingEnd::complete : RecordingEnd::interrupted;
}

void check_choice(const ChoiceRules& rules, int64_t n_vocab, const std::vector<Job>& jobs) {
  const auto check_id = [&](const char* flag, int32_t id) {
    if (id >= n_vocab)
      throw Error(flag, "expected token ids below the vocabulary's " + std::to_string(n_vocab) + ", found " +
                            std::to_string(id));
  };
  for (const auto& [id, by] : rules.bias) check_id("--logit-bias", id);
  for (const auto& [position, id] : rules.forced) {
    check_id("--force-token", id);
    for (const Job& job : jobs)
      if (position < job.n_given() || position >= job.max_positions())
        throw Error("--force-token", "expected positions at which tokens are generated, " +
                                         std::to_string(job.n_given()) + " to " +
                                         std::to_string(job.max_positions() - 1) + " of record \"" + job.prompt->id +
                                         "\", found " + std::to_string(position));
  }
}

}  // namespace signalbox::tools
