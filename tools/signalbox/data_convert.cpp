// signalbox data convert: records from other people's files, or from rows of any keys.
#include <CLI/CLI.hpp>
#include <memory>

#include "eval/data/convert.h"
#include "tools/signalbox/data_jobs.h"

namespace signalbox::tools {

namespace {

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
  bool new_ids = false;
};

int convert(const ConvertArguments& a, const DataOptions& o) {
  const bool mapped = a.format == "jsonl" || a.format == "csv";
  const Converter* converter = find_converter(a.format);
  if (!converter && !mapped)
    throw UsageError("FORMAT",
                     "expected a format that signalbox data convert --help lists, found \"" + a.format + "\"");
  if (!mapped && a.new_ids) throw UsageError("--new-ids", "expected the format jsonl or csv beside it");
  if (!mapped && !a.map.empty()) throw UsageError("--map", "expected the format jsonl or csv beside it");
  need_chat_for_model(o);
  OpenedStyle opened = open_style(o);
  if (!o.text.empty()) PromptTemplate::parse(o.text, "--template");  // refused before the files are read
  std::vector<Row> drafts;
  if (mapped) {
    for (const std::string& file : a.files)
      if (is_csv_file(file) != (a.format == "csv"))
        throw UsageError(file, "expected a file of format " + a.format + ", found another by its name");
    drafts = read_mapped(a.files, a.map.empty() ? KeyMap{} : parse_key_map(a.map), a.new_ids);
  } else {
    opened.style.plain = converter->plain;
    opened.style.instruction = converter->instruction;
    drafts = converter->read(a.files);
  }
  if (a.limit > 0 && static_cast<int64_t>(drafts.size()) > a.limit) drafts.resize(static_cast<size_t>(a.limit));
  return finish(o, place_all(drafts, opened.style, o));
}

}  // namespace

DataJob add_convert_job(CLI::App& app, DataOptions& o) {
  CLI::App* job = app.add_subcommand("convert", "public formats to records");
  job->footer(formats_help());
  const auto a = std::make_shared<ConvertArguments>();
  job->add_option("FORMAT", a->format, "see below")->required();
  job->add_option("FILE", a->files, "files of that format; jsonl: - = standard input")->required();
  job->add_option("--map", a->map, "jsonl and csv: OURS=THEIRS[,OURS=THEIRS...]");
  job->add_option("--limit", a->limit, "the first N records only, 0 = all")->check(at_least(0));
  job->add_flag("--new-ids", a->new_ids,
                "jsonl and csv: ids FILE-1, FILE-2, ... in place of the file's own, which become source_id");
  add_prompt(*job, o);
  add_output(*job, o);
  return {job, [a, &o] { return convert(*a, o); }};
}

}  // namespace signalbox::tools
