// signalbox rationale convert: evidence and gold labels from other files (docs/rationales.md).
#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/data/convert.h"
#include "eval/rationale/choice_records.h"
#include "eval/rationale/conll.h"
#include "eval/rationale/world_facts.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/rationale.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

struct ConvertRationaleFlags {
  std::string format, out, split;
  std::vector<std::string> files;
  ConllColumns columns;
};

CLI::App* add_convert_flags(CLI::App& app, ConvertRationaleFlags& flags) {
  CLI::App* command = app.add_subcommand("convert", "ERASER files of the built-in world, records of CoNLL files");
  command->footer(
      "FORMAT is one of:\n"
      "  world  records about the built-in model's world: --out gets a directory with docs/, SPLIT.jsonl and "
      "records.jsonl, whose evidence are the sentences that answer the question\n"
      "  conll  a word a line with its tag: --out gets records with words and tags\n"
      "Example:\n  signalbox rationale convert world tools/builtin/heldout/choices.jsonl --out /tmp/world");
  command->add_option("FORMAT", flags.format, "world or conll")->required()->check(one_of({"world", "conll"}));
  command->add_option("FILES", flags.files, "what is read, one after the other")->required()->type_name("FILE");
  command->add_option("--out", flags.out, "directory (world) or file (conll)")->type_name("PATH")->required();
  command->add_option("--split", flags.split, "of all sentences of conll: train, validation or test")
      ->check(one_of({"train", "validation", "test"}));
  command->add_option("--word-column", flags.columns.word, "of conll, from 1; from the end below 0")
      ->check(in_range(int64_t{-1000}, int64_t{1000}))
      ->capture_default_str();
  command->add_option("--tag-column", flags.columns.tag, "of conll")
      ->check(in_range(int64_t{-1000}, int64_t{1000}))
      ->capture_default_str();
  return command;
}

json::Value evidence_json(const WorldRecord& record) {
  json::Value group = json::Value::array();
  for (const WorldRecord::Evidence& one : record.evidence)
    group.push_back(json::Value::object()
                        .set("docid", record.id)
                        .set("end_sentence", one.sentence + 1)
                        .set("end_token", one.end)
                        .set("start_sentence", one.sentence)
                        .set("start_token", one.start)
                        .set("text", one.text));
  return json::Value::array().push_back(std::move(group));
}

int convert_world(const ConvertRationaleFlags& flags) {
  const std::vector<std::string> names = {"docs", "train.jsonl", "val.jsonl", "test.jsonl", "records.jsonl"};
  require_own_directory(flags.out, names, "converted rationales");
  std::map<std::string, std::string> splits;
  std::string records;
  std::map<std::string, std::string> documents;
  std::map<std::string, int64_t> counts;
  for (const std::string& file : flags.files)
    for (const Record& record : read_records(file)) {
      const WorldRecord world = world_record(record);
      std::string document;
      for (const auto& sentence : world.sentences) document += joined(sentence, " ") + "\n";
      if (world.id.empty() || world.id.find('/') != std::string::npos || world.id.front() == '.')
        throw Error(record.where, "expected an id that can name a file, found " + in_quotes(world.id));
      if (!documents.emplace(world.id, document).second)
        throw Error(record.where, "expected an id of its own, found " + in_quotes(world.id) + " again");
      std::string query = world.question;
      for (size_t c = 0; c < world.choices.size(); ++c) query += " " + choice_name(c) + ")" + world.choices[c];
      splits[world.split] += json::dump(json::Value::object()
                                            .set("annotation_id", world.id)
                                            .set("classification", choice_name(static_cast<size_t>(world.choice)))
                                            .set("docids", json::Value::array().push_back(world.id))
                                            .set("evidences", evidence_json(world))
                                            .set("query", query)
                                            .set("query_type", world.evidence.size() == 1 ? "one fact" : "two facts")) +
                             "\n";
      ++counts[world.split];
      json::Value line = record.source, choices = json::Value::array(), evidence = json::Value::array();
      for (const std::string& choice : world.choices) choices.push_back(choice);
      for (const WorldRecord::Evidence& one : world.evidence)
        evidence.push_back(json::Value::array().push_back(one.start).push_back(one.end));
      line.set("document", world.document).set("question", world.question).set("split", world.split);
      line.set("choices", std::move(choices)).set("choice", world.choice).set("evidence", std::move(evidence));
      records += json::dump(line) + "\n";
    }
  StagedFiles staged(flags.out, names);
  fs::create_directories(staged.path() / "docs");
  for (const auto& [id, text] : documents) write_file_atomically(staged.path() / "docs" / id, text);
  for (const auto& [split, text] : splits) write_file_atomically(staged.path() / (split + ".jsonl"), text);
  write_file_atomically(staged.path() / "records.jsonl", records);
  staged.commit();
  std::string text;
  for (const auto& [split, n] : counts) text += std::to_string(n) + " in " + split + ".jsonl\n";
  write_stdout(text);
  return 0;
}

int convert_conll(const ConvertRationaleFlags& flags) {
  std::string text;
  int64_t n = 0;
  for (const std::string& file : flags.files) {
    const std::string stem = file_stem(file);
    int64_t number = 0;
    for (const ConllSentence& sentence : read_conll(file, flags.columns)) {
      json::Value words = json::Value::array(), tags = json::Value::array(), line = json::Value::object();
      for (const std::string& word : sentence.words) words.push_back(word);
      for (const std::string& tag : sentence.tags) tags.push_back(tag);
      line.set("id", stem + "-" + std::to_string(++number)).set("prompt", joined(sentence.words, " "));
      line.set("words", std::move(words)).set("tags", std::move(tags));
      if (!flags.split.empty()) line.set("split", flags.split);
      text += json::dump(line) + "\n";
      ++n;
    }
  }
  write_file_atomically(flags.out, text);
  write_stdout(std::to_string(n) + " sentences in " + flags.out + "\n");
  return 0;
}

int run_convert(const ConvertRationaleFlags& flags, const CLI::App& command) {
  if (flags.format == "conll") return convert_conll(flags);
  for (const char* flag : {"--split", "--word-column", "--tag-column"})
    if (command.count(flag) > 0) throw UsageError(flag, "expected the format conll, found world");
  return convert_world(flags);
}

}  // namespace

Subcommand add_rationale_convert(CLI::App& app) {
  auto flags = std::make_shared<ConvertRationaleFlags>();
  CLI::App* added = add_convert_flags(app, *flags);
  return {added, [flags, added](int, char**) { return run_convert(*flags, *added); }};
}

}  // namespace signalbox::tools
