// signalbox causal effects: what edits do to a metric, through later routes and otherwise (docs/causal-effects.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include "base/files.h"
#include "base/text_table.h"
#include "eval/causal/effects.h"
#include "eval/causal/neuron_dose.h"
#include "eval/findings/format.h"
#include "eval/store/kept_work.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/causal.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/kept.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/warning.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct EffectsFlags {
  CommonOptions common;
  std::string input, metric, hold = "ids", neuron, dose, change = "set", reference;
};

constexpr const char* effects_schema = "signalbox.effects/1";
const std::vector<std::string> effects_files = {"effects.csv", "propagation.csv", "summary.json"},
                               dose_files = {"dose.csv", "summary.json"},
                               all_effects_files = {"effects.csv", "propagation.csv", "dose.csv", "summary.json"};

CLI::App* add_effects_flags(CLI::App& app, EffectsFlags& flags) {
  CLI::App* effects = app.add_subcommand(
      "effects", "what edits do: in all, with later routes held, through routes alone (docs/causal-effects.md)");
  effects->footer(
      "Example:\n  echo '{\"edits\":[{\"op\":\"deactivate\",\"mode\":\"ban\",\"experts\":{\"1\":[0,6]}}]}' > "
      "/tmp/ban.json\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox causal "
      "effects builtin --input - --metric logprob --edits /tmp/ban.json --out /tmp/effects\n\n"
      "Records are run one by one: the second half of a record's four runs holds routes that the first half made,\n"
      "and every layer of each is kept to compare. Its tokens go together (--chunk), over all --threads.");
  add_run_options(*effects, flags.common);
  say_batch_changes_nothing(*effects);
  effects->add_option("--input", flags.input, "records, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  effects->add_option("--metric", flags.metric, "logprob, nll, logit_diff or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  effects
      ->add_option("--hold", flags.hold,
                   "what of later routes is held: ids (weights by the model's rule) or weights too")
      ->check(one_of({"ids", "weights"}))
      ->capture_default_str();
  effects
      ->add_option("--neuron", flags.neuron,
                   "LAYER:EXPERT:NEURON, in the place of --edits: what other values of this neuron do, wherever its "
                   "expert is selected")
      ->type_name("L:E:J");
  effects->add_option("--dose", flags.dose,
                      "with --neuron: quantiles (0, mean and p01 to p99 of its own values), or numbers with commas");
  effects->add_option("--change", flags.change, "with --neuron: set it to the dose, add the dose, or scale by it")
      ->check(one_of({"set", "add", "scale"}))
      ->capture_default_str();
  effects
      ->add_option("--reference", flags.reference,
                   "with --dose quantiles: records whose values count; default: the input")
      ->type_name("FILE");
  effects->add_option("--out", flags.common.trace, "directory of the tables")->type_name("DIR")->required();
  return effects;
}

std::optional<double> number_in(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value)) return std::nullopt;
  return value;
}

NeuronPlace read_neuron(const std::string& text) {
  NeuronPlace place;
  int32_t* const parts[] = {&place.layer, &place.expert, &place.neuron};
  size_t begin = 0;
  for (size_t i = 0; i < 3; ++i) {
    const size_t end = i < 2 ? text.find(':', begin) : text.size();
    const std::string part = end == std::string::npos ? "" : text.substr(begin, end - begin);
    if (part.empty() || part.size() > 8 || part.find_first_not_of("0123456789") != std::string::npos)
      throw UsageError("--neuron", "expected LAYER:EXPERT:NEURON such as 3:12:40, found \"" + text + "\"");
    *parts[i] = std::stoi(part);
    begin = end + 1;
  }
  return place;
}

// None: quantiles.
std::vector<Dose> read_doses(const std::string& text) {
  std::vector<Dose> doses;
  if (text == "quantiles") return doses;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const std::optional<double> value = number_in(part);
    if (!value) throw UsageError("--dose", "expected quantiles, or numbers with commas, found \"" + text + "\"");
    doses.push_back({part, *value});
    begin = end + 1;
  }
  return doses;
}

void check_flags(const EffectsFlags& flags) {
  if (flags.neuron.empty()) {
    if (flags.common.edits.empty())
      throw UsageError("--edits", "expected the edits whose effect is asked for, or --neuron, found none");
    for (const auto& [flag, given] :
         {std::pair("--dose", !flags.dose.empty()), std::pair("--change", flags.change != "set"),
          std::pair("--reference", !flags.reference.empty())})
      if (given) throw UsageError(flag, "expected --neuron beside it, found none");
    return;
  }
  if (!flags.common.edits.empty()) throw UsageError("--neuron", "expected no --edits beside it, found some");
  if (flags.dose.empty()) throw UsageError("--dose", "expected quantiles, or numbers with commas, found none");
  if (flags.dose == "quantiles" && flags.change != "set")
    throw UsageError("--dose", "expected numbers with --change " + flags.change + ", found quantiles");
  if (flags.dose != "quantiles" && !flags.reference.empty())
    throw UsageError("--reference", "expected --dose quantiles beside it, found " + flags.dose);
}

// One command's work: what it shares between its two forms.
struct EffectsRun {
  const EffectsFlags& flags;
  const Session& session;
  PreparedRun& run;
  EffectsRequest request;
  KeptWork work;

  // False when interrupted.
  std::optional<Effects> measure(const RecordJobs& made, const std::string& stage) {
    request.kept = {work.stage(stage), tell_kept(flags.common)};
    Progress progress("measuring " + stage, effects_tokens(made), flags.common.quiet, "tokens");
    request.on_progress = [&](int64_t tokens) { progress.update(tokens); };
    Effects effects = measure_effects(session, run.records, made, request);
    progress.done();
    if (!effects.interrupted) return effects;
    work.interrupt();
    tell_interrupted(flags.common);
    return std::nullopt;
  }
};

std::string interval_text(const MeanEstimate& of) {
  return format_value(of.mean, 4) + " [" + format_value(of.ci.lo, 4) + ", " + format_value(of.ci.hi, 4) + "]";
}

int measure_edits(EffectsRun& of) {
  const CommonOptions& options = of.flags.common;
  const std::optional<Effects> found = of.measure(of.run.made, "effects");
  if (!found) return 3;
  const Effects& effects = *found;
  of.work.finish([&](const std::filesystem::path& dir) {
    write_effects(dir, effects, of.request, of.session, of.run.plan->source(), options.seed);
  });
  if (options.json) {
    for (const EffectsRow& row : effects.rows) {
      json::Value line = json::Value::object();
      line.set("id", row.id).set("base", row.base).set("total", row.total);
      const std::pair<const char*, double> parts[] = {
          {"direct", row.direct}, {"routes", row.routes}, {"interaction", row.interaction}};
      for (const auto& [name, value] : parts) line.set(name, std::isnan(value) ? json::Value() : json::Value(value));
      write_stdout(json::dump(line) + "\n");
    }
    return 0;
  }
  TextTable table({{"id", false, true}, {of.flags.metric}, {"total"}, {"direct"}, {"routes"}, {"interaction"}});
  for (const EffectsRow& row : effects.rows)
    table.add({row.id, format_value(row.base, 4), format_value(row.total, 4), format_value(row.direct, 4),
               format_value(row.routes, 4), format_value(row.interaction, 4)});
  write_stdout(table.text(terminal_width(1)));
  if (std::isnan(effects.rows.front().direct))
    tell_warning("the edits act up to the last layer with a router: there are no later routes to hold");
  return 0;
}

int measure_doses(EffectsRun& of, const std::optional<std::vector<Record>>& reference) {
  const CommonOptions& options = of.flags.common;
  const NeuronPlace place = read_neuron(of.flags.neuron);
  const DoseKind kind = of.flags.change == "set"   ? DoseKind::set
                        : of.flags.change == "add" ? DoseKind::add
                                                   : DoseKind::scale;
  const auto values = neuron_values(of.session, of.run.made.jobs, place);
  if (std::all_of(values.begin(), values.end(), [](const auto& one) { return one.empty(); }))
    throw Error("--neuron", "expected an expert that some token of the input selects, found none in " +
                                std::to_string(of.run.records.size()) + " records");
  std::vector<Dose> doses = read_doses(of.flags.dose);
  if (doses.empty())
    doses = quantile_doses(
        reference ? neuron_values(of.session, make_jobs(of.session, *reference, Generate{}, nullptr).jobs, place)
                  : values);
  std::vector<DoseRow> rows;
  for (size_t i = 0; i < doses.size(); ++i) {
    const DosedJobs dosed = dosed_jobs(of.session, of.run.made, values, place, kind, doses[i].value);
    of.request.memory = [&](size_t record) { return &dosed.memories[record]; };
    const std::optional<Effects> effects = of.measure(dosed.made, "dose-" + std::to_string(i + 1));
    if (!effects) return 3;
    rows.push_back(dose_row(doses[i], *effects, of.run.records, values, options.seed));
  }
  of.work.finish([&](const std::filesystem::path& dir) {
    write_file_atomically(dir / "dose.csv", dose_table(rows, of.request.metric));
    write_file_atomically(
        dir / "summary.json",
        json::dump(json::Value::object()
                       .set("schema", effects_schema)
                       .set("metric", of.flags.metric)
                       .set("held", of.request.holds_weights ? "ids and weights" : "ids")
                       .set("neuron", of.flags.neuron)
                       .set("change", of.flags.change)
                       .set("dose", of.flags.dose)
                       .set("ablation", "the neuron's value: " + of.flags.change)
                       .set("reference", reference ? json::Value(records_hash(*reference)) : json::Value("input"))
                       .set("model", of.session.label)
                       .set("model_hash", of.session.model_hash)
                       .set("records", static_cast<int64_t>(of.run.records.size()))
                       .set("selecting_records", rows.front().records)
                       .set("split", nullptr)
                       .set("seed", options.seed)) +
            "\n");
  });
  if (options.json) {
    write_stdout(json::dump(json::parse_file(of.work.dir() / "summary.json")) + "\n");
    return 0;
  }
  TextTable table({{"dose", false, true}, {"value"}, {"change of " + of.flags.metric}, {"direct"}, {"routes"}});
  for (const DoseRow& row : rows)
    table.add({row.dose.name, format_value(row.dose.value, 4), interval_text(row.total), interval_text(row.direct),
               interval_text(row.routes)});
  write_stdout(table.text(terminal_width(1)));
  return 0;
}

int run_effects(EffectsFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  check_flags(flags);
  EffectsRequest request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.holds_weights = flags.hold == "weights";
  request.edits_dir = std::filesystem::path(options.edits).parent_path();
  request.seed = options.seed;
  if (!flags.neuron.empty()) {
    read_neuron(flags.neuron);
    read_doses(flags.dose);
  }
  require_own_directory(options.trace, kept_work_names(all_effects_files), "effects");
  std::vector<Record> records = read_records(flags.input);
  check_edits(options, records, "causal effects has only given tokens");
  std::optional<std::vector<Record>> reference;
  if (!flags.reference.empty()) reference = read_records(flags.reference);
  Session session = open_session(options);
  session.label = session.path;
  keep_date(options, session, records, effects_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  for (size_t i = 0; i < run.records.size(); ++i)
    metric_rows(request.metric, run.records[i], run.made.encoded[i], session.encode);
  if (!flags.neuron.empty()) check_neuron(session, read_neuron(flags.neuron));
  JobsOfCommand work;
  work.schema = effects_schema;
  json::Value effects = json::Value::object();
  effects.set("metric", flags.metric).set("hold", flags.hold).set("neuron", flags.neuron).set("dose", flags.dose);
  effects.set("change", flags.change).set("reference", reference ? records_hash(*reference) : std::string());
  if (!session.backend->invariant()) effects.set("chunk", session.options.chunk);
  work.work.set("effects", std::move(effects));
  tell_cpu_fallback(options, session);
  catch_signals();
  request.interrupted = &interrupted;
  EffectsRun of{flags, session, run, request,
                KeptWork(options.trace, manifest_of_work(options, session, run, work, argc, argv),
                         flags.neuron.empty() ? effects_files : dose_files)};
  return flags.neuron.empty() ? measure_edits(of) : measure_doses(of, reference);
}

}  // namespace

Subcommand add_causal_effects(CLI::App& app) {
  auto flags = std::make_shared<EffectsFlags>();
  CLI::App* added = add_effects_flags(app, *flags);
  return {added, [flags](int argc, char** argv) { return run_effects(*flags, argc, argv); }};
}

}  // namespace signalbox::tools
