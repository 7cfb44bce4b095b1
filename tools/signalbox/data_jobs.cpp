#include "tools/signalbox/data_jobs.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/files.h"
#include "eval/data/convert.h"
#include "eval/data/records.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

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

std::vector<Row> rows_of(const std::vector<std::string>& files) {
  std::vector<Row> rows;
  for (const std::string& file : files)
    for (const Record& record : read_records(file)) rows.push_back({record.where, record.source});
  return rows;
}

}  // namespace signalbox::tools
