#include "tools/signalbox/training_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/data/prompt_hash.h"
#include "eval/routing/recording_identity.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "train/drift.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

std::string four_places(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", x);
  return text;
}

Manifest manifest_of(const TrainingFlags& flags, const Session& session, const TrainingRecords& records,
                     std::optional<int32_t> end, const TrainingJob& job, const TeacherModel* teacher, int argc,
                     char** argv) {
  const TrainingSettings& s = flags.settings;
  const auto hash = [](const std::vector<Record>& of) {
    return of.empty() ? json::Value() : json::Value(records_hash(of));
  };
  RecordingInputs inputs;
  inputs.work = job.work;
  inputs.work.set("steps", s.steps());
  put_settings(inputs.work, flags.optimiser);
  inputs.work.set("beta1", s.adam.beta1)
      .set("beta2", s.adam.beta2)
      .set("eps", s.adam.eps)
      .set("end_token", end ? json::Value(int64_t{*end}) : json::Value())
      .set("eval", hash(records.held_out))
      .set("stop", hash(records.stop))
      .set("drift", hash(records.drift))
      .set("stop_loss", flags.stop_loss ? json::Value(*flags.stop_loss) : json::Value())
      .set("routing", tuning_json(flags.tuning));
  // A manifest of a training without one says nothing of it.
  if (teacher) inputs.work.set("teacher", teacher_json(flags.teacher, *teacher));
  return manifest_of_records(flags.common, session, session, records.data, std::move(inputs), training_schema, argc,
                             argv);
}

std::string interval_of(const CsvTable& table, size_t row) {
  const auto bound = [&](const char* column) {
    const std::string& cell = table.text(row, table.column(column));
    return cell.empty() ? std::string("-") : four_places(std::stod(cell));
  };
  return "[" + bound("ci_lo") + ", " + bound("ci_hi") + "]";
}

// The last line of drift.csv in words.
std::string drift_line(const fs::path& file) {
  const CsvTable table = CsvTable::read(file);
  const size_t all = table.n_rows() - 1;
  const auto of = [&](const char* column) { return four_places(table.number(all, table.column(column))); };
  return "drift: " + of("changed_slots") + " of the route slots changed, weighted Jaccard " + of("jaccard_weighted") +
         ", KL " + of("kl") + ", usage entropy " + of("entropy_before") + " to " + of("entropy_after") +
         ", dead experts " + table.text(all, table.column("dead_before")) + " to " +
         table.text(all, table.column("dead_after")) + "\n";
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
  const std::string place = job.where.empty() ? (dir / job.result).string() : job.where;
  const auto held = [&](size_t row, const char* column) { return evals->number(row, evals->column(column)); };
  // eval.csv and stop.csv have the same steps.
  const size_t eval_row = !evals ? 0 : stops ? best : evals->n_rows() - 1;
  if (flags.common.json) {
    json::Value line = json::Value::object();
    line.set(job.what, place)
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
  std::string text = "loss " + four_places(log.number(0, loss)) + " in step 1, " + four_places(log.number(last, loss)) +
                     " in step " + std::to_string(steps) + "\n";
  if (stops)
    text += "kept: step " + std::to_string(kept_step) + ", loss " +
            four_places(stops->number(best, stops->column("loss"))) + " of the records to stop by" +
            (kept_step == steps ? ""
                                : ", " + four_places(stops->number(stops->n_rows() - 1, stops->column("loss"))) +
                                      " in step " + std::to_string(steps)) +
            "\n";
  if (evals) {
    text += "held out " + four_places(held(eval_row, "loss")) + ", change " + four_places(held(eval_row, "change")) +
            " " + interval_of(*evals, eval_row);
    if (eval_row + 1 < evals->n_rows())
      text += " (in step " + std::to_string(steps) + ": " + four_places(held(evals->n_rows() - 1, "loss")) + ")";
    text += "\n";
  }
  if (!flags.drift.empty()) text += drift_line(dir / drift_file);
  if (job.told) text += job.told();
  write_stdout(text + "the " + job.what + ": " + place + "\n");
}

void write_drift(const TrainingFlags& flags, Session& session, const Weights& before,
                 const std::vector<Example>& examples) {
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  Forward was(*session.backend, session.model, before, 0), is = session.forward(0);
  write_file_atomically(fs::path(flags.out) / drift_file,
                        drift_csv(route_drift(was, is, pointers, flags.settings.groups)));
}

}  // namespace

void add_training_flags(CLI::App& command, TrainingFlags& flags, const std::string& out) {
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
  command.add_option("--steps", flags.steps, "steps of the optimiser")
      ->check(in_range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->required();
  add_optimiser_options(command, flags.optimiser);
  TrainingSettings& s = flags.optimiser.settings;
  command.add_option("--beta1", s.adam.beta1, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  command.add_option("--beta2", s.adam.beta2, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  command.add_option("--eps", s.adam.eps, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  command
      .add_option("--drift", flags.drift,
                  "records of other text: how the training changed their routes and predictions goes to drift.csv")
      ->type_name("FILE");
  add_encoding_options(command, flags.common);
  add_routing_flags(command, flags.routing);
  add_teacher_flags(command, flags.teacher);
}

void check_training_flags(TrainingFlags& flags) {
  TrainingSettings& s = flags.settings = training_settings(flags.optimiser, flags.common, flags.steps);
  if (s.adam.beta1 >= 1 || s.adam.beta2 >= 1) throw UsageError("--beta1, --beta2", "expected numbers below 1, found 1");
  if (!flags.stop.empty() && s.save_every == 0)
    throw UsageError("--stop", "expected --save-every N beside it, the steps between two looks, found 0");
  if (flags.stop.empty() && flags.stop_loss) throw UsageError("--stop-loss", "expected --stop beside it, found none");
  if ((flags.data == "-") + (flags.held_out == "-") + (flags.stop == "-") + (flags.drift == "-") > 1)
    throw UsageError("--data, --eval, --stop, --drift", "expected - once, found it twice");
  s.stop_loss = flags.stop_loss;
  flags.tuning = tuning_of(flags.routing);
  check_teacher_loss(flags.teacher.how);
}

TrainingRecords read_training_records(const TrainingFlags& flags) {
  TrainingRecords records;
  for (const auto& [file, to] : {std::pair(&flags.data, &records.data), std::pair(&flags.held_out, &records.held_out),
                                 std::pair(&flags.stop, &records.stop), std::pair(&flags.drift, &records.drift)}) {
    if (file->empty()) continue;
    *to = read_records(*file);
    if (to->empty()) throw Error(*file, "expected at least one record, found none");
  }
  refuse_common_prompts(records.data, "learn by", records.stop, "stop by");
  refuse_common_prompts(records.stop, "stop by", records.held_out, "judge by");
  return records;
}

void keep_training_date(const TrainingFlags& flags, Session& session, const TrainingRecords& records) {
  std::vector<Record> all = records.data;
  for (const std::vector<Record>* list : {&records.held_out, &records.stop, &records.drift})
    all.insert(all.end(), list->begin(), list->end());
  keep_date_of(flags.out, flags.common, session, all, training_schema);
}

int run_training(const TrainingFlags& flags, Session& session, TrainingRecords& records, const TrainingJob& job,
                 int argc, char** argv) {
  const CommonOptions& options = flags.common;
  keep_training_date(flags, session, records);
  const std::optional<int32_t> end =
      end_token_of(session, flags.optimiser, {&records.data, &records.held_out, &records.stop, &records.drift});
  Training training;
  training.data = make_examples(session, records.data, end);
  training.held_out = make_examples(session, records.held_out, end);
  training.stop = make_examples(session, records.stop, end);
  const std::vector<Example> drift = make_examples(session, records.drift, end);
  training.session = &session;
  training.trained = job.trained;
  training.routing = job.routing;
  const std::unique_ptr<TeacherModel> teacher = open_teacher(flags.teacher, session);
  if (teacher) training.objective = teacher->objective.get();
  training.dir = flags.out;
  training.settings = flags.settings;
  training.result = job.result;
  training.write_result = [&] {
    if (!drift.empty()) write_drift(flags, session, *job.before, drift);
    job.write_result();
  };
  training.manifest = manifest_of(flags, session, records, end, job, teacher.get(), argc, argv);
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
    progress.say("step " + std::to_string(step) + " loss " + four_places(loss));
    progress.update(tokens);
  };
  const auto change = [](const MeanEstimate& of) {
    return "change " + four_places(of.mean) + " [" + four_places(of.ci.lo) + ", " + four_places(of.ci.hi) + "]";
  };
  training.on_eval = [&](int64_t step, const MeanEstimate& of, double loss) {
    tell("held out, step " + std::to_string(step) + ": loss " + four_places(loss) + ", " + change(of));
  };
  training.on_look = [&](const Stopping::Look& look) {
    tell("to stop by, step " + std::to_string(look.step) + ": loss " + four_places(look.loss) + ", " +
         change(look.change) + (look.kept ? ", kept" : ""));
  };
  const TrainingEnd ended = train::train(training);
  progress.done();
  if (const int code = tell_training_end(ended, options, flags.out); code != 0) return code;
  print_result(flags, job);
  return 0;
}

}  // namespace signalbox::tools
