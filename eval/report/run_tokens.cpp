#include "eval/report/run_tokens.h"

#include <algorithm>
#include <vector>

#include "base/json.h"
#include "eval/findings/format.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/routes_samples.h"
#include "eval/routing/trace_set.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr size_t most_traces = 5;            // the baseline's among them
constexpr int64_t bytes_of_trace = 240'000;  // of routes and texts

// The trace of an intervention; empty where there is none.
fs::path trace_of(const fs::path& dir, const std::string& name) {
  const fs::path at = dir / "traces" / name;
  if (fs::exists(at / "trace.safetensors")) return at;
  std::vector<fs::path> seeds;
  if (fs::is_directory(at))
    for (const auto& entry : fs::directory_iterator(at))
      if (entry.path().filename().string().starts_with("seed-") && fs::exists(entry.path() / "trace.safetensors"))
        seeds.push_back(entry.path());
  return seeds.empty() ? fs::path() : *std::min_element(seeds.begin(), seeds.end());
}

}  // namespace

std::string tokens_section(const fs::path& dir, const FindingsIndex& findings) {
  std::vector<std::string> names = findings.main_names();
  names.insert(names.begin(), findings.baseline());
  json::Value traces = json::Value::array();
  std::string blocks;
  size_t left_out = 0, n_traces = 0;
  for (const std::string& name : names) {
    const fs::path trace = trace_of(dir, name);
    if (trace.empty()) {
      if (name == findings.baseline()) return "";
      continue;
    }
    if (n_traces == most_traces) {
      ++left_out;
      continue;
    }
    const PackedSamples packed = pack_samples(trace, {bytes_of_trace, 600, 60});
    const std::string id = "run-trace-" + std::to_string(n_traces++);
    traces.push_back(json::Value::object().set("name", name).set("block", id));
    blocks += json_block(id, packed.index) + bytes_block(id + "-ids", packed.ids);
  }
  if (n_traces < 2) return "";
  std::string caption =
      "Each token in the colour of its first expert in the chosen layer; pointing at it tells its whole route there. "
      "Underlined: generated. A frame: the first token that differs, from where on the two texts are no longer the "
      "same; a dotted line: before that, another set of experts than under the baseline. The first samples of the "
      "traces for which there is room.";
  if (left_out > 0) caption += " " + std::to_string(left_out) + " more traced interventions are not shown.";
  return "<h2 id=\"tokens\">Token by token</h2>" + json_block("run-traces", traces) + blocks +
         drawn_figure("tokens-shown", "run_tokens",
                      "a record's tokens under the baseline and an intervention, side by side", html_escape(caption));
}

}  // namespace signalbox::eval
