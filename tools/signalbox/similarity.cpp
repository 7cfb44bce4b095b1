// signalbox similarity: how alike the experts of two models are (docs/transplants.md).
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "eval/store/staged_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/record.h"
#include "tools/signalbox/two_models.h"
#include "tools/terminal/output.h"
#include "tools/terminal/stage_progress.h"
#include "tools/terminal/width.h"
#include "train/likeness_files.h"

namespace signalbox::tools {

namespace {

struct SimilarityFlags {
  CommonOptions common;
  BasisFlags basis;
  LikenessOptions options;
  std::string a, b, data, out, layers = "same";
};

// What of the result is less than was asked for.
void tell_gaps(const LikenessResult& result, const PairedTokens& tokens) {
  if (tokens.word_ends)
    std::fprintf(stderr, "the tokenizers differ: %ld tokens that end the same words are compared\n",
                 static_cast<long>(result.tokens));
  if (result.states < result.needed)
    std::fprintf(stderr, "cka and svcca are left out: %ld tokens are fewer than %ld, four for each dimension\n",
                 static_cast<long>(result.states), static_cast<long>(result.needed));
  for (const LayerLikeness& layer : result.layers)
    if (!layer.no_weight.empty()) {
      std::fprintf(stderr, "weights are not compared: %s\n", layer.no_weight.c_str());
      break;
    }
}

}  // namespace

int similarity_command(int argc, char** argv) {
  CLI::App app(
      "How alike the experts of two models are, on the same tokens: by their weights (order, scale and sign of neurons "
      "taken away), by what they answer, by the geometry of their answers, and by who is sent to them "
      "(docs/transplants.md).",
      "signalbox similarity");
  app.footer(
      "Example:\n  signalbox similarity builtin builtin --data tools/builtin/heldout/two_hop.jsonl --layers 1 --out "
      "/tmp/similar");
  SimilarityFlags f;
  app.add_option("A", f.a, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")->required();
  app.add_option("B", f.b, "the other model, in whose basis the two are compared")->required();
  add_experiment_options(app, f.common);
  app.get_option("--adapter")->description("LoRA adapter of B alone (docs/adapters.md); several are summed");
  app.add_option("--data", f.data, "records that both models read; - = standard input")->type_name("FILE")->required();
  app.add_option("--out", f.out, "directory of the results")->type_name("DIR")->required();
  app.add_option("--layers", f.layers,
                 "same: layers of one index; every: each with each; or items 3, 3-5 and 3:7 (of A and of B)")
      ->capture_default_str();
  CLI::Option* ridge = add_basis_options(app, f.basis);
  app.add_option("--states", f.options.states,
                 "tokens on which all experts are run, drawn by --seed (default: eight for each dimension)")
      ->check(in_range(int64_t{1}, int64_t{1} << 30))
      ->type_name("N");
  app.add_option("--pairs", f.options.pairs,
                 "pairs of each two layers whose weights and geometry are compared, those most alike in function "
                 "(default: what 10^13 products allow)")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N");
  app.add_flag("--svcca", f.options.svcca, "the column svcca too");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  f.basis.check(ridge->count() > 0);

  const std::vector<Record> records = read_records(f.data);
  if (records.empty()) throw Error(f.data, "expected at least one record, found none");
  CommonOptions of_a = f.common;
  of_a.adapters.clear();
  const OpenedModel a(of_a, f.a), b(f.common, f.b);
  f.options.layers = layer_pairs(f.layers, a.session.shape, b.session.shape);
  f.options.basis = f.basis.basis();
  f.options.ridge = f.basis.ridge;
  f.options.seed = f.common.seed;
  f.options.threads = n_threads(f.common);
  f.options.isa = f.common.isa;
  const PairedTokens tokens = pair_tokens(a.session, b.session, records);
  catch_signals();
  tell_cpu_fallback(f.common, a.session);
  StageProgress progress(f.common.quiet);
  f.options.on_progress = [&](const std::string& stage, int64_t done, int64_t total, const char* unit) {
    progress.update(stage, done, total, unit);
  };
  // A comparison that fails leaves no directory that it made.
  struct Remover {
    const std::filesystem::path out;
    const bool made = !std::filesystem::exists(out);
    ~Remover() {
      std::error_code ignored;
      if (made) std::filesystem::remove(out, ignored);  // only while it is empty
    }
  } remover{f.out};
  StagedFiles files(f.out, {std::begin(likeness_files), std::end(likeness_files)});
  const LikenessResult result = compare_experts(a.side(), b.side(), tokens, example_labels(records), f.options);
  progress.end();
  json::Value about = about_two(f.common, "signalbox.similarity/1", a, "a", b, "b", argc, argv);
  about.set("data", f.data).set("data_hash", records_hash(records));
  about.set("tokens_paired", tokens.word_ends ? "by the ends of words" : "all");
  write_likeness(result, std::move(about), files.path());
  files.commit();
  if (!f.common.quiet) tell_gaps(result, tokens);
  if (f.common.json) {
    write_stdout(json::dump(json::parse_file(std::filesystem::path(f.out) / likeness_files[1])) + "\n");
  } else if (!f.common.quiet) {
    write_stdout(likeness_table(result, terminal_width(STDOUT_FILENO)) + "\n" + f.out +
                 ": similarity.csv, similarity.json\n");
  }
  return 0;
}

}  // namespace signalbox::tools
