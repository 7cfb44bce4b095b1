#include "eval/report/routes_report.h"

#include "base/error.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/detection_report.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/routes_figures.h"
#include "eval/report/routes_samples.h"
#include "eval/report/routes_sentences.h"
#include "probes/trace.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

bool has_tables(const fs::path& dir) { return fs::exists(dir / "rd.csv") || fs::exists(dir / "usage.csv"); }
bool has_trace(const fs::path& dir) { return fs::exists(dir / probes::trace_file); }

std::string count_of(int64_t n, const std::string& thing) {
  return std::to_string(n) + " " + thing + (n == 1 ? "" : "s");
}

// What the page holds of the trace, where that is not all of it.
std::string share_shown(const json::Ref& index) {
  int64_t tokens = 0, cut = 0;
  const auto samples = index.at("samples").items();
  for (const json::Ref& sample : samples) {
    tokens += sample.at("n").integer();
    cut += sample.at("n").integer() < sample.at("of").integer();
  }
  const int64_t n = index.at("n_samples").integer(), all = index.at("n_tokens").integer();
  if (tokens == all) return "All " + count_of(n, "sample") + ", " + count_of(all, "token") + ".";
  std::string out = "Showing " + std::to_string(samples.size()) + " of " + count_of(n, "sample") + ", " +
                    std::to_string(tokens) + " of " + count_of(all, "token") +
                    ", taken in turn from every condition and domain; the trace has the rest.";
  if (cut > 0) out += " Of " + count_of(cut, "long sample") + " only the beginning.";
  return out;
}

std::string facts_of(const fs::path& trace) {
  const probes::TraceReader reader(trace);
  std::string out = "<dl class=\"small\">";
  const auto fact = [&](const char* name, const std::string& value) {
    if (!value.empty()) out += std::string("<dt>") + name + "</dt><dd>" + html_escape(value) + "</dd>";
  };
  fact("model", reader.metadata("model"));
  fact("trace", count_of(reader.n_samples(), "sample") + ", " + count_of(reader.n_tokens(), "token"));
  fact("routers", count_of(static_cast<int64_t>(reader.layers().size()), "layer") + " of " +
                      count_of(reader.n_experts(), "expert") + ", " + std::to_string(reader.n_active()) +
                      " for each token");
  fact("edits", reader.metadata("edits"));
  return out + "</dl>";
}

// The commands that wrote the trace and these tables, and what the tables say of themselves.
std::string origin_section(const RoutesPage& page) {
  std::string out = "<h2 id=\"origin\">How this was made</h2>";
  if (!page.trace.empty() && fs::exists(page.trace / "manifest.json")) {
    const json::Value manifest = json::parse_file(page.trace / "manifest.json");
    if (const json::Value* argv = manifest.find("argv")) {
      std::string command = "signalbox";
      for (const json::Value& word : argv->items()) {
        const std::string text = plain_text(word);
        const bool plain = !text.empty() && text.find_first_not_of(
                                                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                "0123456789-_./,:=+@%") == std::string::npos;
        std::string quoted = "'";
        for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
        command += " " + (plain ? text : quoted + "'");
      }
      out += "<p>The trace:</p><pre>" + html_escape(command) + "</pre>";
    }
    out += "<details><summary>all that decided the trace: versions and hashes</summary><pre>" +
           html_escape(json::dump(manifest, 2)) + "</pre></details>";
  }
  if (!page.analysis.empty() && fs::exists(page.analysis / "summary.json")) {
    json::Value summary = json::parse_file(page.analysis / "summary.json");
    json::Value shown = json::Value::object();
    for (const auto& [key, value] : summary.members())  // lists of ids and hashes are long, and in the file
      if (key != "records" && key != "prompts") shown.set(key, value);
    out += "<details><summary>tests, resampling units, nulls and seeds (summary.json)</summary><pre>" +
           html_escape(json::dump(shown, 2)) + "</pre></details>";
  }
  return out;
}

}  // namespace

std::string samples_section(const fs::path& trace) {
  const PackedSamples packed = pack_samples(trace);
  const json::Ref index(packed.index, "samples");
  const bool edited = index.at("edited").boolean();
  std::string out = "<h2 id=\"reading\">Token by token</h2>";
  if (index.at("samples").length() == 0) return out + "<p>The trace holds no samples.</p>";
  out += "<p>" + share_shown(index) + "</p>";
  out += json_block("samples", packed.index) + bytes_block("sample-ids", packed.ids) +
         bytes_block("sample-weights", packed.weights) + bytes_block("sample-changed", packed.changed);
  out += drawn_figure(
      "tokens", "tokens", "the tokens of a sample, each in the colour of its expert",
      std::string(
          "Each token in the colour of the expert in the chosen slot of the chosen layer, with its number; slots "
          "are in the order of the trace, the highest score first. Underlined: generated.") +
          (edited ? " Dashed: the edit gave it an expert that the router had not chosen." : "") +
          " Point at a token, or go through the text with the arrow keys, for its route through all layers." +
          (index.at("weights").is_null() ? " The trace has no weights."
                                         : " Weights are rounded to one of 256 steps; the CSV has them so too."));
  out +=
      drawn_figure("experts-over-tokens", "experts_over_tokens", "which experts each token of the sample selects",
                   "Experts over the tokens of the sample that is shown above, at the same layer. Choosing a cell goes "
                   "to its token.");
  out += drawn_figure("layers-over-tokens", "layers_over_tokens", "the expert of each token in every layer",
                      "The expert in the chosen slot, for every layer and token of the sample. Colours only tell "
                      "neighbours apart. Choosing a cell goes to its token and layer.");
  return out;
}

bool is_routes_directory(const fs::path& dir) {
  return has_tables(dir) || has_tables(dir / "analysis") || has_trace(dir);
}

RoutesPage routes_of_directory(const fs::path& dir) {
  RoutesPage page;
  const fs::path whole = (dir / "").lexically_normal().parent_path();
  if (has_tables(dir)) {
    page.analysis = dir;
    if (whole.filename() == "analysis" && has_trace(whole.parent_path())) page.trace = whole.parent_path();
    return page;
  }
  if (has_trace(dir)) page.trace = dir;
  if (has_tables(dir / "analysis")) page.analysis = dir / "analysis";
  return page;
}

std::string render_routes(const RoutesPage& page) {
  std::string body = "<h1>" + html_escape(page.heading) + "</h1>" + page.introduction;
  bool routes = false;
  if (!page.trace.empty()) {
    body += facts_of(page.trace);
    const probes::TraceReader reader(page.trace);
    routes = reader.has("router.ids") && !reader.layers().empty();
  }
  RoutesFigures figures;
  if (!page.analysis.empty()) {
    figures = routes_figures(page.analysis);
    body += sentences_list(routes_sentences(page.analysis));
  } else {
    body +=
        "<p>No tables beside the trace: <code>signalbox analyze DIR</code> adds what is found over all samples.</p>";
  }
  body += "<nav class=\"small\">";
  if (routes) body += "<a href=\"#reading\">token by token</a>";
  for (const auto& [id, name] : figures.places) body += "<a href=\"#" + id + "\">" + name + "</a>";
  body += "<a href=\"#origin\">how this was made</a></nav>\n";
  if (routes) body += samples_section(page.trace);
  if (!page.trace.empty() && !routes)
    body += "<p>The trace holds no routes (<code>--points '*.router.ids,*.router.weights'</code> records them).</p>";
  body += figures.html;
  return html_page(page.title, body + origin_section(page));
}

}  // namespace signalbox::eval
