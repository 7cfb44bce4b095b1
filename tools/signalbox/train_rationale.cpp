// signalbox train rationale: tokens shared out among factors, learnt from states of an encoder (docs/rationales.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>

#include "base/csv.h"
#include "base/text.h"
#include "base/text_table.h"
#include "eval/findings/format.h"
#include "eval/store/facts.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/rationale.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/train.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"
#include "train/rationale/factor_study.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

struct RationaleFlags {
  CommonOptions common;
  std::string encoder, data, out, recipe = "document", weights, target, start, level = "word", schedule;
  std::vector<int64_t> n_factors;
  std::vector<std::string> label_spans;
  int64_t n_seeds = 1, d_factor = 0, epochs = 0, batch = 0, save_every = 0, resamples = 0, permutations = 0;
  double lr = 0, decay = 0, warmup = 0, end = 0, clip = 0, ramp = 0;
  bool standardize = false, as_is = false, shared = false;
  FactorFormFlags forms;
};

CLI::App* add_rationale_flags(CLI::App& app, RationaleFlags& f) {
  CLI::App* c = app.add_subcommand("rationale", "tokens shared out among factors (docs/rationales.md)");
  c->footer(
      "Example:\n  signalbox train rationale --encoder builtin:layer.1.resid_mid --data "
      "tools/builtin/heldout/choices.jsonl --label-spans question,document --factors 2 --recipe clusters --epochs 2 "
      "--out /tmp/factors");
  c->add_option("--encoder", f.encoder,
                "MODEL:POINT, rows of a probe point of a model's run on the records, or a safetensors file of hidden "
                "[rows, d], offsets [S+1], target [S, d_e] and, where rows are not words, words [rows]")
      ->type_name("NAME")
      ->required();
  c->add_option("--data", f.data,
                "the sentences: records, with gold labels in `tags` (of `words`) where there are some, and `split` "
                "train, validation or test; - = standard input")
      ->type_name("FILE")
      ->required();
  c->add_option("--factors", f.n_factors, "how many factors; several numbers are compared and one is chosen")
      ->delimiter(',')
      ->check(in_range(int64_t{1}, int64_t{4096}))
      ->required();
  c->add_option("--out", f.out, "directory of factors.safetensors, weights.safetensors, metrics.csv and prf.csv")
      ->type_name("DIR")
      ->required();
  c->add_option("--seeds", f.n_seeds, "models of each number of factors, from --seed on")
      ->check(in_range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  c->add_option("--recipe", f.recipe, "document | clusters | repository: what all flags below begin with")
      ->check(one_of({"document", "clusters", "repository"}))
      ->capture_default_str();
  c->add_option("--weights", f.weights,
                "of the losses: sentence=1,token=0.5,... (others 0); entropy, overlap, diversity, balance, continuity")
      ->type_name("LIST");
  add_factor_form_options(*c, f.forms);
  auto* standardize = c->add_flag("--standardize", f.standardize,
                                  "states and embeddings minus their mean, divided by the root of their mean square");
  c->add_flag("--as-is", f.as_is, "states and embeddings as they are")->excludes(standardize);
  c->add_option("--start", f.start, "random | tokens: where the gate begins: anywhere, or at states that lie apart")
      ->check(one_of({"random", "tokens"}));
  c->add_option("--d-factor", f.d_factor, "width of z behind f; default: that of the states")
      ->check(in_range(int64_t{1}, int64_t{1} << 20));
  c->add_flag("--shared", f.shared, "one f for all factors");
  c->add_option("--target", f.target,
                "mean | last | file: the embedding of a sentence: mean or last of its states, or the file's own; "
                "default: mean of a model, file of a file")
      ->check(one_of({"mean", "last", "file"}));
  c->add_option("--label-spans", f.label_spans, "spans of the records that are gold labels, where they have no tags")
      ->delimiter(',')
      ->type_name("NAME");
  c->add_option("--level", f.level, "word | sub-word: what labels are compared by")
      ->check(one_of({"word", "sub-word"}))
      ->capture_default_str();
  c->add_option("--epochs", f.epochs, "passes over the training part")->check(in_range(int64_t{1}, int64_t{1} << 30));
  c->add_option("--batch", f.batch, "sentences of a step")->check(in_range(int64_t{1}, int64_t{1} << 30));
  c->add_option("--lr", f.lr, "learning rate (0.01, of the recipe repository 5e-5)")->check(in_range(0.0, 1e6));
  c->add_option("--schedule", f.schedule, "constant, linear or cosine")
      ->check(one_of({"constant", "linear", "cosine"}));
  c->add_option("--warmup", f.warmup, "share of the steps in which the rate rises")->check(in_range(0.0, 1.0));
  c->add_option("--final-lr", f.end, "share of the rate that is left at the end")->check(in_range(0.0, 1.0));
  c->add_option("--decay", f.decay, "weight decay")->check(in_range(0.0, 1e6));
  c->add_option("--clip", f.clip, "largest norm of the gradient; 0: any")->check(in_range(0.0, 1e30));
  c->add_option("--entropy-ramp", f.ramp, "share of the steps in which the entropy's weight rises from 0")
      ->check(in_range(0.0, 1.0));
  c->add_option("--save-every", f.save_every, "steps between states to go on from; 0: at the end of an epoch")
      ->check(in_range(int64_t{0}, int64_t{1} << 40));
  c->add_option("--resamples", f.resamples, "replicates of intervals")->check(in_range(int64_t{1}, int64_t{100000000}));
  c->add_option("--permutations", f.permutations, "shufflings of labels over sentences, the control")
      ->check(in_range(int64_t{0}, int64_t{1000000}));
  add_device_options(*c, f.common);
  add_adapter_option(*c, f.common);
  c->add_option("--special", f.common.special,
                "special tokens spelt out in prompts and messages: parse | template-only (they stay text)")
      ->check(one_of({"parse", "template-only"}))
      ->capture_default_str();
  c->add_option("--template-variables", f.common.template_variables, "a JSON object for the chat template")
      ->type_name("JSON");
  c->add_option("--date", f.common.date, "date that chat templates see, YYYY-MM-DD (default: today)")
      ->type_name("DATE")
      ->check(date_validator());
  return c;
}

FactorSettings settings_of_flags(const RationaleFlags& f, const CLI::App& c) {
  FactorSettings s = factor_recipe(f.recipe, "--recipe");
  read_factor_forms(f.forms, s.forms);
  if (!f.weights.empty()) s.weights = parse_factor_weights(f.weights, "--weights");
  const auto set = [&](const char* flag, auto& to, const auto& value) {
    if (c.count(flag) > 0) to = value;
  };
  set("--standardize", s.standardize, true);
  set("--as-is", s.standardize, false);
  set("--shared", s.shared, true);
  set("--d-factor", s.d_factor, f.d_factor);
  set("--epochs", s.epochs, f.epochs);
  set("--batch", s.batch, f.batch);
  set("--lr", s.lr, f.lr);
  set("--warmup", s.warmup, f.warmup);
  set("--final-lr", s.end, f.end);
  set("--decay", s.adam.decay, f.decay);
  set("--clip", s.clip, f.clip);
  set("--entropy-ramp", s.entropy_ramp, f.ramp);
  set("--save-every", s.save_every, f.save_every);
  set("--resamples", s.resamples, f.resamples);
  set("--permutations", s.permutations, f.permutations);
  if (!f.start.empty()) s.start = f.start == "tokens" ? FactorSettings::Start::tokens : FactorSettings::Start::random;
  if (!f.schedule.empty()) s.schedule = parse_shape(f.schedule, "--schedule");
  if (s.schedule == Shape::constant && c.count("--final-lr") > 0 && s.end > 0)
    throw UsageError("--final-lr", "expected --schedule linear or cosine beside it, found constant");
  s.word_level = f.level == "word";
  return s;
}

json::Value settings_json(const FactorSettings& s) {
  json::Value weights = json::Value::object();
  for (size_t i = 0; i < n_factor_losses; ++i) weights.set(factor_loss_names[i], s.weights[i]);
  const char* diversities[] = {"gram", "cosine", "covariance"};
  json::Value value = json::Value::object();
  value.set("d_factor", s.d_factor)
      .set("shared", s.shared)
      .set("normalize", s.forms.normalize)
      .set("sentence", s.forms.sentence == FactorForms::Sentence::infonce ? "infonce" : "squared")
      .set("temperature", s.forms.temperature)
      .set("per", s.forms.per_token ? "token" : "sentence")
      .set("balance", s.forms.balance == FactorForms::Balance::batch ? "batch" : "sentence")
      .set("diversity", diversities[static_cast<size_t>(s.forms.diversity)])
      .set("weights", std::move(weights))
      .set("standardize", s.standardize)
      .set("start", s.start == FactorSettings::Start::tokens ? "tokens" : "random")
      .set("entropy_ramp", s.entropy_ramp)
      .set("epochs", s.epochs)
      .set("batch", s.batch)
      .set("lr", s.lr)
      .set("schedule", std::string(shape_name(s.schedule)))
      .set("warmup", s.warmup)
      .set("final_lr", s.end)
      .set("decay", s.adam.decay)
      .set("clip", s.clip)
      .set("save_every", s.save_every)
      .set("level", s.word_level ? "word" : "sub-word")
      .set("resamples", s.resamples)
      .set("permutations", s.permutations);
  return value;
}

void print_study(const RationaleFlags& flags, const FactorChoice& chosen) {
  const fs::path dir = flags.out;
  const CsvTable prf = CsvTable::read(dir / factor_prf);
  if (flags.common.json) {
    json::Value line = json::parse_file(dir / "summary.json"), scores = json::parse_file(dir / factor_scores_file);
    write_stdout(json::dump(line.set("scores", std::move(scores))) + "\n");
    return;
  }
  if (prf.n_rows() > 0) {
    TextTable table({{"factor"}, {"label", true}, {"F1"}, {"95 %"}, {"all tokens"}, {"random"}, {"best at balance"}});
    for (size_t row = 0; row < prf.n_rows(); ++row) {
      const auto cell = [&](const char* column) {
        const std::string& text = prf.text(row, prf.column(column));
        return text.empty() ? text : format_value(std::stod(text), 3);
      };
      table.add({prf.text(row, prf.column("factor")), prf.text(row, prf.column("label")), cell("f1"),
                 cell("ci_lo") + " - " + cell("ci_hi"), cell("all_tokens"), cell("random"), cell("best_balanced")});
    }
    write_stdout(table.text(terminal_width(1)) + "\n");
  }
  std::string text = std::to_string(chosen.n_factors) + " factors, seed " + std::to_string(chosen.seed);
  if (flags.n_seeds > 1) text += ", agreement of seeds " + format_value(chosen.agreement, 3);
  write_stdout(text + "\nfiles: " + flags.out + "\n");
}

int run_rationale(RationaleFlags& flags, const CLI::App& command, int argc, char** argv) {
  CommonOptions& options = flags.common;
  FactorStudy study;
  study.settings = settings_of_flags(flags, command);
  study.n_factors = flags.n_factors;
  std::sort(study.n_factors.begin(), study.n_factors.end());
  if (std::adjacent_find(study.n_factors.begin(), study.n_factors.end()) != study.n_factors.end())
    throw UsageError("--factors", "expected different numbers, found one twice");
  study.seed = options.seed;
  study.n_seeds = flags.n_seeds;
  study.dir = flags.out;
  study.threads = n_threads(options);
  const size_t colon = flags.encoder.rfind(':');
  const bool of_file = fs::exists(flags.encoder) && !fs::is_directory(flags.encoder);
  if (!of_file && (colon == std::string::npos || colon == 0 || colon + 1 == flags.encoder.size()))
    throw UsageError("--encoder",
                     "expected MODEL:POINT or a safetensors file that exists, found " + in_quotes(flags.encoder));
  std::vector<Record> records = read_factor_records(flags.data, !of_file);
  if (records.empty()) throw Error(flags.data, "expected at least one record, found none");
  json::Value identity = json::Value::object();
  json::Value info = json::Value::object();
  FactorCorpus corpus;
  if (of_file) {
    for (const char* flag : {"--device", "--adapter", "--special", "--template-variables", "--date"})
      if (command.count(flag) > 0) throw UsageError(flag, "expected --encoder MODEL:POINT beside it, found a file");
    if (flags.target == "last")
      throw UsageError("--target", "expected mean or file beside an encoder's file, found last");
    if (!flags.label_spans.empty())
      throw UsageError("--label-spans", "expected --encoder MODEL:POINT beside it, found a file");
    corpus = read_factor_corpus(flags.encoder, records, flags.target == "mean");
    identity.set("encoder", json::Value::object().set("sha256", file_hash(flags.encoder)));
    info.set("encoder_file", flags.encoder);
  } else {
    if (flags.target == "file") throw UsageError("--target", "expected mean or last beside a model, found file");
    options.model = flags.encoder.substr(0, colon);
    const std::string point = flags.encoder.substr(colon + 1);
    Session session = open_session(options);
    keep_date_of(flags.out, options, session, records, rationale_schema);
    RecordingInputs inputs;
    inputs.points = point;
    Manifest encoder =
        manifest_of_records(options, session, session, records, std::move(inputs), rationale_schema, argc, argv);
    identity = std::move(encoder.identity);
    info = std::move(encoder.info);
    tell_cpu_fallback(options, session);
    Progress progress("running the encoder", static_cast<int64_t>(records.size()), options.quiet, "records");
    corpus =
        record_factor_corpus(session, point, records, flags.target == "last" ? FactorTarget::last : FactorTarget::mean,
                             [&](int64_t n) { progress.update(n); });
    progress.done();
  }
  add_factor_labels(corpus, records, flags.label_spans);
  add_factor_splits(corpus, records, options.seed);
  study.corpus = &corpus;
  json::Value factors = json::Value::array(), spans = json::Value::array();
  for (const int64_t k : study.n_factors) factors.push_back(k);
  for (const std::string& name : flags.label_spans) spans.push_back(name);
  identity.set("training", "rationale")
      .set("signalbox_version", SIGNALBOX_VERSION)
      .set("data", records_hash(records))
      .set("seed", static_cast<int64_t>(options.seed))
      .set("models_a_number", flags.n_seeds)
      .set("factors", std::move(factors))
      .set("recipe", flags.recipe)
      .set("target", flags.target.empty() ? (of_file ? "file" : "mean") : flags.target)
      .set("label_spans", std::move(spans))
      .set("settings", settings_json(study.settings));
  study.manifest.schema = rationale_schema;
  study.manifest.identity = std::move(identity);
  study.manifest.info = std::move(info);
  catch_signals();
  study.interrupted = &interrupted;
  const PreparedCorpus sizes = prepare_corpus(corpus, false);
  const int64_t steps = factor_steps(sizes, study.settings);
  const auto n_models = static_cast<int64_t>(study.n_factors.size()) * study.n_seeds;
  Progress progress("training", steps * n_models, options.quiet, "steps");
  study.on_kept = [&](int64_t model, int64_t step) { progress.start_at(model * steps + step); };
  study.on_step = [&](int64_t model, int64_t step, double loss) {
    char text[96];
    std::snprintf(text, sizeof text, "model %ld of %ld, loss %.4g", static_cast<long>(model + 1),
                  static_cast<long>(n_models), loss);
    progress.say(text);
    progress.update(model * steps + step);
  };
  FactorChoice chosen;
  const FactorStudyEnd ended = study_factors(study, chosen);
  progress.done();
  if (ended == FactorStudyEnd::interrupted) {
    std::fprintf(stderr, "interrupted: the same command goes on from here\n");
    return 3;
  }
  if (!options.quiet && ended == FactorStudyEnd::was_complete)
    std::fprintf(stderr, "%s: was complete\n", flags.out.c_str());
  print_study(flags, chosen);
  return 0;
}

}  // namespace

Subcommand add_train_rationale(CLI::App& app) {
  auto flags = std::make_shared<RationaleFlags>();
  CLI::App* added = add_rationale_flags(app, *flags);
  return {added, [flags, added](int argc, char** argv) { return run_rationale(*flags, *added, argc, argv); }};
}

}  // namespace signalbox::tools
