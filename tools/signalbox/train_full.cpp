// signalbox train full: chosen weights of a model, or all of them, trained on records (docs/training.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/csv.h"
#include "eval/routing/recording_identity.h"
#include "loaders/model/rewrite.h"
#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/train.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "train/trained_weights.h"
#include "train/training.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

struct TrainFlags {
  CommonOptions common;
  std::string data, held_out, out, weights = "*", shape = "constant";
  TrainingSettings settings;
  bool no_end_token = false;
};

std::string fixed(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", x);
  return text;
}

CLI::App* add_flags(CLI::App& app, TrainFlags& flags) {
  TrainingSettings& s = flags.settings;
  CLI::App* full = app.add_subcommand("full", "weights themselves, all or chosen ones (docs/training.md)");
  full->footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox train full "
      "builtin "
      "--data - --weights 'expert.*' --steps 3 --lr 1e-4 --out /tmp/trained");
  full->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_device_options(*full, flags.common);
  full->add_option("--data", flags.data, "records to learn, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  full->add_option("--out", flags.out, "directory of log.csv, eval.csv and the checkpoint model/")
      ->type_name("DIR")
      ->required();
  full->add_option("--weights", flags.weights,
                   "weights that change, globs separated by commas (router, layer.3.expert.5.*, ...); all others stay "
                   "bit by bit")
      ->type_name("GLOBS")
      ->capture_default_str();
  full->add_option("--eval", flags.held_out, "records held out: their loss goes to eval.csv")->type_name("FILE");
  full->add_option("--steps", s.schedule.steps, "steps of the optimiser")
      ->check(in_range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->required();
  full->add_option("--lr", s.lr, "learning rate")->check(in_range(0.0, 1e6))->capture_default_str();
  full->add_option("--batch", s.batch, "records of a step")
      ->check(in_range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  full->add_option("--schedule", flags.shape, "constant, linear or cosine")
      ->check(one_of({"constant", "linear", "cosine"}))
      ->capture_default_str();
  full->add_option("--warmup", s.schedule.warmup, "steps in which the rate rises")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  full->add_option("--final-lr", s.schedule.end, "share of the rate that is left at the end (linear, cosine)")
      ->check(in_range(0.0, 1.0))
      ->capture_default_str();
  full->add_option("--decay", s.adam.decay, "weight decay of matrices other than routers")
      ->check(in_range(0.0, 1e6))
      ->capture_default_str();
  full->add_option("--beta1", s.adam.beta1, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  full->add_option("--beta2", s.adam.beta2, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  full->add_option("--eps", s.adam.eps, "of AdamW")->check(in_range(0.0, 1.0))->capture_default_str();
  full->add_option("--clip", s.clip, "largest norm of the gradient; 0: any")
      ->check(in_range(0.0, 1e30))
      ->capture_default_str();
  full->add_option("--save-every", s.save_every,
                   "steps between states to go on from, and between rows of eval.csv; 0: "
                   "only at the end")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  full->add_option("--chunk", s.groups.tokens, "tokens of one forward, but at least one record; changes no bit")
      ->check(in_range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  full->add_flag("--no-end-token", flags.no_end_token, "no end token behind targets");
  full->add_option("--special", flags.common.special,
                   "special tokens spelt out in prompts and messages: parse | template-only (they stay text)")
      ->check(one_of({"parse", "template-only"}))
      ->capture_default_str();
  full->add_option("--template-variables", flags.common.template_variables, "a JSON object for the chat template")
      ->type_name("JSON");
  full->add_option("--date", flags.common.date, "date that chat templates see, YYYY-MM-DD (default: today)")
      ->type_name("DATE")
      ->check(date_validator());
  return full;
}

void check_flags(TrainFlags& flags) {
  TrainingSettings& s = flags.settings;
  s.schedule.shape = parse_shape(flags.shape, "--schedule");
  if (s.schedule.warmup >= s.schedule.steps)
    throw UsageError("--warmup", "expected fewer than the " + std::to_string(s.schedule.steps) + " steps, found " +
                                     std::to_string(s.schedule.warmup));
  if (s.schedule.shape == Shape::constant && s.schedule.end > 0)
    throw UsageError("--final-lr", "expected --schedule linear or cosine beside it, found constant");
  if (s.adam.beta1 >= 1 || s.adam.beta2 >= 1) throw UsageError("--beta1, --beta2", "expected numbers below 1, found 1");
  s.seed = flags.common.seed;
  s.threads = n_threads(flags.common);
}

Manifest manifest_of(const TrainFlags& flags, const Session& session, const std::vector<Record>& data,
                     const std::vector<Record>& held_out, const std::vector<std::string>& names,
                     std::optional<int32_t> end, int argc, char** argv) {
  const TrainingSettings& s = flags.settings;
  json::Value trained = json::Value::array();
  for (const std::string& name : names) trained.push_back(name);
  RecordingInputs inputs;
  inputs.model = model_facts(session, flags.common.quiet);
  inputs.work = json::Value::object()
                    .set("training", "full")
                    .set("weights", std::move(trained))
                    .set("steps", s.steps())
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
                    .set("end_token", end ? json::Value(int64_t{*end}) : json::Value())
                    .set("eval", held_out.empty() ? json::Value() : json::Value(records_hash(held_out)));
  inputs.data_hash = records_hash(data);
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

// What log.csv and eval.csv say of the whole.
void print_result(const TrainFlags& flags, const TrainedWeights& weights) {
  const fs::path dir = flags.out;
  const CsvTable log = CsvTable::read(dir / train::log_file);
  const size_t last = log.n_rows() - 1, loss = log.column("loss");
  std::optional<CsvTable> evals;
  if (!flags.held_out.empty()) evals = CsvTable::read(dir / eval_file);
  const auto held = [&](const char* column) { return evals->number(evals->n_rows() - 1, evals->column(column)); };
  if (flags.common.json) {
    json::Value line = json::Value::object();
    line.set("model", (dir / checkpoint_dir).string())
        .set("steps", log.integer(last, log.column("step")))
        .set("tokens", log.integer(last, log.column("tokens")))
        .set("trained_values", weights.n_values())
        .set("first_loss", log.number(0, loss))
        .set("last_loss", log.number(last, loss));
    if (evals) line.set("held_out_loss", held("loss")).set("held_out_change", held("change"));
    write_stdout(json::dump(line) + "\n");
    return;
  }
  char text[200];
  std::snprintf(text, sizeof text, "loss %.4f in step 1, %.4f in step %ld\n", log.number(0, loss),
                log.number(last, loss), static_cast<long>(log.integer(last, log.column("step"))));
  write_stdout(text);
  if (evals) {
    const auto bound = [&](const char* column) {
      const std::string& cell = evals->text(evals->n_rows() - 1, evals->column(column));
      return cell.empty() ? std::string("-") : fixed(std::stod(cell));
    };
    write_stdout("held out " + fixed(held("loss")) + ", change " + fixed(held("change")) + " [" + bound("ci_lo") +
                 ", " + bound("ci_hi") + "]\n");
  }
  std::snprintf(text, sizeof text, "%ld of the model's values trained, in %zu tensors\n",
                static_cast<long>(weights.n_values()), weights.names().size());
  write_stdout(text);
  write_stdout("the model: " + (dir / checkpoint_dir).string() + "\n");
}

int run_full(TrainFlags& flags, int argc, char** argv) {
  check_flags(flags);
  const CommonOptions& options = flags.common;
  const std::vector<Record> data = read_records(flags.data);
  const std::vector<Record> held_out = flags.held_out.empty() ? std::vector<Record>() : read_records(flags.held_out);
  for (const auto& [file, records] : {std::pair(&flags.data, &data), std::pair(&flags.held_out, &held_out)})
    if (!file->empty() && records->empty()) throw Error(*file, "expected at least one record, found none");
  Session session = open_session(options);
  keep_date(options, session, data, training_schema);
  const std::vector<WantedWeight> wanted = wanted_weights(flags.weights, session);
  std::optional<int32_t> end;
  const auto has_target = [](const Record& record) { return record.target.has_value(); };
  if (!flags.no_end_token &&
      (std::any_of(data.begin(), data.end(), has_target) || std::any_of(held_out.begin(), held_out.end(), has_target)))
    end = end_token(session);
  Training training;
  training.data = make_examples(session, data, end);
  training.held_out = make_examples(session, held_out, end);
  TrainedWeights weights(session, wanted, flags.settings.threads);
  const Rewrite rewrite(resolve_model(options.model, builtin_files()).files, session.family, session.model);
  training.session = &session;
  training.trained = &weights;
  training.dir = flags.out;
  training.settings = flags.settings;
  training.manifest = manifest_of(flags, session, data, held_out, weights.names(), end, argc, argv);
  training.write_result = [&] {
    rewrite.write(weights.changed([&](const TensorId& id) { return rewrite.stored_dtype(id); }),
                  training.dir / checkpoint_dir);
  };
  if (!options.quiet && !session.unknown_tensors.empty())
    std::fprintf(stderr, "%zu stored tensors are not of the model and will not be written (%s, ...)\n",
                 session.unknown_tensors.size(), session.unknown_tensors.front().c_str());
  catch_signals();
  training.interrupted = &interrupted;
  tell_cpu_fallback(options, session);
  Progress progress("training", tokens_of_steps(training.data, flags.settings, flags.settings.steps()), options.quiet,
                    "tokens");
  training.on_kept = [&](int64_t step, int64_t tokens) {
    if (!options.quiet)
      std::fprintf(stderr, "%s: goes on behind step %ld\n", flags.out.c_str(), static_cast<long>(step));
    progress.start_at(tokens);
  };
  training.on_step = [&](int64_t step, int64_t tokens, double loss) {
    char text[96];
    std::snprintf(text, sizeof text, "step %ld loss %.4f", static_cast<long>(step), loss);
    progress.say(text);
    progress.update(tokens);
  };
  training.on_eval = [&](int64_t step, const MeanEstimate& change, double loss) {
    char text[160];
    std::snprintf(text, sizeof text, "held out, step %ld: loss %.4f, change %.4f [%.4f, %.4f]", static_cast<long>(step),
                  loss, change.mean, change.ci.lo, change.ci.hi);
    progress.done();
    if (!options.quiet) std::fprintf(stderr, "%s\n", text);
  };
  const TrainingEnd ended = train::train(training);
  progress.done();
  if (ended == TrainingEnd::interrupted) {
    std::fprintf(stderr, "interrupted: the same command goes on from here\n");
    return 3;
  }
  if (!options.quiet && ended == TrainingEnd::was_complete)
    std::fprintf(stderr, "%s: was complete\n", flags.out.c_str());
  print_result(flags, weights);
  return 0;
}

}  // namespace

Subcommand add_train_full(CLI::App& app) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* added = add_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_full(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
