// signalbox data check: what is in a file of records, what it is enough for, and what a run would refuse.
#include "tools/signalbox/data_check.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "base/text.h"
#include "eval/data/csv_records.h"
#include "eval/data/hints.h"
#include "loaders/model/load.h"
#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/data_jobs.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

namespace {

int64_t records_with(const Survey& survey, std::string_view key) {
  for (const auto& [name, n] : survey.keys)
    if (name == key) return n;
  return 0;
}

std::string of(int64_t n, const char* one, const char* many) { return std::to_string(n) + " " + (n == 1 ? one : many); }

// The two conditions to contrast, "A:B"; empty where there are fewer.
std::string contrast_of(const Survey& survey) {
  if (survey.conditions.size() < 2) return "";
  const auto has = [&](const char* name) {
    return std::any_of(survey.conditions.begin(), survey.conditions.end(),
                       [&](const auto& one) { return one.first == name; });
  };
  if (has("without_document") && has("with_document")) return "without_document:with_document";
  return survey.conditions[0].first + ":" + survey.conditions[1].first;
}

// A span that all records have, "question" before others.
std::string common_span(const Survey& survey) {
  std::string found;
  for (const SpanCount& span : survey.spans)
    if (span.records == survey.records && span.empty == 0 && (found.empty() || span.name == "question"))
      found = span.name;
  return found;
}

std::string metrics_of(const DataCheck& check) {
  std::vector<std::string> names;
  for (const Applicability& score : check.scores)
    for (const char* wanted : {"em", "contains", "choice_parsed", "refused"})
      if (score.scorer->name == wanted && score.any()) names.push_back(wanted);
  return names.empty() ? "length,repetition" : joined(names, ",");
}

bool both_sides(const std::vector<Record>& records, const std::string& split, const std::string& contrast) {
  const size_t colon = contrast.find(':');
  const auto has = [&](const std::string& condition) {
    return std::any_of(records.begin(), records.end(),
                       [&](const Record& r) { return r.split == split && r.condition == condition; });
  };
  return has(contrast.substr(0, colon)) && has(contrast.substr(colon + 1));
}

bool has_value(const Counted& counts, const char* value) {
  return std::any_of(counts.begin(), counts.end(), [&](const auto& one) { return one.first == value; });
}

void add_commands(DataCheck& check, const std::vector<Record>& records) {
  const Survey& s = check.survey;
  const std::string given = check.files.front(), file = shell_word(given);
  const std::string model = check.model.empty() ? "builtin" : shell_word(check.model);
  const auto add = [&](const char* name, std::string lacking, std::string line) {
    check.commands.push_back({name, std::move(lacking), std::move(line)});
  };
  const std::string one_file = check.files.size() > 1 ? "one file; these are several" : "";
  add("generate", one_file, "signalbox generate " + model + " --input " + file + " --max-tokens 32 --json");
  add("score",
      !one_file.empty() ? one_file
      : s.targets == 0  ? "a target in each record, else whole prompts are scored"
                        : "",
      "signalbox score " + model + " --input " + file + " --json");
  const std::string contrast = contrast_of(s), span = common_span(s);
  std::string two = one_file;
  if (two.empty() && contrast.empty()) {
    const std::string made = hint_for_condition(given, records);
    two = std::string("two conditions; ") + (s.conditions.empty() ? "no record has one" : "all records have the same") +
          (made.empty() ? "" : made);
  }
  const std::string span_flag = span.empty() ? "" : " --span " + shell_word(span);
  add("trace and analyze", two,
      "signalbox trace " + model + " --input " + file + " --out out/trace && signalbox analyze out/trace --contrast " +
          shell_word(contrast) + span_flag);
  std::string deactivate = two, split_flag;
  if (two.empty()) {
    if (s.splits.empty()) {
      split_flag = " --split 0.5";
    } else if (!has_value(s.splits, "detect") || !has_value(s.splits, "test")) {
      deactivate = "splits named detect and test (or --detect and --test with the names that are there); " +
                   split_command(given, true);
    } else if (!both_sides(records, "detect", contrast) || !both_sides(records, "test", contrast)) {
      deactivate = "both conditions in either split; " + split_command(given, true);
    }
  }
  add("deactivate", deactivate,
      "signalbox deactivate " + model + " --data " + file + " --contrast " + shell_word(contrast) + span_flag +
          split_flag + " --top 8 --max-tokens 32 --metrics " + metrics_of(check) + " --out out/deactivate");
  add("misroute", one_file,
      "signalbox misroute " + model + " --data " + file + " --max-tokens 32 --metrics " + metrics_of(check) +
          " --out out/misroute");
  std::string asks = one_file;
  if (s.tokens > 0) asks = "prompts or messages, no tokens";
  std::string study = asks;
  if (study.empty() && s.targets > 0) study = "no target, for the model writes the answer";
  add("faithfulness", study,
      "signalbox faithfulness " + model + " --input " + file + " --max-tokens 64 --out out/faithfulness");
  std::string regimes = asks;
  if (regimes.empty() && s.messages > 0 && !s.spans.empty())
    regimes = "messages without spans, for regimes change their text";
  add("regimes", regimes, "signalbox regimes " + model + " --input " + file + " --out out/regimes");
  const std::string pairs = pairs_command(given, records);
  if (s.pairs == 0)
    add("data pairs",
        pairs.empty() ? "a \"question\" and a \"document\", or an \"unsafe\" completion, in each record" : "", pairs);
  if (s.splits.empty()) add("data split", one_file, split_command(given));

  if (!check.problems.empty()) return;
  for (const char* wanted : {"deactivate", "misroute", "generate"})
    for (const CommandUse& use : check.commands)
      if (check.next.empty() && use.name == wanted && use.lacking.empty()) check.next = use.line;
}

void add_cautions(DataCheck& check) {
  const Survey& s = check.survey;
  std::vector<std::string>& out = check.cautions;
  const auto all = [&](std::string_view name) {
    return name == "answers"     ? s.answers
           : name == "condition" ? static_cast<int64_t>(s.conditions.size())
           : name == "domain"    ? static_cast<int64_t>(s.domains.size())
           : name == "target"    ? s.targets
           : name == "pair"      ? s.pairs
           : name == "spans"     ? static_cast<int64_t>(s.spans.size())
                                 : records_with(s, name);
  };
  for (const auto& [theirs, ours] : other_names())
    if (records_with(s, theirs) > 0 && all(ours) == 0)
      out.push_back("the key " + in_quotes(theirs) + " is carried along but not read; if it is what is called " +
                    in_quotes(ours) + " here: signalbox data convert " +
                    (is_csv_file(check.files.front()) ? "csv " : "jsonl ") + shell_word(check.files.front()) +
                    " --map " + std::string(ours) + "=" + std::string(theirs) + " --out " +
                    shell_word(made_file(check.files.front(), "records")));
  if (s.complete_pairs < s.pairs)
    out.push_back(
        of(s.pairs - s.complete_pairs, "pair", "pairs") + " of " + std::to_string(s.pairs) +
        " are not complete (first: " + s.first_incomplete +
        "). A contrast uses their records for the difference and its interval, not for p and q. Complete them, "
        "or leave them out");
  if (s.copies.any()) out.push_back(copies_sentence(s.copies, "records"));
  if (s.shared_between_splits > 0 && s.problems.empty())
    out.push_back(of(s.shared_between_splits, "record has", "records have") +
                  " a prompt that another split has too, as " +
                  "one side of different pairs. Runs allow that; for splits that share nothing: " +
                  split_command(check.files.front(), true));
  for (const SpanCount& span : s.spans)
    if (span.empty > 0)
      out.push_back("span " + in_quotes(span.name) + " is empty in " + of(span.empty, "record", "records") +
                    ": nothing of them is counted or edited under it");
  if (s.empty_targets > 0)
    out.push_back(of(s.empty_targets, "target is", "targets are") + " empty: ppl, nll and kl of them are undefined");
  const auto few = std::min_element(s.conditions.begin(), s.conditions.end(),
                                    [](const auto& a, const auto& b) { return a.second < b.second; });
  if (s.conditions.size() > 1 && few->second < 20)
    out.push_back("only " + of(few->second, "record", "records") + " under " + in_quotes(few->first) +
                  ": with fewer than 20 a side, and in each split, intervals are too narrow. A first look is fine; "
                  "conclusions need more");
  for (const Applicability& score : check.scores)
    if (!score.refused.empty())
      out.push_back("a run with the metric " + std::string(score.scorer->name) + " would stop at " + score.refused);
  if (!check.tokens) return;
  const TokenSurvey& t = *check.tokens;
  for (const auto& [name, n] : t.without_tokens)
    out.push_back("span " + in_quotes(name) + " covers no token in " + of(n, "record", "records") +
                  ", though it covers text: the tokenizer drops that text");
  if (!t.special.empty()) {
    std::vector<std::string> names;
    for (const auto& [piece, n] : t.special) names.push_back(piece + " in " + of(n, "record", "records"));
    out.push_back("the texts spell out special tokens (" + joined(names) + "; first: " + in_quotes(t.first_special) +
                  "), which become those tokens, as in Hugging Face; with --special template-only they stay text");
  }
  if (t.has_template && s.prompts > 0)
    out.push_back(of(s.prompts, "record is a raw prompt", "records are raw prompts") +
                  ", and the model has a chat template, which these do not go through. For a model of chats write "
                  "messages: --chat --model " +
                  shell_word(check.model) + " with data convert or data pairs");
}

}  // namespace

DataCheck check_data(const std::vector<std::string>& files, const std::string& model) {
  DataCheck check;
  check.files = files;
  check.model = model;
  CheckedFiles read = read_all(files);
  check.lines = read.lines;
  check.problems = std::move(read.problems);
  const std::vector<Record>& records = read.records;
  check.survey = survey(records, files.front());
  check.problems.insert(check.problems.end(), check.survey.problems.begin(), check.survey.problems.end());
  check.scores = applicable_scores(records);
  if (!model.empty()) {
    const ResolvedModel resolved = resolve_model(model, builtin_files());
    const TextTools text = open_text(*resolved.files);
    EncodeSetup setup;
    setup.tokenizer = text.tokenizer.get();
    setup.chat_template = text.chat_template.get();
    int64_t context = 0;
    if (resolved.files->has("config.json")) {  // a tokenizer by itself has none
      const LoadedConfig config = load_config(resolved);
      setup.n_vocab = config.model.n_vocab;
      context = config.model.max_positions;
    }
    check.tokens = token_survey(records, setup, context);
    check.problems.insert(check.problems.end(), check.tokens->problems.begin(), check.tokens->problems.end());
  }
  if (records.empty()) return check;  // nothing to speak of
  add_cautions(check);
  add_commands(check, records);
  return check;
}

DataJob add_check_job(CLI::App& app, DataOptions& o) {
  struct Arguments {
    std::vector<std::string> files;
    std::string model;
    bool json = false;
  };
  CLI::App* job =
      app.add_subcommand("check", "what is in a file, what it is enough for, and all that is wrong with it");
  job->footer(
      "Exit code 1 when a run would refuse the file, else 0, cautions or not.\n\n"
      "Example:\n  signalbox data check tools/builtin/heldout/pairs.jsonl --model builtin");
  const auto a = std::make_shared<Arguments>();
  job->add_option("FILE", a->files, "records, JSON lines or CSV; - = standard input")->required();
  job->add_option("--model", a->model, "also: tokens, special tokens, context and chat template of this model");
  job->add_flag("--json", a->json, "machine output");
  job->add_flag("--quiet", o.quiet, "nothing but problems and cautions");
  return {job, [a, &o] {
            const DataCheck check = check_data(a->files, a->model);
            write_stdout(a->json ? json::dump(check_json(check)) + "\n" : check_text(check, o.quiet));
            return check.problems.empty() ? 0 : 1;
          }};
}

}  // namespace signalbox::tools
