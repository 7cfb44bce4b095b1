// signalbox tokenize: text to tokens and back.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "eval/data/records.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

using namespace eval;

namespace {

json::Value pieces_of(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  json::Value pieces = json::Value::array();
  for (int32_t id : ids) pieces.push_back(tokenizer.piece(id));
  return pieces;
}

// In one line: control characters as JSON writes them.
std::string shown(const std::string& piece) {
  const bool plain = std::none_of(piece.begin(), piece.end(),
                                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return plain ? piece : json::dump(json::Value(piece));
}

std::string table(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string text;
  for (int32_t id : ids) {
    char number[16];
    std::snprintf(number, sizeof number, "%8d  ", id);
    const std::string piece = tokenizer.piece(id);
    text +=
        number + (piece.empty() ? "(no token)" : shown(piece)) + (tokenizer.is_special(id) ? "  (special)" : "") + "\n";
  }
  return text;
}

}  // namespace

int tokenize_command(int argc, char** argv) {
  CLI::App app("Tokens of standard input, or of each record of a file; --decode for the way back.",
               "signalbox tokenize");
  app.footer(
      "Examples:\n  echo -n \"The capital of Velmora\" | signalbox tokenize builtin\n"
      "  echo '{\"id\":\"a\",\"tokens\":[1,289,28,313,28]}' | signalbox tokenize builtin --decode --input -");
  CommonOptions options;
  std::string input;
  bool decode = false, no_special = false;
  app.add_option("MODEL", options.model, "a model, or a directory with tokenizer files alone")->required();
  app.add_option("--input", input, "records, a JSON object a line; - = standard input")->type_name("FILE");
  app.add_flag("--decode", decode, "records with tokens to a line of JSON with text and pieces, special tokens kept");
  app.add_flag("--no-special", no_special, "add no begin or end token");
  app.add_option("--special", options.special, "special tokens in the text: parse | template-only (they stay text)")
      ->check(one_of({"parse", "template-only"}))
      ->capture_default_str();
  app.add_option("--template-variables", options.template_variables, "a JSON object for the chat template");
  app.add_option("--date", options.date, "date that chat templates see, YYYY-MM-DD (default: today)")
      ->check(date_validator());
  app.add_flag("--json", options.json, "a line of JSON a record");
  app.add_flag("--quiet", options.quiet, "no progress");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (decode)
    for (const char* flag : {"--no-special", "--special", "--template-variables", "--date"})
      if (app.count(flag) > 0) throw UsageError(flag, "expected no --decode beside it, which takes tokens as they are");

  const TextTools text = open_text(options.model, true);
  const Tokenizer& tokenizer = *text.tokenizer;
  if (decode) {
    if (input.empty()) throw UsageError("--decode", "expected --input beside it, found none");
    for (const Record& record : read_records(input)) {
      if (record.kind != Record::Kind::tokens) throw Error(record.where, "expected the key \"tokens\", found none");
      const std::string decoded = tokenizer.decode(record.tokens, false);
      json::Value line = json::Value::object();
      line.set("id", record.id).set("text", decoded).set("pieces", pieces_of(tokenizer, record.tokens));
      carry_keys(record, line);
      write_stdout(json::dump(line) + "\n");
    }
    return 0;
  }
  EncodeSetup setup;
  setup.tokenizer = &tokenizer;
  setup.chat_template = text.chat_template.get();
  setup.add_special = !no_special;
  setup.template_only_specials = options.special == "template-only";
  if (!options.template_variables.empty())
    setup.template_variables = json::parse(options.template_variables, "--template-variables");
  json::Ref(setup.template_variables, "--template-variables").expect_object();
  if (!options.date.empty()) setup.template_variables.set("date", options.date);

  if (input.empty()) {
    const std::string all((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    EncodeOptions encode;
    encode.add_special = !no_special;
    if (setup.template_only_specials) encode.special = SpecialTokens::as_text;
    const Encoding encoding = tokenizer.encode(all, encode);
    if (options.json) {
      json::Value line = json::Value::object(), ids = json::Value::array();
      for (int32_t id : encoding.ids) ids.push_back(int64_t{id});
      line.set("id", "standard input").set("ids", std::move(ids)).set("pieces", pieces_of(tokenizer, encoding.ids));
      write_stdout(json::dump(line) + "\n");
    } else {
      write_stdout(table(tokenizer, encoding.ids));
    }
    return 0;
  }
  for (const Record& record : read_records(input)) {
    stop_if_interrupted();
    Record without_target = record;
    without_target.target.reset();
    const EncodedRecord encoded = encode_record(without_target, setup, {});
    const std::vector<int32_t>& ids = encoded.prompt->tokens;
    if (options.json) {
      json::Value line = json::Value::object(), list = json::Value::array();
      for (int32_t id : ids) list.push_back(int64_t{id});
      line.set("id", record.id).set("ids", std::move(list)).set("pieces", pieces_of(tokenizer, ids));
      if (record.kind == Record::Kind::messages) line.set("text", encoded.text);
      carry_keys(record, line);
      write_stdout(json::dump(line) + "\n");
    } else {
      write_stdout(record.id + ":\n" + table(tokenizer, ids));
    }
  }
  return 0;
}

}  // namespace signalbox::tools
