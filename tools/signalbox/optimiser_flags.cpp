#include "tools/signalbox/optimiser_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "tools/signalbox/reading_flags.h"

namespace signalbox::tools {

using namespace train;

void add_optimiser_options(CLI::App& app, OptimiserFlags& flags) {
  TrainingSettings& s = flags.settings;
  app.add_option("--lr", s.lr, "learning rate")->check(in_range(0.0, 1e6))->capture_default_str();
  app.add_option("--batch", s.batch, "records of a step")
      ->check(in_range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  app.add_option("--schedule", flags.shape, "constant, linear or cosine")
      ->check(one_of({"constant", "linear", "cosine"}))
      ->capture_default_str();
  app.add_option("--warmup", s.schedule.warmup, "steps in which the rate rises")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--final-lr", s.schedule.end, "share of the rate that is left at the end (linear, cosine)")
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--decay", s.adam.decay, "weight decay of matrices other than routers")
      ->check(in_range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--clip", s.clip, "largest norm of the gradient; 0: any")
      ->check(in_range(0.0, 1e30))
      ->capture_default_str();
  app.add_option("--save-every", s.save_every,
                 "steps between states to go on from, and between looks at held-out records; 0: only at the end")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--chunk", s.groups.tokens, "tokens of one forward, but at least one record; changes no bit")
      ->check(in_range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  app.add_flag("--no-end-token", flags.no_end_token, "no end token behind targets");
}

void add_encoding_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--special", options.special,
                 "special tokens spelt out in prompts and messages: parse | template-only (they stay text)")
      ->check(one_of({"parse", "template-only"}))
      ->capture_default_str();
  app.add_option("--template-variables", options.template_variables, "a JSON object for the chat template")
      ->type_name("JSON");
  app.add_option("--date", options.date, "date that chat templates see, YYYY-MM-DD (default: today)")
      ->type_name("DATE")
      ->check(date_validator());
}

TrainingSettings training_settings(const OptimiserFlags& flags, const CommonOptions& common, int64_t steps) {
  TrainingSettings s = flags.settings;
  s.schedule.steps = steps;
  s.schedule.shape = parse_shape(flags.shape, "--schedule");
  if (steps > 0 && s.schedule.warmup >= steps)
    throw UsageError("--warmup", "expected fewer than the " + std::to_string(steps) + " steps, found " +
                                     std::to_string(s.schedule.warmup));
  if (s.schedule.shape == Shape::constant && s.schedule.end > 0)
    throw UsageError("--final-lr", "expected --schedule linear or cosine beside it, found constant");
  s.seed = common.seed;
  s.threads = n_threads(common);
  return s;
}

void put_settings(json::Value& work, const OptimiserFlags& flags) {
  const TrainingSettings& s = flags.settings;
  work.set("batch_of_step", s.batch)
      .set("lr", s.lr)
      .set("schedule", flags.shape)
      .set("warmup", s.schedule.warmup)
      .set("final_lr", s.schedule.end)
      .set("decay", s.adam.decay)
      .set("clip", s.clip)
      .set("save_every", s.save_every);
}

std::optional<int32_t> end_token_of(const Session& session, const OptimiserFlags& flags,
                                    std::initializer_list<const std::vector<Record>*> records) {
  if (flags.no_end_token) return std::nullopt;
  for (const std::vector<Record>* list : records)
    if (std::any_of(list->begin(), list->end(), [](const Record& record) { return record.target.has_value(); }))
      return end_token(session);
  return std::nullopt;
}

int tell_training_end(TrainingEnd ended, const CommonOptions& options, const std::string& out) {
  if (ended == TrainingEnd::interrupted) {
    std::fprintf(stderr, "interrupted: the same command goes on from here\n");
    return 3;
  }
  if (!options.quiet && ended == TrainingEnd::was_complete) std::fprintf(stderr, "%s: was complete\n", out.c_str());
  return 0;
}

}  // namespace signalbox::tools
