// signalbox upcycle: a sparse mixture of experts carved from a dense model in a GGUF file (docs/upcycle.md).
#include "train/upcycle/upcycle.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/display_width.h"
#include "eval/store/facts.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/stage_progress.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace train;

namespace {

namespace fs = std::filesystem;

struct UpcycleFlags {
  std::string file, data, evaluation, out, dtype = "f32", isa = "auto";
  CarveSettings carve;
  int threads = 0;
  int64_t batch = 8;
  bool json = false, quiet = false;
};

void add_flags(CLI::App& app, UpcycleFlags& flags) {
  CarveSettings& carve = flags.carve;
  app.add_option("GGUF", flags.file, "a dense model of Llama layout")->required();
  refuse_adapter_option(app, "a GGUF as it is, whose tensors have no names of PEFT's, found one");
  app.add_option("--out", flags.out, "directory of the model that is made")->type_name("MODELDIR")->required();
  app.add_option("--experts", carve.layout.experts, "equal parts of each feed-forward block, shared ones included")
      ->check(in_range(int64_t{2}, int64_t{4096}))
      ->type_name("E")
      ->capture_default_str();
  app.add_option("--shared", carve.layout.shared, "of these: always on, together the shared expert")
      ->check(in_range(int64_t{1}, int64_t{4096}))
      ->type_name("S")
      ->capture_default_str();
  app.add_option("--active", carve.layout.active, "of the others, the routed experts: on for each token")
      ->check(in_range(int64_t{1}, int64_t{4096}))
      ->type_name("A")
      ->capture_default_str();
  app.add_option("--data", flags.data,
                 "records whose text the model is carved on; - = standard input (default: text that the dense model "
                 "writes)")
      ->type_name("FILE");
  app.add_option("--eval", flags.evaluation, "records that judge it (default: a fifth of the data, drawn by --seed)")
      ->type_name("FILE");
  app.add_option("--dtype", flags.dtype, "of the tensors that are written: f32 | bf16 | f16")
      ->check(one_of({"f32", "bf16", "f16"}))
      ->capture_default_str();
  app.add_option("--router-ridge", carve.router_ridge, "of the router's regression, a token")
      ->check(in_range(0.0, 1e9))
      ->capture_default_str();
  app.add_option("--refit-ridge", carve.refit_ridge, "of the refit, as a share of the neurons' mean square")
      ->check(in_range(0.0, 1e9))
      ->capture_default_str();
  app.add_option("--seed", carve.seed, "of all draws")->capture_default_str();
  app.add_option("--threads", flags.threads, "of the CPU; 0: all; changes no bit")
      ->check(in_range(0, 4096))
      ->capture_default_str();
  app.add_option("--isa", flags.isa, "instruction set of the CPU: auto | scalar | avx2 | avx512; changes no bit")
      ->check(one_of({"auto", "scalar", "avx2", "avx512"}))
      ->capture_default_str();
  app.add_option("--batch", flags.batch, "sequences at once; changes no bit")
      ->check(in_range(int64_t{1}, int64_t{4096}))
      ->capture_default_str();
  app.add_flag("--json", flags.json, "print the card as JSON");
  app.add_flag("--quiet", flags.quiet, "no progress");
}

Manifest manifest_of(const UpcycleFlags& flags, const Upcycling& up, int argc, char** argv) {
  const CarveSettings& carve = flags.carve;
  const auto hash = [](const std::optional<std::vector<Record>>& records) {
    return records ? json::Value(records_hash(*records)) : json::Value();
  };
  json::Value arguments = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  Manifest manifest;
  manifest.identity.set("signalbox_version", SIGNALBOX_VERSION).set("source_sha256", up.file_hash);
  manifest.identity.set("carved_as", carve.layout.name()).set("dtype", flags.dtype).set("seed_of_draws", carve.seed);
  manifest.identity.set("router_ridge", carve.router_ridge).set("refit_ridge", carve.refit_ridge);
  manifest.identity.set("data", hash(up.data)).set("eval", hash(up.evaluation));
  manifest.info.set("argv", std::move(arguments)).set("source", flags.file).set("compiler", __VERSION__);
  manifest.info.set("threads", up.threads).set("isa", flags.isa).set("batch", flags.batch);
  return manifest;
}

void print_result(const UpcycleFlags& flags) {
  const fs::path dir = flags.out;
  if (flags.json) {
    write_stdout(json::dump(json::parse_file(dir / card_file)) + "\n");
    return;
  }
  if (flags.quiet) return;
  const int width = terminal_width(STDOUT_FILENO);
  std::string text = upcycle_table(dir, width) + "\n";
  for (const std::string& sentence : upcycle_sentences(dir))
    text += (width > 0 ? wrapped(sentence, width) : sentence) + "\n";
  write_stdout(text);
  write_stdout(flags.out + ": the model; " + (dir / dense_dir).string() + ": the dense one; README.md, card.json, " +
               "quality.csv, routes.csv, layers.csv\n");
}

}  // namespace

int upcycle_command(int argc, char** argv) {
  CLI::App app(
      "Carves a sparse mixture of experts out of a dense GGUF model of Llama layout, without training: its neurons are "
      "dealt out to a shared expert and to routed ones, a router is fitted, the down-projections are refitted "
      "(docs/upcycle.md).",
      "signalbox upcycle");
  app.footer(
      "Example:\n  signalbox upcycle SmolLM2-135M-Instruct.Q4_1.gguf --data text.jsonl --out smol-moe\n"
      "  signalbox inspect smol-moe");
  UpcycleFlags flags;
  add_flags(app, flags);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  Upcycling up;
  up.file = gguf::File::open(flags.file);
  up.dir = flags.out;
  up.carve = flags.carve;
  up.dtype = flags.dtype == "f32" ? DType::f32 : flags.dtype == "f16" ? DType::f16 : DType::bf16;
  CommonOptions common;
  common.threads = flags.threads;
  up.threads = n_threads(common);
  up.open.device = {DeviceChoice::Kind::cpu, 0};
  up.open.threads = up.threads;
  up.open.isa = flags.isa;
  up.batch = flags.batch;
  check_upcycling(up);
  if (!flags.data.empty()) up.data = read_records(flags.data);
  if (!flags.evaluation.empty()) up.evaluation = read_records(flags.evaluation);
  up.file_hash = file_hash(flags.file);
  up.manifest = manifest_of(flags, up, argc, argv);

  catch_signals();
  up.interrupted = &interrupted;
  StageProgress progress(flags.quiet);
  up.on_progress = [&](const std::string& stage, int64_t done, int64_t total, const char* unit) {
    progress.update(stage, done, total, unit);
  };
  up.on_note = [&](const std::string& line) {
    progress.end();
    if (!flags.quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
  const UpcycleEnd ended = upcycle(up);
  progress.end();
  if (ended == UpcycleEnd::interrupted) {
    std::fprintf(stderr, "interrupted: the same command goes on from here\n");
    return 3;
  }
  if (!flags.quiet && ended == UpcycleEnd::was_complete) std::fprintf(stderr, "%s: was complete\n", flags.out.c_str());
  print_result(flags);
  return 0;
}

}  // namespace signalbox::tools
