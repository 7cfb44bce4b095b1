// signalbox data: records from other people's files, contrast pairs, splits, generated prompts.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "eval/data/convert.h"
#include "eval/data/pairs.h"
#include "eval/data/records.h"
#include "eval/data/structural.h"
#include "eval/score/safe_completions.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

using namespace eval;

namespace {

// What the four jobs share.
struct DataOptions {
  std::string out;
  bool quiet = false;
  std::string text, system, model, variables, date;  // of prompts
  bool chat = false, no_spans = false;
  std::string prefix = "auto";
};

void add_output(CLI::App& app, DataOptions& o) {
  app.add_option("--out", o.out, "write here instead of to standard output");
  app.add_flag("--quiet", o.quiet, "no counts on standard error");
}

void add_model(CLI::App& app, DataOptions& o) {
  app.add_option("--model", o.model,
                 "its chat template places the spans of messages, which count in the rendered text");
  app.add_option("--template-variables", o.variables, "a JSON object for the chat template");
  app.add_option("--date", o.date, "date that the chat template sees, YYYY-MM-DD")->check(date_validator());
}

void add_prompt(CLI::App& app, DataOptions& o) {
  app.add_option("--template", o.text,
                 "the prompt, with {question}, {document}, {choices} or any key; \\n is a line end, {{ a brace");
  app.add_flag("--chat", o.chat, "messages instead of a prompt");
  app.add_option("--system", o.system, "with --chat: a system message");
  add_model(app, o);
}

void add_prefix(CLI::App& app, DataOptions& o) {
  app.add_option("--target-prefix", o.prefix,
                 "before a target: TEXT | none | auto (a space after a word or a colon; messages need --model to tell)")
      ->capture_default_str();
}

// The text tools stay alive as long as the style that points at them.
struct OpenedStyle {
  TextTools text;
  PromptStyle style;
};

OpenedStyle open_style(const DataOptions& o) {
  OpenedStyle out;
  if (!o.chat && !o.system.empty()) throw UsageError("--system", "expected --chat beside it, found none");
  out.style.text = o.text;
  out.style.chat = o.chat;
  out.style.system = o.system.empty() ? "" : unescape(o.system, "--system");
  if (!o.variables.empty()) out.style.template_variables = json::parse(o.variables, "--template-variables");
  json::Ref(out.style.template_variables, "--template-variables").expect_object();
  if (!o.date.empty()) out.style.template_variables.set("date", o.date);
  if (o.model.empty()) {
    if (!o.variables.empty() || !o.date.empty())
      throw UsageError("--template-variables, --date", "expected --model beside them, found none");
    return out;
  }
  out.text = open_text(o.model, false);
  if (!out.text.chat_template) throw Error(o.model, "expected a model with a chat template, found none");
  out.style.chat_template = out.text.chat_template.get();
  return out;
}

void need_chat_for_model(const DataOptions& o) {
  if (!o.model.empty() && !o.chat) throw UsageError("--model", "expected --chat beside it, found none");
}

void note(const DataOptions& o, const std::string& text) {
  if (!o.quiet) std::fprintf(stderr, "signalbox: %s\n", text.c_str());
}

int finish(const DataOptions& o, const std::vector<Row>& rows) {
  check_records(rows);
  const std::string text = dump_records(rows);
  if (o.out.empty()) {
    write_stdout(text);
  } else {
    write_file_atomically(o.out, text);
  }
  note(o, std::to_string(rows.size()) + (rows.size() == 1 ? " record" : " records") +
              (o.out.empty() ? "" : " written to " + o.out));
  return 0;
}

// Drafts with a question become records; whole records stay as they are, unless a template asks for another prompt.
std::vector<Row> place_all(const std::vector<Row>& drafts, const PromptStyle& style, const DataOptions& o) {
  std::vector<Row> rows;
  for (const Row& draft : drafts) {
    const bool whole = draft.object.find("prompt") || draft.object.find("messages") || draft.object.find("tokens");
    if (whole && style.text.empty() && !style.chat) {
      rows.push_back(draft);
      continue;
    }
    Row row = draft;
    // A prompt by itself is what a default template calls the question.
    if (style.text.empty() && !row.object.find("question")) {
      const json::Value* prompt = row.object.find("prompt");
      if (!prompt)
        throw Error(draft.where, "expected the key \"prompt\" or \"question\", found neither (--map question=THEIRS)");
      PromptStyle plain = style;
      plain.text = "{prompt}";
      row.object = place_prompt(row, plain);
    } else {
      row.object = place_prompt(row, style);
    }
    rows.push_back(std::move(row));
  }
  if (style.chat && !style.chat_template)
    if (!o.no_spans)
      note(o, "no spans were written: those of messages count in the rendered text, which --model MODEL would tell");
  return rows;
}

std::string formats_help() {
  std::string text = "Formats:\n";
  for (const Converter& converter : converters()) {
    std::string name(converter.name);
    name.resize(std::max<size_t>(name.size() + 1, 26), ' ');
    text += "  " + name + std::string(converter.summary) + "\n";
  }
  return text +
         "  jsonl, csv                any rows, with --map ours=theirs,... (a dot goes into an object)\n\n"
         "Example:\n  printf 'goal,target\\nBake a cake,Sure\\n' > cakes.csv\n"
         "  signalbox data convert advbench cakes.csv --out cakes.jsonl";
}

struct ConvertArguments {
  std::string format, map;
  std::vector<std::string> files;
  int64_t limit = 0;
};

int convert(const ConvertArguments& a, const DataOptions& o) {
  const bool mapped = a.format == "jsonl" || a.format == "csv";
  const Converter* converter = find_converter(a.format);
  if (!converter && !mapped)
    throw UsageError("FORMAT",
                     "expected a format that signalbox data convert --help lists, found \"" + a.format + "\"");
  if (!mapped && !a.map.empty()) throw UsageError("--map", "expected the format jsonl or csv beside it");
  need_chat_for_model(o);
  OpenedStyle opened = open_style(o);
  if (!o.text.empty()) PromptTemplate::parse(o.text, "--template");  // refused before the files are read
  std::vector<Row> drafts;
  if (mapped) {
    for (const std::string& file : a.files)
      if (is_csv_file(file) != (a.format == "csv"))
        throw UsageError(file, "expected a file of format " + a.format + ", found another by its name");
    drafts = read_mapped(a.files, a.map.empty() ? KeyMap{} : parse_key_map(a.map));
  } else {
    opened.style.plain = converter->plain;
    opened.style.instruction = converter->instruction;
    drafts = converter->read(a.files);
  }
  if (a.limit > 0 && static_cast<int64_t>(drafts.size()) > a.limit) drafts.resize(static_cast<size_t>(a.limit));
  return finish(o, place_all(drafts, opened.style, o));
}

// Records of input files as rows with their places.
std::vector<Row> rows_of(const std::vector<std::string>& files) {
  std::vector<Row> rows;
  for (const std::string& file : files)
    for (const Record& record : read_records(file)) rows.push_back({record.where, record.source});
  return rows;
}

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
  tell_cpu_fallback(run, *session.backend);
  catch_signals();
  Progress progress("asking", static_cast<int64_t>(rows.size()), o.quiet);
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
       {"--tries", "--temperature", "--safe-instruction", "--summary", "--device", "--threads", "--batch"})
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

struct SplitArguments {
  std::string fractions = "detect=0.5,test=0.5";
  std::vector<std::string> files, together;
  SplitOptions options;
};

int split(const SplitArguments& a, const DataOptions& o) {
  SplitOptions options = a.options;
  options.together = a.together;
  double sum = 0;
  for (const auto& [name, share] : parse_key_map(a.fractions)) {
    double value = 0;
    auto [end, failed] = std::from_chars(share.data(), share.data() + share.size(), value);
    if (failed != std::errc() || end != share.data() + share.size() || !(value > 0 && value <= 1))
      throw UsageError("--fractions", name + ": expected a share in (0, 1], found \"" + share + "\"");
    options.fractions.emplace_back(name, value);
    sum += value;
  }
  if (std::abs(sum - 1) > 1e-9)
    throw UsageError("--fractions", "expected shares that sum to 1, found " + std::to_string(sum));
  std::vector<Row> rows = rows_of(a.files);
  assign_splits(rows, options);
  for (const auto& [name, share] : options.fractions) {
    int64_t count = 0;
    for (const Row& row : rows) count += row.object.find(options.key)->string() == name;
    note(o, options.key + " " + name + ": " + std::to_string(count));
  }
  return finish(o, rows);
}

int structural(const StructuralOptions& options, DataOptions o) {
  need_chat_for_model(o);
  if (options.builtin && o.text.empty() && o.model.empty()) {
    o.chat = true;  // that model was trained on conversations
    if (!o.no_spans) o.model = "builtin";
  }
  OpenedStyle opened = open_style(o);
  return finish(o, place_all(structural_drafts(options), opened.style, o));
}

}  // namespace

int data_command(int argc, char** argv) {
  CLI::App app("Makes input records: from public data sets, as contrast pairs, with splits, or generated.",
               "signalbox data");
  app.footer("Example:\n  signalbox data structural --n 3 --steps 3 --seed 1\n\ndocs/data.md has one for every job.");
  app.require_subcommand(1);
  DataOptions o;

  CLI::App* convert_app = app.add_subcommand("convert", "public formats to records");
  convert_app->footer(formats_help());
  ConvertArguments convert_arguments;
  convert_app->add_option("FORMAT", convert_arguments.format, "see below")->required();
  convert_app->add_option("FILE", convert_arguments.files, "files of that format")->required();
  convert_app->add_option("--map", convert_arguments.map, "jsonl and csv: OURS=THEIRS[,OURS=THEIRS...]");
  convert_app->add_option("--limit", convert_arguments.limit, "the first N records only, 0 = all")
      ->check(CLI::NonNegativeNumber);
  add_prompt(*convert_app, o);
  add_output(*convert_app, o);

  CLI::App* pairs_app = app.add_subcommand("pairs", "contrast pairs from records");
  pairs_app->footer(
      "document: each question with its document, without, and --against another text. completions: an unsafe and a "
      "safe completion of each\n"
      "prompt, as targets.\n\n"
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"Q\",\"question\":\"Who?\",\"document\":\"Ann did.\"}' > one.jsonl\n"
      "  signalbox data pairs document one.jsonl");
  PairArguments pair_arguments;
  pairs_app->add_option("KIND", pair_arguments.kind, "document | completions")
      ->required()
      ->check(CLI::IsMember({"document", "completions"}));
  pairs_app->add_option("FILE", pair_arguments.files, "records")->required();
  pairs_app->add_option("--template-without", pair_arguments.without, "document: the prompt without the document");
  pairs_app->add_flag("--target", pair_arguments.target, "document: the first answer becomes the target");
  pairs_app
      ->add_option("--against", pair_arguments.against,
                   "document: a third condition, with text of the same length before the question that does not answer "
                   "it: another record's document | the own one with its words shuffled | both, with a comma")
      ->delimiter(',')
      ->check(CLI::IsMember({"unrelated", "shuffled"}));
  pairs_app->add_flag("--keep-pairs", pair_arguments.keep_pairs,
                      "document, --against: the records are pairs already and stay as they are");
  pairs_app
      ->add_option("--safe", pair_arguments.safe,
                   "completions: the safe side is from the data, from the refusal "
                   "sentences, or either: those where the data has none; or --model writes it")
      ->check(CLI::IsMember({"either", "data", "refusals", "model"}))
      ->capture_default_str();
  pairs_app->add_option("--tries", pair_arguments.asking.tries, "--safe model: at most; the first refusal counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  pairs_app->add_option("--temperature", pair_arguments.asking.sampling.temperature, "--safe model: of its text")
      ->check(not_nan_validator())
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str();
  pairs_app->add_option("--safe-instruction", pair_arguments.asking.instruction,
                        "--safe model: what it is asked, with {prompt} and {words} (default: docs/data.md)");
  pairs_app->add_option("--summary", pair_arguments.summary,
                        "--safe model: a JSON file that says which prompts were dropped and why");
  pairs_app->add_option("--device", pair_arguments.run.device, "--safe model: auto | cpu | cuda[:N]")
      ->capture_default_str();
  pairs_app->add_option("--threads", pair_arguments.run.threads, "--safe model: CPU threads, 0 = all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  pairs_app->add_option("--batch", pair_arguments.run.batch, "--safe model: sequences at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  pairs_app
      ->add_option("--seed", pair_arguments.seed,
                   "completions: of the order of refusal sentences, and of the model's text; document: of --against")
      ->capture_default_str();
  add_prompt(*pairs_app, o);
  add_prefix(*pairs_app, o);
  add_output(*pairs_app, o);

  CLI::App* split_app = app.add_subcommand("split", "detect, tune and test splits");
  split_app->footer(
      "Example:\n  signalbox data split tools/builtin/heldout/sum.jsonl --replace --fractions "
      "detect=0.5,tune=0.2,test=0.3 "
      "--out sums.jsonl");
  SplitArguments split_arguments;
  split_app->add_option("FILE", split_arguments.files, "records")->required();
  split_app->add_option("--fractions", split_arguments.fractions, "NAME=SHARE[,NAME=SHARE...], summing to 1")
      ->capture_default_str();
  split_app->add_option("--seed", split_arguments.options.seed, "of the draw")->capture_default_str();
  split_app->add_option("--key", split_arguments.options.key, "the key to set")->capture_default_str();
  split_app->add_option("--together", split_arguments.together,
                        "a key: records that share its value stay in one split (may be given again)");
  split_app->add_flag("--replace", split_arguments.options.replace, "give records that have a split another");
  add_output(*split_app, o);

  CLI::App* structural_app = app.add_subcommand("structural", "prompts generated for their structure");
  structural_app->footer("Example:\n  signalbox data structural --n 3 --entities 3 --steps 4 --distractors 2 --seed 1");
  StructuralOptions structural_options;
  std::string wording = "tokens";
  structural_app->add_option("--n", structural_options.n, "prompts")->capture_default_str();
  structural_app->add_option("--seed", structural_options.seed, "of all draws")->capture_default_str();
  structural_app->add_option("--style", wording, "tokens (holders of counted things) | builtin (what that model knows)")
      ->check(CLI::IsMember({"tokens", "builtin"}))
      ->capture_default_str();
  structural_app->add_option("--entities", structural_options.entities, "tokens: that the answer depends on")
      ->capture_default_str();
  structural_app->add_option("--steps,--hops", structural_options.steps, "tokens: dependent steps to the answer")
      ->capture_default_str();
  structural_app->add_option("--distractors", structural_options.distractors, "sentences that the answer does not need")
      ->capture_default_str();
  structural_app->add_flag("--no-spans", o.no_spans,
                           "builtin: without spans, which prompt programs cannot move in messages");
  add_prompt(*structural_app, o);
  add_output(*structural_app, o);

  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (convert_app->parsed()) return convert(convert_arguments, o);
  if (pairs_app->parsed()) return pairs(pair_arguments, *pairs_app, o);
  if (split_app->parsed()) return split(split_arguments, o);
  structural_options.builtin = wording == "builtin";
  if (o.no_spans && !structural_options.builtin)
    throw UsageError("--no-spans", "expected --style builtin, found tokens");
  if (structural_options.builtin && (structural_app->count("--entities") || structural_app->count("--steps")))
    throw UsageError("--entities, --steps", "expected the style tokens, found builtin (always two steps)");
  return structural(structural_options, o);
}

}  // namespace signalbox::tools
