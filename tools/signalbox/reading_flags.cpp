#include "tools/signalbox/reading_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "base/json.h"
#include "probes/edit_spec.h"

namespace signalbox::tools {

TokenChoice ReadingFlags::choice() const {
  TokenChoice choice;
  choice.span = span;
  choice.last = positions == "last";
  if (choice.last || positions == "all") return choice;
  const json::Value tokens = json::Value::object().set("positions", positions);
  try {
    const TokenSelector selector = TokenSelector::parse(json::Ref(tokens, "--positions"));
    choice.begin = selector.begin;
    choice.end = selector.end;
  } catch (const Error&) {
    throw UsageError("--positions",
                     "expected all, last or a range BEGIN:END (\"0:32\", \"5:\"), found \"" + positions + "\"");
  }
  return choice;
}

std::vector<int32_t> ReadingFlags::layers_of(const ModelShape& shape, bool routers) const {
  const json::Value text = layers;
  LayerList list;
  try {
    list = LayerList::parse(json::Ref(text, "--layers"));
  } catch (const Error& error) {
    throw UsageError(error.where(), error.reason());
  }
  if (list.all) list.items = {{0, shape.n_layers() - 1, true}};
  std::vector<int32_t> found;
  for (const LayerList::Item& item : list.items) {
    if (item.last >= shape.n_layers())
      throw UsageError("--layers", "expected layers below " + std::to_string(shape.n_layers()) + ", found " +
                                       std::to_string(item.last));
    for (int32_t l = item.first; l <= item.last; ++l) {
      if (!routers || shape.layers[static_cast<size_t>(l)].moe)
        found.push_back(l);
      else if (!item.range)
        throw UsageError("--layers", "expected layers with a router (" + layer_ranges(shape.moe_layers()) +
                                         "), found " + std::to_string(l));
    }
  }
  if (found.empty())
    throw UsageError("--layers", "expected a layer with a router (" + layer_ranges(shape.moe_layers()) +
                                     "), found none in " + layers);
  std::sort(found.begin(), found.end());
  return found;
}

void add_reading_options(CLI::App& app, ReadingFlags& flags, const std::string& help_of_top,
                         const std::string& help_of_tokens) {
  app.add_option("--layers", flags.layers, "layers to read, \"3-20,25\", or all")->capture_default_str();
  app.add_option("--positions", flags.positions,
                 "tokens to read: BEGIN:END (half-open, the begin token has 0), last (of each record), or all")
      ->capture_default_str();
  app.add_option("--span", flags.span, "only tokens of this span of the records");
  app.add_option("--top", flags.top, help_of_top)->check(in_range(1, 1 << 30))->capture_default_str();
  app.add_option("--tokens", flags.tokens, help_of_tokens)
      ->type_name("IDS")
      ->delimiter(',')
      ->check(in_range(0, 1 << 30));
}

int n_threads(const CommonOptions& options) {
  return options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace signalbox::tools
