// A small run whose every line follows from its place.
#pragma once
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "eval/store/directory.h"
#include "tests/support.h"

namespace signalbox::test {

using namespace signalbox::eval;

inline Layout sample_layout(std::vector<std::string> records = {"a", "b", "c"},
                            std::vector<int64_t> samples = {1, 3, 2}) {
  Layout layout;
  layout.seeds = {0, 18446744073709551615u};
  layout.interventions = {"baseline", "off", "mis/policy=random,fraction=0.25"};
  layout.records = std::move(records);
  layout.samples = std::move(samples);
  layout.index();
  return layout;
}

// Lengths from tens of bytes to a few thousand, with characters of several bytes.
inline std::string sample_text(const Layout& layout, const Place& place) {
  const std::string& id = layout.records.at(static_cast<size_t>(place.record));
  const size_t length = (static_cast<size_t>(id.back()) * 37 + static_cast<size_t>(place.intervention) * 101 +
                         static_cast<size_t>(place.sample) * 7 + static_cast<size_t>(place.seed) * 3) %
                        (place.sample == 1 ? 4000 : 90);
  json::Value line = json::Value::object();
  line.set("seed", layout.seeds.at(static_cast<size_t>(place.seed)))
      .set("intervention", layout.interventions.at(static_cast<size_t>(place.intervention)))
      .set("id", id)
      .set("sample", place.sample)
      .set("text", "\xc3\xa9\n\"" + std::string(length, 'x'))
      .set("scores", json::Value::object().set("em", 0.5));
  return json::dump(line);
}

inline std::string whole_text(const Layout& layout) {
  std::string text;
  for (int64_t i = 0; i < layout.n_lines(); ++i) text += sample_text(layout, layout.place(i)) + "\n";
  return text;
}

// Lines 0 ... n - 1 in an order that a run could finish them in.
inline std::vector<int64_t> shuffled(int64_t n, uint64_t seed) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < n; ++i) order.push_back(i);
  for (int64_t i = n - 1; i > 0; --i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[static_cast<size_t>(i)], order[(seed >> 33) % static_cast<uint64_t>(i + 1)]);
  }
  return order;
}

inline void put_missing(SampleLog& log, uint64_t seed = 0) {
  for (int64_t i : seed ? shuffled(log.n_lines(), seed) : shuffled(log.n_lines(), 12345))
    if (!log.has(i)) log.put(i, sample_text(log.layout(), log.layout().place(i)));
}

inline Manifest sample_manifest(Shard shard = {}, std::optional<Layout> layout = std::nullopt) {
  Manifest manifest;
  json::Value spec = json::parse(R"({"model": "builtin", "generate": {"max_tokens": 32, "temperature": 0},
                                     "interventions": [{"name": "baseline"}, {"name": "off", "layers": "1-3"}]})",
                                 "spec");
  json::Value hashes = json::Value::object();
  hashes.set("data", std::string(63, 'a') + "0").set("weights", json::Value::object().set("w", std::string(64, 'b')));
  manifest.identity.set("spec", std::move(spec)).set("hashes", std::move(hashes)).set("isa", "avx2");
  manifest.info.set("argv", json::Value::array().push_back("run").push_back("spec.json")).set("threads", 2);
  manifest.shard = shard;
  manifest.layout = std::move(layout);
  return manifest;
}

// The message of the Error that `run` throws, or "no error".
template <class Run>
std::string message_of(Run run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace signalbox::test
