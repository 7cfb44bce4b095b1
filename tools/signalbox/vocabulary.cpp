// signalbox vocabulary: which tokens each expert raises when it is chosen, and which experts raise each token.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "eval/data/prompt_hash.h"
#include "eval/lens/lens_files.h"
#include "eval/lens/vocabulary_files.h"
#include "eval/store/facts.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/reading_flags.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

namespace {

namespace fs = std::filesystem;

// The prompts that chose what the tables rank: a test on them is refused (docs/experiments.md).
PromptList prompts_of(const std::vector<Record>& records, const std::vector<std::string>& span_names,
                      const Session& session) {
  PromptList prompts;
  for (Record record : records) {
    record.target.reset();
    prompts.add(prompt_hashes(record, encode_record(record, session.encode, span_names), session.encode));
  }
  return prompts;
}

}  // namespace

int vocabulary_command(int argc, char** argv) {
  CLI::App app(
      "What each expert gives to the logits directly, on average over the tokens that selected it: the tokens that it "
      "raises most, and the experts that raise each token most (docs/lens.md).",
      "signalbox vocabulary");
  app.footer(
      "Example:\n  signalbox vocabulary builtin --input tools/builtin/heldout/pairs.jsonl --out /tmp/vocabulary");
  CommonOptions options;
  ReadingFlags flags;
  std::string input, out;
  ExpertVocabularyOptions wanted;
  size_t shown = 20;
  add_run_options(app, options);
  app.add_option("--input", input, "records, a JSON object a line; - = standard input")->type_name("FILE")->required();
  app.add_option("--out", out, "directory for the two tables and summary.json")->type_name("DIR")->required();
  add_reading_options(app, flags, "tokens of each expert, and experts of each token",
                      "only these tokens in both tables, with their ranks in the vocabulary");
  app.add_option("--min-count", wanted.min_count, "leave out experts that fewer tokens selected")
      ->check(in_range(1, 1 << 30))
      ->capture_default_str();
  app.add_option("--show", shown, "experts to print")->check(in_range(0, 1000000))->capture_default_str();
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  const TokenChoice choice = flags.choice();
  std::vector<Record> records = read_records(input);
  check_edits(options, records, "vocabulary has only given tokens");
  Session session = open_session(options, [&](const ModelShape& shape) {
    flags.layers_of(shape, true);
    TokenReader(flags.top, flags.tokens, shape.n_vocab);
  });
  const std::vector<int32_t> layers = flags.layers_of(session.shape, true);
  wanted.top = flags.top;
  wanted.tokens = flags.tokens;
  wanted.threads = n_threads(options);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  const ChosenTokens chosen(choice, run.made.encoded, run.made.span_names);

  const std::vector<std::string> names = {"expert_vocabulary.csv", "token_experts.csv", "summary.json"};
  require_own_directory(out, names, "a vocabulary");
  StagedFiles files(out, names);
  ExpertMeans means(session, run.jobs(), chosen, layers);
  tell_cpu_fallback(options, session);
  RunOptions running = session.options;
  if (options.chunk == 0) running.chunk = chunk_that_keeps(means.token_bytes(), running.chunk);
  {
    Progress progress("running", run.total_tokens, options.quiet, "tokens");
    RunEvents events;
    events.on_progress = [&](int64_t tokens) { progress.update(tokens); };
    catch_signals();
    if (!session.run(run.jobs(), running, events, &means)) return 3;
  }
  const int64_t n_experts = n_experts_to_read(means, wanted.min_count);
  Progress progress("reading experts", n_experts, options.quiet, "experts");
  wanted.on_progress = [&](int64_t done) {
    progress.update(done);
    stop_if_interrupted();
  };
  const ExpertVocabulary found = expert_vocabulary(session, means, wanted);
  progress.done();
  write_expert_vocabulary(found, session.tokenizer.get(), files.path());
  json::Value tokens = json::Value::array();
  for (const int32_t token : wanted.tokens) tokens.push_back(int64_t{token});
  int64_t n_all = 0;
  for (const ExpertMeans::OfLayer& of : means.layers()) n_all += static_cast<int64_t>(of.n.size());
  json::Value summary = lens_summary({vocabulary_schema, session, run.records, run.plan.get(),
                                      fs::path(options.edits).parent_path(), options.seed, choice, chosen, layers});
  summary.set("top", wanted.top)
      .set("tokens", wanted.tokens.empty() ? json::Value() : std::move(tokens))
      .set("min_count", wanted.min_count)
      .set("n_experts", n_experts)
      .set("n_experts_left_out", n_all - n_experts);
  prompts_of(run.records, run.made.span_names, session).put(summary);
  summary.set("tables",
              file_hashes({files.path() / "expert_vocabulary.csv", files.path() / "token_experts.csv"}, files.path()));
  write_file_atomically(files.path() / "summary.json", json::dump(summary, 2) + "\n");
  files.commit();
  if (options.json) {
    write_stdout(json::dump(summary) + "\n");
  } else if (!options.quiet) {
    if (shown > 0)
      write_stdout(expert_vocabulary_text(found, session.tokenizer.get(), shown, terminal_width(STDOUT_FILENO)));
    std::string told =
        out + ": " + std::to_string(n_experts) + " experts over " + std::to_string(chosen.n_tokens()) + " tokens";
    if (n_all > n_experts)
      told += "; " + std::to_string(n_all - n_experts) + " others were selected by " +
              (wanted.min_count == 1 ? "no token" : "fewer than " + std::to_string(wanted.min_count));
    if (chosen.n_records_without() > 0)
      told += "; " + std::to_string(chosen.n_records_without()) + " records have no such token";
    std::fprintf(stderr, "%s\n", told.c_str());
  }
  return 0;
}

}  // namespace signalbox::tools
