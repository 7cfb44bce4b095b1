// signalbox data pairs: contrast pairs, by documents or by completions.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/files.h"
#include "eval/data/pairs.h"
#include "eval/score/safe_completions.h"
#include "tools/signalbox/data_jobs.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

struct PairArguments {
  std::string kind, without, safe = "either";
  std::vector<std::string> files, against;
  bool target = false, keep_pairs = false;
  uint64_t seed = 0;
  SafeAsking asking;  // --safe model
  CommonOptions run;
  std::string summary;
};

std::string told(const DocumentPairResult& result) {
  char text[160];
  std::snprintf(text, sizeof text,
                "%ld unrelated documents: their lengths differ from the own documents' by %.1f characters on average, "
                "by %ld at most",
                static_cast<long>(result.n_exchanged), result.mean_difference,
                static_cast<long>(result.largest_difference));
  return text + (result.repeated > 0 ? "; " + std::to_string(result.repeated) +
                                           " of them stand in two records, for want of another that is allowed"
                                     : std::string());
}

void set_prefix(const DataOptions& o, CompletionPairs& options) {
  options.prefix_given = o.prefix != "auto";
  options.prefix = o.prefix == "auto" || o.prefix == "none" ? "" : unescape(o.prefix, "--target-prefix");
}

// --safe model: the model writes the safe side.
int model_pairs(const PairArguments& a, const DataOptions& o) {
  if (o.model.empty()) throw UsageError("--safe model", "expected --model beside it, found none");
  if (a.asking.tries > 1 && a.asking.sampling.temperature == 0)
    throw UsageError("--tries", "expected a --temperature above 0, for tries at 0 are alike, found 0");
  const std::vector<Row> rows = rows_of(a.files);
  CommonOptions run = a.run;
  run.model = o.model;
  run.quiet = o.quiet;
  run.numerics = "invariant";  // texts must not depend on which others are written beside them
  run.template_variables = o.variables;
  run.date = o.date;
  const Session session = open_session(run);
  SafeAsking asking = a.asking;
  asking.sampling.seed = a.seed;
  asking.instruction = unescape(asking.instruction, "--safe-instruction");
  tell_cpu_fallback(run, session);
  catch_signals();
  Progress progress("asking", static_cast<int64_t>(rows.size()), o.quiet, "questions");
  SafeCompletions found =
      safe_completions(session, rows, asking, [&](int64_t done, int64_t) { progress.update(done); });
  if (!found.finished) return 3;
  progress.done();
  const json::Value summary = safe_summary(found);
  if (!a.summary.empty()) write_file_atomically(a.summary, json::dump(summary, 1) + "\n");
  const json::Value& dropped = *summary.find("dropped");
  note(o, "the model was asked for " + std::to_string(found.n_asked) + " safe completions and wrote " +
              std::to_string(found.records.size()) +
              " that the rules call refusals; dropped: " + std::to_string(dropped.find("no_refusal")->integer()) +
              " that are none, " + std::to_string(dropped.find("empty")->integer()) + " empty, " +
              std::to_string(dropped.find("cut")->integer()) + " cut before a sentence ended");
  if (found.n_replaced + found.n_safe_rows > 0)
    note(o, std::to_string(found.n_replaced + found.n_safe_rows) + " safe texts of the data are not used");
  if (found.records.empty())
    throw Error(o.model, "expected a refusal of at least one prompt, found none (--tries, --safe-instruction)");
  CompletionPairs options;
  options.safe = SafeSide::data;
  options.chat_template = session.chat_template.get();
  options.template_variables = session.encode.template_variables;
  set_prefix(o, options);
  const CompletionResult result = completion_pairs(found.records, options);
  note(o, std::to_string(result.records.size() / 2) + " pairs");
  return finish(o, result.records);
}

int pairs(const PairArguments& a, const CLI::App& app, const DataOptions& o) {
  const bool document = a.kind == "document";
  for (const char* flag :
       {"--template", "--template-without", "--chat", "--system", "--target", "--against", "--keep-pairs"})
    if (!document && app.count(flag)) throw UsageError(flag, "expected the kind document, found completions");
  if (document && app.count("--safe")) throw UsageError("--safe", "expected the kind completions, found document");
  if (document && app.count("--seed") && a.against.empty())
    throw UsageError("--seed", "expected --against beside it, or the kind completions, found neither");
  if (a.keep_pairs && a.against.empty()) throw UsageError("--keep-pairs", "expected --against beside it, found none");
  for (const char* flag : {"--target", "--template-without", "--target-prefix"})
    if (a.keep_pairs && app.count(flag)) throw UsageError(flag, "expected no --keep-pairs beside it, found it");
  const bool asks = !document && a.safe == "model";
  for (const char* flag :
       {"--tries", "--temperature", "--safe-instruction", "--summary", "--device", "--adapter", "--threads", "--batch"})
    if (!asks && app.count(flag)) throw UsageError(flag, "expected --safe model beside it, found none");
  if (asks) return model_pairs(a, o);
  const OpenedStyle opened = open_style(o);
  const std::vector<Row> rows = rows_of(a.files);
  CompletionPairs completions;
  set_prefix(o, completions);
  if (document) {
    need_chat_for_model(o);
    DocumentPairs options{opened.style, opened.style, a.target,    completions.prefix, completions.prefix_given,
                          {},           a.seed,       a.keep_pairs};
    options.without.text = a.without;
    for (const std::string& name : a.against)
      options.against.push_back(name == "shuffled" ? Against::shuffled : Against::unrelated);
    if (!o.text.empty() && a.without.empty() && !a.keep_pairs)
      throw UsageError("--template", "expected --template-without beside it, found none");
    if (o.chat && o.model.empty())
      note(o, "no spans were written: those of messages count in the rendered text, which --model MODEL would tell");
    const DocumentPairResult result = document_pairs(rows, options);
    if (result.n_exchanged > 0) note(o, told(result));
    return finish(o, result.records);
  }
  completions.safe = a.safe == "data" ? SafeSide::data : a.safe == "refusals" ? SafeSide::refusals : SafeSide::either;
  completions.seed = a.seed;
  completions.chat_template = opened.style.chat_template;
  completions.template_variables = opened.style.template_variables;
  const CompletionResult result = completion_pairs(rows, completions);
  note(o, std::to_string(result.records.size() / 2) + " pairs, " + std::to_string(result.refusals) +
              " with a refusal sentence; " + std::to_string(result.without_unsafe) +
              " prompts left out for want of an unsafe completion");
  return finish(o, result.records);
}

}  // namespace

DataJob add_pairs_job(CLI::App& app, DataOptions& o) {
  CLI::App* job = app.add_subcommand("pairs", "contrast pairs from records");
  job->footer(
      "document: each question with its document, without, and --against another text. completions: an unsafe and a "
      "safe completion of each\n"
      "prompt, as targets.\n\n"
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"Q\",\"question\":\"Who?\",\"document\":\"Ann did.\"}' > one.jsonl\n"
      "  signalbox data pairs document one.jsonl");
  const auto a = std::make_shared<PairArguments>();
  job->add_option("KIND", a->kind, "document | completions")->required()->check(one_of({"document", "completions"}));
  job->add_option("FILE", a->files, "records")->required();
  job->add_option("--template-without", a->without, "document: the prompt without the document");
  job->add_flag("--target", a->target, "document: the first answer becomes the target");
  job->add_option("--against", a->against,
                  "document: a third condition, with text of the same length before the question that does not answer "
                  "it: another record's document | the own one with its words shuffled | both, with a comma")
      ->delimiter(',')
      ->check(one_of({"unrelated", "shuffled"}));
  job->add_flag("--keep-pairs", a->keep_pairs,
                "document, --against: the records are pairs already and stay as they are");
  job->add_option("--safe", a->safe,
                  "completions: the safe side is from the data, from the refusal "
                  "sentences, or either: those where the data has none; or --model writes it")
      ->check(one_of({"either", "data", "refusals", "model"}))
      ->capture_default_str();
  job->add_option("--tries", a->asking.tries, "--safe model: at most; the first refusal counts")
      ->check(in_range(1, 1000))
      ->capture_default_str();
  job->add_option("--temperature", a->asking.sampling.temperature, "--safe model: of its text")
      ->check(in_range(0.0, 1000.0))
      ->capture_default_str();
  job->add_option("--safe-instruction", a->asking.instruction,
                  "--safe model: what it is asked, with {prompt} and {words} (default: docs/data.md)");
  job->add_option("--summary", a->summary, "--safe model: a JSON file that says which prompts were dropped and why");
  add_adapter_option(*job, a->run);
  job->get_option("--adapter")->description("--safe model: LoRA adapter of it (docs/adapters.md); several are summed");
  job->add_option("--device", a->run.device, "--safe model: auto | cpu | cuda[:N]")->capture_default_str();
  job->add_option("--threads", a->run.threads, "--safe model: CPU threads, 0 = all")
      ->check(in_range(0, 1024))
      ->capture_default_str();
  job->add_option("--batch", a->run.batch, "--safe model: sequences at once")
      ->check(in_range(1, 4096))
      ->capture_default_str();
  job->add_option("--seed", a->seed,
                  "completions: of the order of refusal sentences, and of the model's text; document: of --against")
      ->capture_default_str();
  add_prompt(*job, o);
  add_prefix(*job, o);
  add_output(*job, o);
  return {job, [a, job, &o] { return pairs(*a, *job, o); }};
}

}  // namespace signalbox::tools
