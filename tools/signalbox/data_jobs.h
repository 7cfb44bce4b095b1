// What the jobs of `signalbox data` share: their flags, prompts from templates, and checked records on the way out.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/csv_records.h"
#include "eval/data/prompt_template.h"
#include "loaders/open.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

using namespace eval;

// What the jobs share.
struct DataOptions {
  std::string out;
  bool quiet = false;
  std::string text, system, model, variables, date;  // of prompts
  bool chat = false, no_spans = false;
  std::string prefix = "auto";
};

// --out and --quiet; --model and what its template sees; --template, --chat, --system and --model; --target-prefix.
void add_output(CLI::App& app, DataOptions& o);
void add_model(CLI::App& app, DataOptions& o);
void add_prompt(CLI::App& app, DataOptions& o);
void add_prefix(CLI::App& app, DataOptions& o);

// The text tools stay alive as long as the style that points at them.
struct OpenedStyle {
  TextTools text;
  PromptStyle style;
};
OpenedStyle open_style(const DataOptions& o);  // Throws UsageError, Error
void need_chat_for_model(const DataOptions& o);

// A line on standard error, unless --quiet.
void note(const DataOptions& o, const std::string& text);
// Checks the records and writes them; returns the exit code.
int finish(const DataOptions& o, const std::vector<Row>& rows);
// Drafts with a question become records; whole records stay as they are, unless a template asks for another prompt.
std::vector<Row> place_all(const std::vector<Row>& drafts, const PromptStyle& style, const DataOptions& o);
// Records of input files as rows with their places.
std::vector<Row> rows_of(const std::vector<std::string>& files);

// A job: its subcommand with its flags, and what runs when it was asked for.
struct DataJob {
  CLI::App* app = nullptr;
  std::function<int()> run;
};
DataJob add_check_job(CLI::App& app, DataOptions& o);
DataJob add_convert_job(CLI::App& app, DataOptions& o);
DataJob add_pairs_job(CLI::App& app, DataOptions& o);
DataJob add_split_job(CLI::App& app, DataOptions& o);
DataJob add_structural_job(CLI::App& app, DataOptions& o);

}  // namespace signalbox::tools
