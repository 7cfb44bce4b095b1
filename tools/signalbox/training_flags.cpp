#include "tools/signalbox/training_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <set>

#include "base/csv.h"
#include "base/error.h"
#include "base/text.h"
#include "eval/routing/recording_identity.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

std::string fixed(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", x);
  return text;
}

Manifest manifest_of(const TrainingFlags& flags, const Session& session, const TrainingRecords& records,
                     const TrainingJob& job, int argc, char** argv) {
  const TrainingSettings& s = flags.settings;
  const auto hash = [](const std::vector<Record>& of) {
    return of.empty() ? json::Value() : json::Value(records_hash(of));
  };
  RecordingInputs inputs;
  inputs.model = model_facts(session, flags.common.quiet);
  inputs.work = job.work;
  inputs.work.set("steps", s.steps())
      .set("batch_of_step", s.batch)
      .set("lr", s.lr)
      .set("schedule", flags.shape)
      .set("warmup", s.schedule.warmup)
      .set("final_lr", s.schedule.end)
      .set("decay", s.adam.decay)
      .set("beta1", s.adam.beta1)
      .set("beta2", s.adam.beta2)
      .set("eps", s.adam.eps)
      .set("clip", s.clip)
      .set("save_every", s.save_every)
      .set("end_token", records.end ? json::Value(int64_t{*records.end}) : json::Value())
      .set("eval", hash(records.held_out))
      .set("stop", hash(records.stop))
      .set("stop_loss", flags.stop_loss ? json::Value(*flags.stop_loss) : json::Value())
      .set("routing", tuning_json(flags.tuning));
  inputs.data_hash = records_hash(records.data);
  inputs.seed = flags.common.seed;
  inputs.model_name = session.path;
  inputs.special = flags.common.special;
  inputs.template_variables = session.encode.template_variables;
  Manifest manifest;
  manifest.schema = training_schema;
  manifest.identity = recording_identity(inputs);
  manifest.info = work_info(flags.common, session, argc, argv);
  return manifest;
}

std::string interval(const CsvTable& table, size_t row) {
  const auto bound = [&](const char* column) {
    const std::string& cell = table.text(row, table.column(column));
    return cell.empty() ? std::string("-") : fixed(std::stod(cell));
  };
  return "[" + bound("ci_lo") + ", " + bound("ci_hi") + "]";
}

// What the tables say of the whole.
void print_result(const TrainingFlags& flags, const TrainingJob& job) {
  const fs::path dir = flags.out;
  const CsvTable log = CsvTable::read(dir / train::log_file);
  const size_t last = log.n_rows() - 1, loss = log.column("loss");
  const int64_t steps = log.integer(last, log.column("step"));
  std::optional<CsvTable> evals, stops;
  if (!flags.held_out.empty()) evals = CsvTable::read(dir / eval_file);
  if (!flags.stop.empty()) stops = CsvTable::read(dir / stop_file);
  size_t best = 0;  // row of stop.csv whose weights came out
  for (size_t i = 0; stops && i < stops->n_rows(); ++i)
    if (stops->integer(i, stops->column("best")) == 1) best = i;
  const int64_t kept_step = stops ? stops->integer(best, stops->column("step")) : steps;
  const auto held = [&](size_t row, const char* column) { return evals->number(row, evals->column(column)); };
  // eval.csv and stop.csv have the same steps.
  const size_t eval_row = !evals ? 0 : stops ? best : evals->n_rows() - 1;
  if (flags.common.json) {
    json::Value line = json::Value::object();
    line.set(job.what, (dir / job.result).string())
        .set("steps", steps)
        .set("tokens", log.integer(last, log.column("tokens")))
        .set("trained_values", job.trained->n_values())
        .set("first_loss", log.number(0, loss))
        .set("last_loss", log.number(last, loss));
    if (stops) line.set("kept_step", kept_step);
    if (evals) line.set("held_out_loss", held(eval_row, "loss")).set("held_out_change", held(eval_row, "change"));
    write_stdout(json::dump(line) + "\n");
    return;
  }
  std::string text = "loss " + fixed(log.number(0, loss)) + " in step 1, " + fixed(log.number(last, loss)) +
                     " in step " + std::to_string(steps) + "\n";
  if (stops)
    text += "kept: step " + std::to_string(kept_step) + ", loss " + fixed(stops->number(best, stops->column("loss"))) +
            " of the records to stop by" +
            (kept_step == steps ? ""
                                : ", " + fixed(stops->number(stops->n_rows() - 1, stops->column("loss"))) +
                                      " in step " + std::to_string(steps)) +
            "\n";
  if (evals) {
    text += "held out " + fixed(held(eval_row, "loss")) + ", change " + fixed(held(eval_row, "change")) + " " +
            interval(*evals, eval_row);
    if (eval_row + 1 < evals->n_rows())
      text += " (in step " + std::to_string(steps) + ": " + fixed(held(evals->n_rows() - 1, "loss")) + ")";
    text += "\n";
  }
  if (job.told) text += job.told();
  write_stdout(text + "the " + job.what + ": " + (dir / job.result).string() + "\n");
}

// Records that two files have, told apart by what they say.
void refuse_shared(const std::string& of, const std::vector<Record>& stop, const std::string& flag,
                   const std::vector<Record>& others) {
  std::set<std::string> known;
  const auto said = [](const Record& record) { return records_hash({record}); };
  for (const Record& record : others) known.insert(said(record));
  for (const Record& record : stop)
    if (known.contains(said(record)))
      throw Error(of + ": " + record.id, "expected records that " + flag + " does not have, found one of them");
}

}  // namespace

void add_training_flags(CLI::App& command, TrainingFlags& flags, const std::string& out) {
  TrainingSettings& s = flags.settings;
  command
      .add_option("MODEL", flags.common.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_device_options(command, flags.common);
  command.add_option("--data", flags.data, "records to learn, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  command.add_option("--out", flags.out, out)->type_name("DIR")->required();
  command.add_option("--eval", flags.held_out, "records held out: their loss goes to eval.csv")->type_name("FILE");
  command
      .add_option(
          "--stop", flags.stop,
          "records held out that end the training: after two looks (--save-every) in a row whose change against "
          "the weights kept last is not surely below 0; the best look's weights come out")
      ->type_name("FILE");
  command.add_option("--stop-loss", flags.stop_loss, "of --stop: end at this loss")->type_name("NATS");
  command.add_option("--steps", s.schedule.steps, "steps of the optimiser")
      ->check(in_range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->required();
  command.add_option("--lr", s.lr, "learning rate")->check(in_range(0.0, 1e6))->capture_default_str();
  command.add_option("--batch", s.batch, "records of a step")
      ->check(in_range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command.add_option("--schedule", flags.shape, "constant, linear or cosine")
      ->check(one_of({"constant", "linear", "cosine"}))
      ->capture_default_str();
  command.add_option("--warmup", s.schedule.warmup, "steps in which the rate rises")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command.add_option("--final-lr", s.schedule.end, "share of the rate that is left at the end (linear, cosine)")
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--decay", s.adam.decay, "weight decay of matrices other than routers")
      ->check(in_range(0.0, 1e6))
      ->capture_default_str();
  command.add_option("--beta1", s.adam.beta1, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  command.add_option("--beta2", s.adam.beta2, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  command.add_option("--eps", s.adam.eps, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  command.add_option("--clip", s.clip, "largest norm of the gradient; 0: any")
      ->check(in_range(0.0, 1e30))
      ->capture_default_str();
  command
      .add_option("--save-every", s.save_every,
                  "steps between states to go on from, and between rows of eval.csv and stop.csv; 0: only at the end")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command.add_option("--chunk", s.groups.tokens, "tokens of one forward, but at least one record; changes no bit")
      ->check(in_range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  command.add_flag("--no-end-token", flags.no_end_token, "no end token behind targets");
  command
      .add_option("--special", flags.common.special,
                  "special tokens spelt out in prompts and messages: parse | template-only (they stay text)")
      ->check(one_of({"parse", "template-only"}))
      ->capture_default_str();
  command.add_option("--template-variables", flags.common.template_variables, "a JSON object for the chat template")
      ->type_name("JSON");
  command.add_option("--date", flags.common.date, "date that chat templates see, YYYY-MM-DD (default: today)")
      ->type_name("DATE")
      ->check(date_validator());
  add_routing_flags(command, flags.routing);
}

void check_training_flags(TrainingFlags& flags) {
  TrainingSettings& s = flags.settings;
  s.schedule.shape = parse_shape(flags.shape, "--schedule");
  if (s.schedule.warmup >= s.schedule.steps)
    throw UsageError("--warmup", "expected fewer than the " + std::to_string(s.schedule.steps) + " steps, found " +
                                     std::to_string(s.schedule.warmup));
  if (s.schedule.shape == Shape::constant && s.schedule.end > 0)
    throw UsageError("--final-lr", "expected --schedule linear or cosine beside it, found constant");
  if (s.adam.beta1 >= 1 || s.adam.beta2 >= 1) throw UsageError("--beta1, --beta2", "expected numbers below 1, found 1");
  if (!flags.stop.empty() && s.save_every == 0)
    throw UsageError("--stop", "expected --save-every N beside it, the steps between two looks, found 0");
  if (flags.stop.empty() && flags.stop_loss) throw UsageError("--stop-loss", "expected --stop beside it, found none");
  if ((flags.data == "-") + (flags.held_out == "-") + (flags.stop == "-") > 1)
    throw UsageError("--data, --eval, --stop", "expected - once, found it twice");
  s.stop_loss = flags.stop_loss;
  s.seed = flags.common.seed;
  s.threads = n_threads(flags.common);
  flags.tuning = tuning_of(flags.routing);
}

TrainingRecords read_training_records(const TrainingFlags& flags) {
  TrainingRecords records;
  for (const auto& [file, to] : {std::pair(&flags.data, &records.data), std::pair(&flags.held_out, &records.held_out),
                                 std::pair(&flags.stop, &records.stop)}) {
    if (file->empty()) continue;
    *to = read_records(*file);
    if (to->empty()) throw Error(*file, "expected at least one record, found none");
  }
  refuse_shared(flags.stop, records.stop, "--data", records.data);
  refuse_shared(flags.stop, records.stop, "--eval", records.held_out);
  return records;
}

int run_training(const TrainingFlags& flags, Session& session, TrainingRecords& records, const TrainingJob& job,
                 int argc, char** argv) {
  const CommonOptions& options = flags.common;
  keep_date(options, session, records.data, training_schema);
  const auto has_target = [](const std::vector<Record>& of) {
    return std::any_of(of.begin(), of.end(), [](const Record& record) { return record.target.has_value(); });
  };
  if (!flags.no_end_token && (has_target(records.data) || has_target(records.held_out) || has_target(records.stop)))
    records.end = end_token(session);
  Training training;
  training.data = make_examples(session, records.data, records.end);
  training.held_out = make_examples(session, records.held_out, records.end);
  training.stop = make_examples(session, records.stop, records.end);
  training.session = &session;
  training.trained = job.trained;
  training.routing = job.routing;
  training.dir = flags.out;
  training.settings = flags.settings;
  training.result = job.result;
  training.write_result = job.write_result;
  training.manifest = manifest_of(flags, session, records, job, argc, argv);
  catch_signals();
  training.interrupted = &interrupted;
  tell_cpu_fallback(options, session);
  Progress progress("training", tokens_of_steps(training.data, flags.settings, flags.settings.steps()), options.quiet,
                    "tokens");
  const auto tell = [&](const std::string& line) {
    progress.done();
    if (!options.quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
  training.on_kept = [&](int64_t step, int64_t tokens) {
    if (!options.quiet)
      std::fprintf(stderr, "%s: goes on behind step %ld\n", flags.out.c_str(), static_cast<long>(step));
    progress.start_at(tokens);
  };
  training.on_step = [&](int64_t step, int64_t tokens, double loss) {
    progress.say("step " + std::to_string(step) + " loss " + fixed(loss));
    progress.update(tokens);
  };
  const auto change = [](const MeanEstimate& of) {
    return "change " + fixed(of.mean) + " [" + fixed(of.ci.lo) + ", " + fixed(of.ci.hi) + "]";
  };
  training.on_eval = [&](int64_t step, const MeanEstimate& of, double loss) {
    tell("held out, step " + std::to_string(step) + ": loss " + fixed(loss) + ", " + change(of));
  };
  training.on_look = [&](const Stopping::Look& look) {
    tell("to stop by, step " + std::to_string(look.step) + ": loss " + fixed(look.loss) + ", " + change(look.change) +
         (look.kept ? ", kept" : ""));
  };
  const TrainingEnd ended = train::train(training);
  progress.done();
  if (ended == TrainingEnd::interrupted) {
    std::fprintf(stderr, "interrupted: the same command goes on from here\n");
    return 3;
  }
  if (!options.quiet && ended == TrainingEnd::was_complete)
    std::fprintf(stderr, "%s: was complete\n", flags.out.c_str());
  print_result(flags, job);
  return 0;
}

}  // namespace signalbox::tools
