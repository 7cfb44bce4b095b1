// signalbox lens: what the residual stream, and each part of it, says about the next token.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/files.h"
#include "eval/lens/lens_files.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/signalbox/source.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

namespace {

namespace fs = std::filesystem;

constexpr int64_t many_rows = 5'000'000;  // above which the size is told beforehand

void tell_size(const LensRows& rows, const std::string& out) {
  if (rows.most_rows() < many_rows) return;
  std::fprintf(stderr, "%s/lens.csv: up to %.1f million rows, about %.1f GB\n", out.c_str(),
               static_cast<double>(rows.most_rows()) / 1e6, lens_csv_bytes(rows) / 1e9);
}

std::shared_ptr<const Translators> open_translators(const std::string& file, const Session& session, bool quiet) {
  auto translators =
      std::make_shared<Translators>(Translators::read(file, session.model.n_layers(), session.model.d_model));
  if (translators->model() != tuned_for(session, quiet))
    throw Error(file, "expected a tuned lens of the weights of " + session.path + ", found one of others");
  return translators;
}

}  // namespace

int lens_command(int argc, char** argv) {
  CLI::App app(
      "The final norm and the head over every layer's residual stream, and over its parts: which next token each layer "
      "would give, and what attention, experts and shared experts give to it (docs/lens.md).",
      "signalbox lens");
  app.footer(
      "Examples:\n  signalbox lens builtin --prompt \"The capital of\"\n"
      "  echo '{\"id\":\"a\",\"prompt\":\"User: hello\"}' | signalbox lens builtin --input - --parts --out /tmp/lens");
  CommonOptions options;
  RecordSource source;
  ReadingFlags flags;
  LensOptions lens;
  std::string out, tuned;
  add_run_options(app, options);
  add_source_options(app, source);
  app.add_option("--out", out,
                 "directory for lens.csv and summary.json; not needed for a single prompt, whose last "
                 "token is shown")
      ->type_name("DIR");
  app.add_flag("--parts", lens.parts, "the shares of the stream's parts too, and of each expert");
  app.add_option("--tuned", tuned,
                 "a tuned lens of `signalbox train lens`: resid_out is read through its translators (docs/lens.md)")
      ->type_name("FILE");
  add_reading_options(app, flags, "tokens of each row, the largest logits first",
                      "these tokens in each row, in place of the largest, with their ranks in the vocabulary");
  if (int code = parse_arguments(app, argc, argv, "a prompt goes behind --prompt or --chat"); code >= 0) return code;
  if (out.empty() && !source.is_single()) throw UsageError("--out", "expected a directory beside --input, found none");
  if (out.empty() && options.json) throw UsageError("--json", "expected --out beside it, found none");
  if (!flags.tokens.empty() && app.count("--top") > 0)
    throw UsageError("--top", "expected no --tokens beside it, found them");

  const TokenChoice choice = flags.choice();
  std::vector<Record> records = source.records();
  check_edits(options, records, "lens has only given tokens");
  Session session = open_session(options, [&](const ModelShape& shape) {
    flags.layers_of(shape, false);
    TokenReader(flags.top, flags.tokens, shape.n_vocab);
  });
  lens.layers = flags.layers_of(session.shape, false);
  lens.top = flags.top;
  lens.tokens = flags.tokens;
  lens.threads = n_threads(options);
  if (!tuned.empty()) lens.translators = open_translators(tuned, session, options.quiet);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  const ChosenTokens chosen(choice, run.made.encoded, run.made.span_names);

  std::optional<StagedFiles> files;
  if (!out.empty()) {
    const std::vector<std::string> names = {"lens.csv", "summary.json"};
    require_own_directory(out, names, "a lens");
    files.emplace(out, names);
  }
  const fs::path dir = files ? files->path() : fs::temp_directory_path();
  LensRows rows(session, run.jobs(), chosen, lens, dir);
  require_room(rows, chosen, dir);
  if (!options.quiet && files) tell_size(rows, out);
  tell_cpu_fallback(options, session);
  RunOptions running = session.options;
  if (options.chunk == 0) running.chunk = chunk_that_keeps(rows.token_bytes(), running.chunk);
  {
    Progress progress("reading layers", run.total_tokens, options.quiet, "tokens");
    RunEvents events;
    events.on_progress = [&](int64_t tokens) { progress.update(tokens); };
    catch_signals();
    if (!session.run(run.jobs(), running, events, &rows)) return 3;
  }
  if (files) {
    Progress progress("writing", chosen.n_tokens(), options.quiet, "tokens");
    const int64_t n_rows =
        write_lens_csv(rows, run.records, session.tokenizer.get(), dir / "lens.csv", [&](int64_t tokens) {
          progress.update(tokens);
          stop_if_interrupted();
        });
    progress.done();
    json::Value tokens = json::Value::array();
    for (const int32_t token : lens.tokens) tokens.push_back(int64_t{token});
    json::Value summary =
        lens_summary({lens_schema, session, run.records, run.plan.get(), fs::path(options.edits).parent_path(),
                      options.seed, choice, chosen, lens.layers});
    summary.set("parts", lens.parts)
        .set("tuned", tuned.empty() ? json::Value() : json::Value(file_hash(tuned)))
        .set("top", lens.tokens.empty() ? json::Value(lens.top) : json::Value())
        .set("tokens", lens.tokens.empty() ? json::Value() : std::move(tokens))
        .set("n_rows", n_rows);
    write_file_atomically(dir / "summary.json", json::dump(summary, 2) + "\n");
    files->commit();
    if (options.json) write_stdout(json::dump(summary) + "\n");
    if (!options.quiet) {
      if (chosen.n_records_without() > 0)
        std::fprintf(stderr, "%ld of %ld records have no such token\n", static_cast<long>(chosen.n_records_without()),
                     static_cast<long>(chosen.n_records()));
      std::fprintf(stderr, "%s: %ld tokens, %ld rows\n", (fs::path(out) / "lens.csv").c_str(),
                   static_cast<long>(chosen.n_tokens()), static_cast<long>(n_rows));
    }
  }
  if (run.records.size() == 1 && !options.json && (!options.quiet || out.empty()))
    write_stdout(lens_text(rows, chosen, 0, session.tokenizer.get(), terminal_width(STDOUT_FILENO)));
  return 0;
}

}  // namespace signalbox::tools
