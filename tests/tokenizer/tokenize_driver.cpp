// A tokenizer from the command line, for the differential tests: JSON lines in, JSON lines out.
//   tokenize_driver DIR [--time: processor seconds instead of lines] [--no-special] [--special template-only]
//   [--offsets] [--stream] [--target] [--decode] < in
// {"id", "prompt"} gives {"id", "ids", "pieces"}; --decode: {"id", "tokens"} gives {"id", "text"}.
#include <cstdio>
#include <ctime>
#include <iostream>
#include <set>

#include "base/json.h"
#include "loaders/tokenizer/tokenizer.h"

using namespace signalbox;
using namespace signalbox::tools;

namespace {

double cpu_now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

json::Value decoded(const Tokenizer& tokenizer, const json::Value& record, bool stream) {
  std::vector<int32_t> ids;
  for (const json::Value& id : record.find("tokens")->items()) ids.push_back(static_cast<int32_t>(id.integer()));
  json::Value out = json::Value::object();
  out.set("id", *record.find("id"));
  const json::Value* skip = record.find("skip_special");
  const bool skip_special = skip && skip->boolean();
  std::string text;
  if (stream) {
    const auto tokens = tokenizer.stream(skip_special);
    for (int32_t id : ids) text += tokens->push(id);
    text += tokens->finish();
  } else {
    text = tokenizer.decode(ids, skip_special);
  }
  out.set("text", text);
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 2) throw Error("command line", "expected a directory");
    std::set<std::string> flags(argv + 2, argv + argc);
    const auto start = cpu_now();
    const auto tokenizer = load_tokenizer(argv[1]);
    const double load = cpu_now() - start;
    if (flags.count("--time")) std::fprintf(stderr, "load %.3f s: %s\n", load, tokenizer->description().c_str());
    EncodeOptions options;
    options.add_special = !flags.count("--no-special");
    if (flags.count("template-only")) options.special = SpecialTokens::as_text;
    std::string line;
    std::ios::sync_with_stdio(false);
    while (std::getline(std::cin, line)) {
      const json::Value record = json::parse(line, "stdin");
      if (flags.count("--decode")) {
        std::cout << json::dump(decoded(*tokenizer, record, flags.count("--stream") > 0)) << "\n";
        continue;
      }
      const std::string& text = record.find("prompt")->string();
      const auto before = cpu_now();
      const Encoding encoding =
          flags.count("--target") ? tokenizer->encode_target(text, options.special) : tokenizer->encode(text, options);
      const double took = cpu_now() - before;
      if (flags.count("--time"))
        std::fprintf(stderr, "%-28s %8zu bytes %8zu tokens %8.3f s\n", record.find("id")->string().c_str(), text.size(),
                     encoding.ids.size(), took);
      if (flags.count("--time")) continue;
      json::Value out = json::Value::object(), ids = json::Value::array(), pieces = json::Value::array(),
                  offsets = json::Value::array();
      for (size_t i = 0; i < encoding.ids.size(); ++i) {
        ids.push_back(encoding.ids[i]);
        pieces.push_back(tokenizer->piece(encoding.ids[i]));
        json::Value offset = json::Value::array();
        offset.push_back(int64_t{encoding.offsets[i].begin}).push_back(int64_t{encoding.offsets[i].end});
        offsets.push_back(std::move(offset));
      }
      out.set("id", *record.find("id")).set("ids", std::move(ids)).set("pieces", std::move(pieces));
      if (flags.count("--offsets")) out.set("offsets", std::move(offsets));
      std::cout << json::dump(out) << "\n";
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "signalbox: error: %s\n", error.what());
    return 1;
  }
}
