// signalbox transplant: an expert of one model in another one (docs/transplants.md).
#include "train/transplant.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "base/display_width.h"
#include "base/files.h"
#include "eval/compress/study.h"
#include "loaders/model/rewrite.h"
#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/two_models.h"
#include "tools/terminal/output.h"
#include "tools/terminal/stage_progress.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

namespace {

namespace fs = std::filesystem;

struct TransplantFlags {
  CommonOptions common;
  BasisFlags basis;
  TransplantOptions options;
  std::string donor, host, data, evaluation, donor_task, host_task, out, router = "keep";
};

// "MODEL:L:E": the model may have colons of its own.
std::string parse_place(const std::string& text, const char* name, ExpertAt& at) {
  const size_t last = text.rfind(':'),
               first = last == std::string::npos || last == 0 ? last : text.rfind(':', last - 1);
  const auto number = [&](std::string_view digits, int32_t& value) {
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return code == std::errc() && end == digits.data() + digits.size() && value >= 0;
  };
  if (first == std::string::npos || first == 0 || first == last ||
      !number(std::string_view(text).substr(first + 1, last - first - 1), at.layer) ||
      !number(std::string_view(text).substr(last + 1), at.expert))
    throw UsageError(name, "expected MODEL:LAYER:EXPERT (builtin:1:3), found \"" + text + "\"");
  return text.substr(0, first);
}

TransplantRecords records_of(const TransplantFlags& f, bool quiet) {
  std::optional<std::vector<Record>> evaluation;
  if (!f.evaluation.empty()) evaluation = read_records(f.evaluation);
  StudyRecords study = study_records(read_records(f.data), std::move(evaluation), f.common.seed);
  if (!quiet && study.in_common > 0)
    std::fprintf(stderr, "%ld of the records of --eval have a prompt of --data: they judge what they made\n",
                 static_cast<long>(study.in_common));
  TransplantRecords out;
  out.calibration = std::move(study.calibration);
  out.evaluation = std::move(study.evaluation);
  if (!f.donor_task.empty()) out.donor_task = read_records(f.donor_task);
  if (!f.host_task.empty()) out.host_task = read_records(f.host_task);
  for (const auto& [file, list] : {std::pair(&f.data, &out.calibration), std::pair(&f.evaluation, &out.evaluation),
                                   std::pair(&f.donor_task, &out.donor_task), std::pair(&f.host_task, &out.host_task)})
    if (!file->empty() && list->empty()) throw Error(*file, "expected at least one record, found none");
  return out;
}

void add_options(CLI::App& app, TransplantFlags& f) {
  app.add_option("DONOR", f.donor, "whose expert: MODEL:LAYER:EXPERT (builtin:1:3)")->required();
  app.add_option("HOST", f.host, "in whose place: MODEL:LAYER:EXPERT")->required();
  add_experiment_options(app, f.common);
  app.get_option("--adapter")->description("LoRA adapter of the donor alone (docs/adapters.md); several are summed");
  app.add_option("--data", f.data, "records that the two models are aligned by; - = standard input")
      ->type_name("FILE")
      ->required();
  app.add_option("--eval", f.evaluation,
                 "records that the variants are judged by (default: half of --data, drawn by --seed)")
      ->type_name("FILE");
  app.add_option("--donor-task", f.donor_task, "records of what the donor's expert is good for: targets count")
      ->type_name("FILE");
  app.add_option("--host-task", f.host_task, "records of what the host is good for (default: those of --eval)")
      ->type_name("FILE");
  app.add_option("--out", f.out, "write the host with the donor's expert into this new directory")
      ->type_name("MODELDIR")
      ->required();
  app.add_option("--router", f.router,
                 "keep: the host's row of the router stays | rescale: the donor's row, scaled until as many tokens "
                 "select it with the same mean weight")
      ->check(one_of({"keep", "rescale"}))
      ->capture_default_str();
  app.add_option("--states", f.options.states,
                 "tokens that the models are aligned by, drawn by --seed (default: eight for each dimension)")
      ->check(in_range(int64_t{1}, int64_t{1} << 30))
      ->type_name("N");
}

}  // namespace

int transplant_command(int argc, char** argv) {
  CLI::App app(
      "Puts an expert of one model in the place of an expert of another, brought into the host's basis, and judges the "
      "host with it beside the original, a ban, the mean output and a random expert (docs/transplants.md).",
      "signalbox transplant");
  app.footer(
      "Example:\n  signalbox transplant builtin:1:3 builtin:1:5 --data tools/builtin/heldout/two_hop.jsonl --out "
      "/tmp/transplanted");
  TransplantFlags f;
  add_options(app, f);
  CLI::Option* ridge = add_basis_options(app, f.basis);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  f.basis.check(ridge->count() > 0);
  const std::string donor_name = parse_place(f.donor, "DONOR", f.options.donor),
                    host_name = parse_place(f.host, "HOST", f.options.host);
  std::error_code code;
  if (fs::exists(fs::symlink_status(f.out, code)))
    throw Error(f.out, "expected a new directory for --out, found that it exists");
  f.options.basis = f.basis.basis();
  f.options.ridge = f.basis.ridge;
  f.options.rescale_router = f.router == "rescale";
  f.options.seed = f.common.seed;
  f.options.threads = n_threads(f.common);
  f.options.isa = f.common.isa;
  const bool quiet = f.common.quiet;
  const TransplantRecords records = records_of(f, quiet);
  check_transplant(load_config(resolve_model(donor_name, builtin_files())).model,
                   load_config(resolve_model(host_name, builtin_files())).model, f.options);

  CommonOptions of_host = f.common;
  of_host.adapters.clear();
  OpenedModel donor(f.common, donor_name), host(of_host, host_name);
  const Rewrite rewrite(host.resolved.files, host.session.family, host.session.model);
  f.options.stored_dtype = [&](const TensorId& id) { return rewrite.stored_dtype(id); };
  catch_signals();
  tell_cpu_fallback(f.common, host.session);
  if (!quiet && !host.session.unknown_tensors.empty())
    std::fprintf(stderr, "%zu stored tensors are not of the model and will not be written (%s, ...)\n",
                 host.session.unknown_tensors.size(), host.session.unknown_tensors.front().c_str());
  StageProgress progress(quiet);
  f.options.on_progress = [&](const std::string& stage, int64_t done, int64_t total, const char* unit) {
    progress.update(stage, done, total, unit);
  };
  f.options.on_note = [&](const std::string& line) {
    progress.end();
    if (!quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
  fs::path out = f.out;
  if (out.filename().empty()) out = out.parent_path();  // "DIR/"
  // All of it, or nothing: the checkpoint and its table get the directory's name together.
  const fs::path part = out.string() + ".part-" + std::to_string(getpid());
  struct Remover {
    const fs::path& path;
    ~Remover() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  } remover{part};
  fs::create_directories(part / "scratch", code);
  if (code) throw Error(part.string(), "cannot make the directory: " + code.message());
  json::Value about = about_two(f.common, "signalbox.transplant/1", donor, "donor", host, "host", argc, argv);
  const TransplantResult result =
      transplant(donor.session, donor.host(), host.session, host.host(), records, f.options, part / "scratch");
  rewrite.write(result.model, part / "model", [&](uint64_t done, uint64_t total) {
    constexpr uint64_t megabyte = 1'000'000;
    progress.update("writing " + f.out, static_cast<int64_t>(done / megabyte), static_cast<int64_t>(total / megabyte),
                    "MB");
  });
  progress.end();
  about.set("data", f.data).set("data_hash", records_hash(records.calibration));
  about.set("eval_hash", records_hash(records.evaluation));
  for (const auto& [key, list] :
       {std::pair("donor_task_hash", &records.donor_task), std::pair("host_task_hash", &records.host_task)})
    about.set(key, list->empty() ? json::Value() : json::Value(records_hash(*list)));
  const json::Value summary = transplant_json(result, f.options, std::move(about));
  write_file_atomically(part / "model/transplant.csv", transplant_csv(result));
  write_file_atomically(part / "model/transplant.json", json::dump(summary, 2) + "\n");
  fs::rename(part / "model", out, code);
  if (code) throw Error(out.string(), "cannot name the directory that was written: " + code.message());
  sync_directory(fs::absolute(out).parent_path());

  if (f.common.json) {
    write_stdout(json::dump(summary) + "\n");
  } else if (!quiet) {
    const int width = terminal_width(STDOUT_FILENO);
    const std::string verdict = transplant_verdict(result);
    write_stdout(transplant_table(result, width) + "\n" + (width > 0 ? wrapped(verdict, width) : verdict) + "\n" +
                 f.out + ": the checkpoint, transplant.csv, transplant.json\n");
  }
  return 0;
}

}  // namespace signalbox::tools
