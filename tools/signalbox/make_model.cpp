// signalbox make-model: a synthetic checkpoint from a spec.
#include "loaders/synthetic/make_model.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/files.h"
#include "base/text.h"
#include "loaders/families/family.h"
#include "loaders/families/real_shapes.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

// FAMILY and FAMILIES are filled in from the loaders' list.
constexpr const char* help =
    "Writes a checkpoint in Hugging Face layout: a random model of any family and size, or one with planted experts "
    "whose routing is known by construction (DIR/planted.json tells it), or planted circuits of which every node and "
    "edge "
    "is (DIR/make-model.json). The same spec gives the same bytes.";

constexpr const char* footer =
    R"(Keys of the spec (docs/make-model.md tells more):
  family     a tiny model of that family: FAMILIES
  shape      or a released model's sizes: SHAPES
  config     keys of config.json, added to those or alone
  dtype      f32, bf16 (default), f16, mxfp4
  seed       of the values (0)
  style      hub (default) or fused, as transformers 5 saves
  shards     weight files (1)
  tokenizer  "bytes": tokenizer.json whose tokens are the 256 bytes, a begin and an end token
  init       standard deviations: embed, matrix, output, router, head, norm, bias
  planted    [{"layer", "expert", "tokens": [ids] | "begin": [ids], "rate": 1, "otherwise": 0}]
  circuits   [{"kind": "route", ...}]: planted causal structures, their truth in
             DIR/make-model.json

Example:
  echo '{"family":"FAMILY","planted":[{"layer":1,"expert":3,"tokens":[48]}]}' > spec.json
  signalbox make-model spec.json --out planted
  signalbox inspect planted)";

std::string fill(std::string text) {
  const std::string families = joined(families::all_families(), ", ", &families::Family::model_type);
  const std::string shapes = joined(families::real_shapes(), ", ", &families::RealShape::name);
  const auto replace = [&](std::string_view name, const std::string& value) {
    if (size_t at = text.find(name); at != std::string::npos) text.replace(at, name.size(), value);
  };
  replace("FAMILIES", families);
  // The shortest name, for an example that fits a line.
  std::string_view shortest = families::all_families().front().model_type;
  for (const families::Family& family : families::all_families())
    if (family.model_type.size() < shortest.size()) shortest = family.model_type;
  replace("FAMILY", std::string(shortest));
  replace("SHAPES", shapes);
  return text;
}

// A directory with other content is not ours to write into. One of a make-model that was killed has its spec.
void refuse_foreign_directory(const std::filesystem::path& dir) {
  namespace fs = std::filesystem;
  std::error_code failed;
  if (!fs::is_directory(dir, failed) || fs::is_empty(dir, failed) || fs::exists(dir / synthetic::spec_file, failed))
    return;
  throw Error(dir.string(), std::string("expected a new directory, or one that make-model wrote (") +
                                synthetic::spec_file + "), found other files");
}

}  // namespace

int make_model_command(int argc, char** argv) {
  std::string spec, out;
  bool json_output = false, quiet = false;
  CLI::App app{help, "signalbox make-model"};
  app.footer(fill(footer));
  app.add_option("SPEC", spec, "JSON file")->required();
  app.add_option("--out", out, "directory to write")->type_name("DIR")->required();
  app.add_flag("--json", json_output, "print the summary as JSON");
  app.add_flag("--quiet", quiet, "no progress");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  catch_signals();
  const json::Value value = json::parse_file(spec);
  refuse_foreign_directory(out);
  Progress progress("writing", 1000, quiet, "permille");
  const synthetic::Summary summary = synthetic::make_model(value, spec, out, [&](uint64_t done, uint64_t total) {
    stop_if_interrupted();
    progress.update(static_cast<int64_t>(1000.0 * static_cast<double>(done) / static_cast<double>(total)));
  });
  progress.done();
  if (json_output) {
    json::Value line = json::Value::object();
    line.set("path", json::Value(out)).set("family", json::Value(summary.family));
    line.set("parameters", json::Value(summary.parameters)).set("bytes", json::Value(summary.bytes));
    line.set("files", json::Value(summary.files)).set("planted", json::Value(static_cast<int64_t>(summary.planted)));
    line.set("circuits", json::Value(static_cast<int64_t>(summary.circuits)));
    write_stdout(json::dump(line) + "\n");
  } else {
    char text[256];
    std::snprintf(text, sizeof text, "%s, %.3f M parameters, %.1f MB in %d file%s, %zu planted experts",
                  summary.family.c_str(), static_cast<double>(summary.parameters) / 1e6,
                  static_cast<double>(summary.bytes) / 1e6, summary.files, summary.files == 1 ? "" : "s",
                  summary.planted);
    const std::string circuits = summary.circuits == 0 ? ""
                                                       : ", " + std::to_string(summary.circuits) + " planted circuit" +
                                                             (summary.circuits == 1 ? "" : "s");
    write_stdout(out + ": " + text + circuits + "\n");
  }
  return 0;
}

}  // namespace signalbox::tools
