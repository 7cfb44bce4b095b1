// signalbox quantize: a checkpoint whose weights are blocks of 8 or 4 bits, and what that changes
// (docs/quantisation.md).
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "eval/compress/quantization.h"
#include "eval/compress/route_agreement.h"
#include "loaders/model/load.h"
#include "loaders/model/quantized.h"
#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/two_models.h"
#include "tools/terminal/output.h"
#include "tools/terminal/stage_progress.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

struct QuantizeFlags {
  CommonOptions common;
  std::string to, out, data;
  bool keep_head = false;
};

void add_options(CLI::App& app, QuantizeFlags& f) {
  app.add_option("MODEL", f.common.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(app, f.common);
  app.remove_option(app.get_option("--adapter"));
  refuse_adapter_option(app, "a checkpoint that has its adapters merged (docs/adapters.md), found one beside it");
  app.add_option("--to", f.to, "int8 (8.25 bits a weight) | int4 (4.5) | mxfp4 (4.25)")
      ->check(one_of({"int8", "int4", "mxfp4"}))
      ->required();
  app.add_option("--out", f.out, "write the checkpoint into this new directory")->type_name("MODELDIR")->required();
  app.add_option("--data", f.data,
                 "records on which the original and the quantised model are compared; - = standard input")
      ->type_name("FILE");
  app.add_flag("--keep-head", f.keep_head, "embedding and head stay as they are");
}

// Removes the directory that has not got its name.
struct Remover {
  const fs::path& path;
  ~Remover() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

class Quantizing {
 public:
  Quantizing(QuantizeFlags flags, const ResolvedModel& resolved, fs::path part)
      : flags_(std::move(flags)), resolved_(resolved), part_(std::move(part)), progress_(flags_.common.quiet) {}

  QuantizedCheckpoint write(const std::string& family, const Model& model, const Weights& weights) {
    QuantizeOptions options;
    options.to = families::format_of_word(flags_.to);
    options.keep_head = flags_.keep_head;
    options.threads = n_threads(flags_.common);
    fs::create_directories(model_dir());
    const auto progress = [&](uint64_t done, uint64_t total) {
      constexpr uint64_t megabyte = 1'000'000;
      progress_.update("quantising", static_cast<int64_t>(done / megabyte), static_cast<int64_t>(total / megabyte),
                       "MB");
    };
    made_ = write_quantized(*resolved_.files, family, model, weights, options, model_dir(), progress);
    progress_.end();
    return made_;
  }

  // The original on the records, then what was written.
  QuantizationQuality compare(OpenedModel& original, const std::vector<Record>& records, const RecordJobs& jobs) {
    const int threads = n_threads(flags_.common);
    const std::vector<int64_t> examples = example_labels(records);
    Session& session = original.session;
    QualityMeasure quality(jobs.jobs, examples, session.model.n_vocab, part_, threads, flags_.common.seed);
    RouteAgreement routes(session.shape, jobs.jobs, examples);
    QuantizationQuality out;
    out.original.plan = "original";
    out.quantized.plan = flags_.to;
    out.original.keep = out.quantized.keep = session.model.n_experts();
    const ParameterCount counted = count_parameters(session.model);
    out.original.parameters = out.quantized.parameters = counted.total;
    out.original.active_parameters = out.quantized.active_parameters = counted.active;
    for_each_file(out.original);
    out.quantized.bytes = made_.bytes;
    out.quantized.stored_bytes = made_.stored_bytes;
    {
      Forward forward = session.forward(0);
      out.original.quality =
          quality.original(forward, run_of(session), events("judging the original", quality.n_tokens()), &routes);
    }
    const RunOptions run = run_of(session);
    original.session.weights = Weights();  // a device with memory of its own holds one model at a time
    CommonOptions common = flags_.common;
    common.quiet = true;
    common.model = model_dir().string();
    OpenedModel quantized(common, common.model);
    routes.compare();
    Forward forward = quantized.session.forward(0);
    ComparedRun with;
    with.beside = &routes;
    out.quantized.quality = quality.compared(forward, run, events("judging " + flags_.to, quality.n_tokens()), with);
    out.route_agreement = routes.estimate(flags_.common.seed, threads);
    progress_.end();
    return out;
  }

  fs::path model_dir() const { return part_ / "model"; }

 private:
  static RunOptions run_of(const Session& session) {
    RunOptions run = session.options;
    run.interrupted = nullptr;  // progress ends the command
    return run;
  }
  RunEvents events(const std::string& stage, int64_t total) {
    RunEvents events;
    events.on_progress = [this, stage, total](int64_t done) { progress_.update(stage, done, total, "tokens"); };
    return events;
  }
  // The original's tensors, and its files.
  void for_each_file(QualityRow& row) const {
    const Checkpoint checkpoint = Checkpoint::open(*resolved_.files);
    for (const auto& file : checkpoint.files()) {
      row.stored_bytes += static_cast<int64_t>(file->file_bytes());
      for (const auto& tensor : file->tensors()) row.bytes += static_cast<int64_t>(tensor.bytes);
    }
  }

  QuantizeFlags flags_;
  const ResolvedModel& resolved_;
  fs::path part_;
  StageProgress progress_;
  QuantizedCheckpoint made_;
};

json::Value summary_json(const QuantizeFlags& f, const std::string& model, const std::string& model_hash,
                         const QuantizedCheckpoint& made, const std::vector<std::string>& unknown, int argc,
                         char** argv) {
  json::Value out = json::Value::object(), arguments = json::Value::array(), odd = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  for (const std::string& name : made.odd) odd.push_back(name);
  json::Value left = json::Value::array();
  for (const std::string& name : unknown) left.push_back(name);
  out.set("schema", "signalbox.quantize/1").set("signalbox_version", SIGNALBOX_VERSION);
  out.set("argv", std::move(arguments)).set("model", model).set("model_hash", model_hash);
  out.set("format", f.to).set("keep_head", f.keep_head).set("matrices", made.quantized);
  out.set("bytes", made.bytes).set("stored_bytes", made.stored_bytes);
  out.set("matrices_kept", std::move(odd)).set("tensors_left_out", std::move(left));
  return out;
}

}  // namespace

int quantize_command(int argc, char** argv) {
  CLI::App app(
      "Writes a checkpoint whose matrices (attention, dense layers, experts, embedding and head) are blocks of 32 "
      "weights of 8 or 4 bits; routers and norms stay. With --data, what that changes: perplexity, KL, agreement of "
      "next tokens and of routes (docs/quantisation.md).",
      "signalbox quantize");
  app.footer(
      "Example:\n  signalbox quantize builtin --to int8 --data tools/builtin/heldout/text.jsonl --out /tmp/int8\n"
      "  signalbox score /tmp/int8 --input tools/builtin/heldout/text.jsonl");
  QuantizeFlags f;
  add_options(app, f);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  std::error_code code;
  if (fs::exists(fs::symlink_status(f.out, code)))
    throw Error(f.out, "expected a new directory for --out, found that it exists");
  std::vector<Record> records;
  if (!f.data.empty()) {
    records = read_records(f.data);
    if (records.empty()) throw Error(f.data, "expected at least one record, found none");
  }
  const ResolvedModel resolved = resolve_model(f.common.model, builtin_files());
  fs::path out = f.out;
  if (out.filename().empty()) out = out.parent_path();  // "DIR/"
  const fs::path part = out.string() + ".part-" + std::to_string(getpid());
  const Remover remover{part};
  const bool quiet = f.common.quiet;
  catch_signals();

  Quantizing work(f, resolved, part);
  QuantizedCheckpoint made;
  std::optional<QuantizationQuality> quality;
  std::vector<std::string> unknown;
  std::string model_hash, device = "cpu";
  const auto tell_unknown = [&] {
    if (!quiet && !unknown.empty())
      std::fprintf(stderr, "%zu stored tensors are not of the model and will not be written (%s, ...)\n",
                   unknown.size(), unknown.front().c_str());
  };
  json::Value facts = json::Value::object();
  if (records.empty()) {
    const LoadedModel loaded = load_model(resolved);
    unknown = loaded.unknown_tensors;
    model_hash = loaded.model_hash;
    tell_unknown();
    made = work.write(loaded.family, loaded.model, loaded.weights);
  } else {
    OpenedModel original(f.common, f.common.model);
    const RecordJobs jobs = make_jobs(original.session, records, Generate{0, {}}, nullptr);
    unknown = original.session.unknown_tensors;
    model_hash = original.session.model_hash;
    tell_cpu_fallback(f.common, original.session);
    tell_unknown();
    made = work.write(original.session.family, original.session.model, original.host());
    facts.set("device", original.session.backend->name()).set("isa", original.session.backend->isa());
    facts.set("numerics", original.session.numerics);
    quality = work.compare(original, records, jobs);
  }
  json::Value summary = summary_json(f, resolved.path, model_hash, made, unknown, argc, argv);
  if (quality) {
    for (const auto& [key, value] : facts.members()) summary.set(key, value);
    summary.set("data", f.data).set("data_hash", records_hash(records)).set("seed", f.common.seed);
    summary.set("quality", quantization_json(*quality));
    write_file_atomically(work.model_dir() / "quality.csv", quantization_csv(*quality));
  }
  write_file_atomically(work.model_dir() / "quantize.json", json::dump(summary, 2) + "\n");
  fs::rename(work.model_dir(), out, code);
  if (code) throw Error(out.string(), "cannot name the directory that was written: " + code.message());
  sync_directory(fs::absolute(out).parent_path());

  if (f.common.json) {
    write_stdout(json::dump(summary) + "\n");
  } else if (!quiet) {
    if (quality) write_stdout(quantization_table(*quality, terminal_width(STDOUT_FILENO)) + "\n");
    char line[160];
    std::snprintf(line, sizeof line, ": the checkpoint, %lld matrices of %s, %.1f MB%s, quantize.json\n",
                  static_cast<long long>(made.quantized), f.to.c_str(), static_cast<double>(made.stored_bytes) / 1e6,
                  quality ? ", quality.csv" : "");
    write_stdout(f.out + line);
    if (!made.odd.empty())
      write_stdout(std::to_string(made.odd.size()) + " matrices stay, whose rows are no multiple of 32 values (" +
                   made.odd.front() + ", ...)\n");
  }
  return 0;
}

}  // namespace signalbox::tools
