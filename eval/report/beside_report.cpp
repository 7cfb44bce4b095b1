#include "eval/report/beside_report.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "eval/findings/format.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/routes_samples.h"
#include "eval/routing/trace_set.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr SampleLimits limits_of_trace = {600'000, 600, 100};

std::string share_text(int64_t part, int64_t whole) {
  return whole == 0 ? "undefined" : format_value(100.0 * static_cast<double>(part) / static_cast<double>(whole), 2);
}

void require_same_samples(const TraceReader& first, const TraceReader& second) {
  if (first.n_samples() != second.n_samples())
    throw Error(second.file(), "expected the samples of " + first.file() + ", " + std::to_string(first.n_samples()) +
                                   ", found " + std::to_string(second.n_samples()));
  for (size_t s = 0; s < first.sample_ids().size(); ++s)
    if (first.sample_ids()[s] != second.sample_ids()[s])
      throw Error(second.file(), "expected the samples of " + first.file() + ": sample " + std::to_string(s) +
                                     " is \"" + first.sample_ids()[s] + "\" there, found \"" + second.sample_ids()[s] +
                                     "\"");
}

int64_t given_of(const std::vector<uint8_t>& phase) { return std::find(phase.begin(), phase.end(), 1) - phase.begin(); }

std::string layer_table(const TraceComparison& found) {
  std::vector<std::vector<std::string>> rows;
  for (const LayerAgreement& one : found.layers)
    rows.push_back({std::to_string(one.layer), std::to_string(one.tokens),
                    std::to_string(one.tokens - one.same_experts), std::to_string(one.slots),
                    std::to_string(one.slots - one.common), share_text(one.slots - one.common, one.slots)});
  return html_table({"layer", "tokens", "with other experts", "slots", "differing", "differing %"}, {1, 1, 1, 1, 1, 1},
                    rows);
}

std::string found_section(const TraceComparison& found) {
  int64_t slots = 0, differing = 0;
  double most = 0;
  const auto share = [](const LayerAgreement& one) {
    return one.slots > 0 ? static_cast<double>(one.slots - one.common) / static_cast<double>(one.slots) : 0;
  };
  for (const LayerAgreement& one : found.layers) {
    slots += one.slots;
    differing += one.slots - one.common;
    most = std::max(most, share(one));
  }
  std::string out = "<h2 id=\"found\">What differs</h2><div class=\"finding\"><p>" + std::to_string(differing) +
                    " of " + std::to_string(slots) + " slots hold another expert (" + share_text(differing, slots) +
                    " %), over " + std::to_string(found.tokens) + " tokens of " + std::to_string(found.samples) +
                    " samples and " + std::to_string(found.layers.size()) +
                    (found.layers.size() == 1 ? " layer.</p>" : " layers.</p>");
  if (most > 0) {
    std::string where;
    for (const LayerAgreement& one : found.layers)
      if (share(one) == most) where += (where.empty() ? "" : ", ") + std::to_string(one.layer);
    out += "<p>The largest share of a layer: " + format_value(100 * most, 2) + " % (layer " + where + ").</p>";
  }
  out +=
      "<p>" +
      (found.other_tokens == 0 ? std::string("The texts are the same.")
                               : std::to_string(found.other_tokens) +
                                     " of the samples' texts part; the tokens from there on are shown and not "
                                     "compared: other tokens ask for other experts.") +
      "</p><p class=\"small\">The order of slots does not count. These are counts of two recordings, no test of what "
      "the models would do with other records.</p></div>";
  return out;
}

}  // namespace

TraceComparison compare_beside(const fs::path& first, const fs::path& second) {
  const TraceSet set({first, second});
  const TraceReader &a = set.trace(0), &b = set.trace(1);
  require_same_samples(a, b);
  for (int64_t s = 0; s < a.n_samples(); ++s) {
    const std::vector<int32_t> tokens_a = a.tokens(a.rows(s)), tokens_b = b.tokens(b.rows(s));
    const int64_t given_a = given_of(a.phase(a.rows(s))), given_b = given_of(b.phase(b.rows(s)));
    const auto fail = [&](const std::string& what) {
      throw Error(b.file(), "expected the given tokens of sample \"" + a.sample_ids()[static_cast<size_t>(s)] +
                                "\" as in " + a.file() + ", " + std::to_string(given_a) + ", found " + what);
    };
    if (given_a != given_b) fail(std::to_string(given_b));
    const auto part = std::mismatch(tokens_a.begin(), tokens_a.begin() + given_a, tokens_b.begin()).first;
    if (part != tokens_a.begin() + given_a)
      fail("another token at position " + std::to_string(part - tokens_a.begin()));
  }
  return compare_traces(a, b, 0);
}

std::string render_beside(const fs::path& first, const fs::path& second) {
  for (const fs::path& dir : {first, second})
    if (!fs::exists(dir / probes::trace_file))
      throw Error(dir.string(), std::string("expected a trace directory with ") + probes::trace_file + ", found none");
  const TraceComparison found = compare_beside(first, second);
  json::Value traces = json::Value::array();
  std::string blocks, list;
  int64_t n = 0;
  for (const fs::path& dir : {first, second}) {
    const std::string name = n == 0 ? "A" : "B", id = "run-trace-" + std::to_string(n++);
    const PackedSamples packed = pack_samples(dir, limits_of_trace);
    traces.push_back(json::Value::object().set("name", name).set("block", id));
    blocks += json_block(id, packed.index) + bytes_block(id + "-ids", packed.ids);
    const TraceReader reader(dir);
    const std::string edits = reader.metadata("edits");
    list += "<dt>" + name + "</dt><dd>" +
            html_escape(dir.string() + ", " + reader.metadata("model") + (edits.empty() ? "" : ", edits " + edits)) +
            "</dd>";
  }
  std::string body = found_section(found);
  if (found.samples > 0)
    body +=
        "<h2 id=\"tokens\">Token by token</h2>" + json_block("run-traces", traces) + blocks +
        drawn_figure("rows-beside", "beside", "which tokens of a sample have other experts in the second trace",
                     "The tokens of a sample against the layers: the stronger the colour, the more of A's experts B "
                     "does not have; "
                     "without colour: not compared. Below, the tokens at the chosen layer, A and B in one row; "
                     "\xE2\x89\xA0 and a mark: another set of experts, the marked experts are in one trace only. "
                     "Choosing a cell goes to its layer and row. Those of the first samples for which there is "
                     "room.") +
        drawn_figure("tokens-shown", "run_tokens", "a sample's tokens in both traces, side by side",
                     "Each token in the colour of its first expert in the chosen layer. Underlined: generated. A "
                     "frame: the first token that differs; a dotted line: before that, another set of experts than in "
                     "A.");
  body += "<h2 id=\"layers\">Layers</h2>" + layer_table(found);
  return html_page("Two traces side by side", "<h1>Two traces side by side</h1><dl class=\"small\">" + list + "</dl>" +
                                                  section_links(body) + body);
}

}  // namespace signalbox::eval
