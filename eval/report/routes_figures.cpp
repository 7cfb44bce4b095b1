#include "eval/report/routes_figures.h"

#include <map>
#include <set>

#include "eval/findings/format.h"
#include "eval/report/detection_report.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/routes_tables.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// ": the 200 of 4096 rows of the largest |count|", or nothing where all are there.
std::string rows_shown(const PackedTable& table, const std::string& order) {
  if (table.rows == table.of) return "";
  return " The page has the " + std::to_string(table.rows) + " of " + std::to_string(table.of) +
         " rows with the largest |" + order + "|; the file has all.";
}

std::string table_block(const fs::path& dir, const std::string& file, const std::string& id, const TableChoice& choice,
                        std::string& note) {
  const std::optional<CsvTable> table = read_table(dir, file);
  if (!table) return "";
  const PackedTable packed = pack_table(*table, choice);
  note = rows_shown(packed, choice.order) + " From " + file + ".";
  return json_block(id, packed.block);
}

// A curve of a lines figure.
struct Curve {
  std::string name;
  json::Value points = json::Value::array();  // [x, y]
  bool dashed = false;                        // what is expected by chance
};

std::string lines_figure(const std::string& id, const std::string& x, const std::string& y, const std::string& label,
                         const std::string& caption, const std::vector<Curve>& curves) {
  json::Value list = json::Value::array();
  for (const Curve& curve : curves)
    list.push_back(
        json::Value::object().set("name", curve.name).set("dashed", curve.dashed).set("points", curve.points));
  const std::string source = id + "-data";
  return json_block(source, json::Value::object().set("x", x).set("y", y).set("curves", std::move(list))) +
         drawn_figure(id, "lines", label, caption, {{"source", source}});
}

void add_point(Curve& curve, const CsvTable& table, size_t row, size_t x, size_t y) {
  if (!table.text(row, y).empty())
    curve.points.push_back(json::Value::array().push_back(table.integer(row, x)).push_back(table.number(row, y)));
}

// A column against the layer, a curve for each value of `by` (empty: one curve).
std::vector<Curve> curves_of(const CsvTable& table, const std::string& y, const std::string& by,
                             const std::string& all) {
  std::vector<Curve> out;
  std::map<std::string, size_t> places;
  const size_t layer = table.column("layer"), column = table.column(y);
  for (size_t r = 0; r < table.n_rows(); ++r) {
    std::string name = by.empty() ? y : table.text(r, table.column(by));
    if (name.empty()) name = all;
    const auto [found, added] = places.emplace(name, out.size());
    if (added) out.push_back({name});
    add_point(out[found->second], table, r, layer, column);
  }
  return out;
}

std::string use_section(const fs::path& dir) {
  const std::optional<CsvTable> usage = read_table(dir, "usage.csv"), balance = read_table(dir, "balance.csv");
  std::string out;
  if (usage) {
    const json::Value packed = pack_usage(*usage);
    const int64_t left_out = packed.find("left_out")->integer();
    const std::string note = left_out > 0 ? " The page leaves out " + std::to_string(left_out) + " domains." : "";
    const std::string tokens =
        std::to_string(packed.find("domains")->items().front().find("tokens")->integer()) + " tokens";
    out += json_block("usage", packed);
    out +=
        drawn_figure("usage-map", "usage_layers", "the share of tokens that select each expert, by layer",
                     "How often each expert is used: share of the tokens that count (n = " + tokens +
                         ") that select it. The shares of a layer add up to the experts of a token. From usage.csv.");
    if (packed.find("domains")->items().size() > 1)
      out += drawn_figure("domain-map", "usage_domains", "the share of each domain's tokens that select each expert",
                          "Do domains use different experts? For the chosen layer, the share of each domain's tokens "
                          "that select each expert, or how much that is above (blue) or below (orange) the share over "
                          "all records. From usage.csv; domains.csv has the tests." +
                              note);
  }
  if (const std::optional<CsvTable> domains = read_table(dir, "domains.csv"))
    out += lines_figure(
        "domain-effect", "layer", "Cram\xC3\xA9r's V", "how much use of experts differs between domains, by layer",
        "How much the use of experts differs between domains: Cram\xC3\xA9r's V of domain \xC3\x97 "
        "expert, 0 (alike) to 1. Read p_permutation beside it, which permutes the domains of whole records. "
        "From domains.csv.",
        curves_of(*domains, "cramers_v", "", ""));
  if (balance)
    out += lines_figure("balance", "layer", "entropy / log E", "how evenly the experts of each layer are used",
                        "How evenly experts are used: entropy of the selections over its largest value; 1: all alike. "
                        "From balance.csv.",
                        curves_of(*balance, "entropy_normalised", "domain", "all records"));
  return out;
}

std::string order_section(const fs::path& dir) {
  std::string out, note;
  if (const std::string block = table_block(
          dir, "transitions.csv", "transitions",
          {{"layer", "from", "to", "count", "probability", "expected", "q"}, {}, "count", 350 * 1000}, note);
      !block.empty())
    out +=
        block + drawn_figure("transition-map", "transitions", "which expert follows which at the next token",
                             "Which expert follows which: from the expert of the highest weight at a token (rows) to "
                             "that at the next token of the sample (columns). Probabilities of a row add up to 1. "
                             "Expected: with the tokens of each sample shuffled." +
                                 note);
  if (const std::string block = table_block(
          dir, "persistence.csv", "persistence",
          {{"layer", "expert", "rate", "p_stay", "lag1", "lag1_p", "lag1_q", "dwell_mean"}, {}, "lag1", 250 * 1000},
          note);
      !block.empty())
    out += block +
           drawn_figure("persistence-plot", "persistence", "how often a token keeps the expert of the one before it",
                        "Do tokens stay with an expert? P(selected at the next token, given selected at this one) "
                        "against the share of tokens that select it. On the line: as often as any token does. "
                        "Filled: q &lt; 0.05 against tokens shuffled within their sample." +
                            note);
  if (const std::optional<CsvTable> table = read_table(dir, "consistency.csv")) {
    std::vector<Curve> curves = curves_of(*table, "consistency", "", "");
    if (find_column(*table, "expected")) {
      curves.push_back({"expected", json::Value::array(), true});
      for (size_t r = 0; r < table->n_rows(); ++r)
        add_point(curves.back(), *table, r, table->column("layer"), table->column("expected"));
    }
    out += lines_figure(
        "consistency", "layer", "share of experts kept", "how many experts consecutive tokens share, by layer",
        "How much of its experts a token shares with the one before it; dashed: with the tokens of each "
        "sample shuffled. From consistency.csv.",
        curves);
  }
  if (const std::optional<CsvTable> table = read_table(dir, "autocorrelation.csv")) {
    std::map<int64_t, std::map<int64_t, std::pair<double, int64_t>>> sums;
    for (size_t r = 0; r < table->n_rows(); ++r) {
      if (table->text(r, table->column("r")).empty()) continue;
      auto& [sum, n] = sums[table->integer(r, table->column("layer"))][table->integer(r, table->column("lag"))];
      sum += table->number(r, table->column("r"));
      ++n;
    }
    std::vector<Curve> curves;
    for (const auto& [layer, of_layer] : sums) {
      curves.push_back({"layer " + std::to_string(layer)});
      for (const auto& [lag, mean] : of_layer)
        curves.back().points.push_back(
            json::Value::array().push_back(lag).push_back(mean.first / static_cast<double>(mean.second)));
    }
    out += lines_figure("autocorrelation", "lag in tokens", "mean r over experts",
                        "how strongly the use of an expert repeats some tokens later",
                        "Does the same expert come back some tokens later? Correlation of its use with its use so many "
                        "tokens later, mean over the experts of a layer. From autocorrelation.csv.",
                        curves);
  }
  return out;
}

std::string together_section(const fs::path& dir) {
  std::string out, note;
  if (const std::string block = table_block(
          dir, "coactivation.csv", "coactivation",
          {{"layer", "expert_a", "expert_b", "count", "p_b_given_a", "p_a_given_b", "lift"}, {}, "count", 300 * 1000},
          note);
      !block.empty()) {
    const std::optional<CsvTable> groups = read_table(dir, "communities.csv"),
                                  separate = read_table(dir, "modularity.csv");
    std::string of_groups;
    if (groups)
      of_groups =
          " Groups of experts that are selected together more than their use explains have a colour and a number, c1, "
          "c2, \xE2\x80\xA6, of the layer, and stand side by side on the circle. From "
          "communities.csv.";
    out += json_block("communities",
                      groups ? pack_table(*groups, {{"layer", "expert", "community"}, {}, "", 500 * 1000}).block
                             : json::Value()) +
           json_block("modularity",
                      separate
                          ? pack_table(*separate, {{"layer", "modularity", "held_out", "q"}, {}, "", 100 * 1000}).block
                          : json::Value());
    out +=
        block + drawn_figure("coactivation-graph", "coactivation", "which experts of a layer are selected together",
                             "Which experts a token selects together. Lines: the pairs with the largest number of the "
                             "chosen kind, wider for more; circles: experts, larger for those that are in more of the "
                             "tokens. Lift: how many times as often as if both were chosen independently; it has no "
                             "null of its own." +
                                 note + of_groups);
  }
  if (const std::string block = table_block(
          dir, "across_layers.csv", "across",
          {{"layer_a", "expert_a", "layer_b", "expert_b", "jaccard", "phi", "q"}, {}, "phi", 300 * 1000}, note);
      !block.empty())
    out += block + drawn_figure("flow", "flow", "which expert of one layer goes with which of the next",
                                "From layer to layer: the pairs of experts in neighbouring layers that are used by the "
                                "same tokens most, by phi (correlation of their use) or jaccard (share of tokens in "
                                "common). Solid: q &lt; 0.05 against the second layer's routes turned in a circle." +
                                    note);
  return out;
}

std::string words_section(const fs::path& dir) {
  std::string out, note;
  const TableChoice choice = {
      {"layer", "expert", "token", "text", "count", "share", "pmi"}, {"text"}, "count", 400 * 1000};
  if (const std::string block = table_block(dir, "vocabulary.csv", "vocabulary", choice, note); !block.empty())
    out +=
        block + drawn_figure("vocabulary-table", "vocabulary", "the tokens that each expert takes",
                             "Which tokens an expert takes. Count: tokens of this kind that select it; share: of all "
                             "such tokens; pmi: log2 of how much more often than any token does. Pieces are spelled "
                             "as the vocabulary has them." +
                                 note);
  return out;
}

std::string contrast_section(const fs::path& dir) {
  std::string note;
  const std::string block = table_block(
      dir, "rd.csv", "contrast",
      {{"layer", "expert", "rd", "ci_lo", "ci_hi", "p", "q", "a1_n", "d1_n", "a2_n", "d2_n"}, {}, "rd", 400 * 1000},
      note);
  if (block.empty()) return "";
  const auto [a, b] = conditions_of(dir);
  const std::vector<std::pair<std::string, std::string>> names = {{"a", a}, {"b", b}};
  const std::string between = html_escape(a) + " minus under " + html_escape(b);
  return "<p>Risk difference (rd): share of tokens that select the expert under " + between +
         ". Blue: used more under " + html_escape(a) + "; orange: under " + html_escape(b) +
         ".</p><div class=\"warn\"><p>This says where use differs, not what the experts do. Switch them off and "
         "measure "
         "(an experiment with an audit) before reporting them as responsible.</p></div>" +
         block +
         drawn_figure(
             "contrast-map", "contrast_map", "the risk difference of every expert",
             "The risk difference of every expert, in percentage points; in the list below with 95 % intervals." + note,
             names) +
         drawn_figure(
             "contrast-volcano", "volcano", "risk differences against how sure they are",
             "Size against certainty: each expert by its rd and by p (upwards is smaller; filled: q &lt; 0.05). A "
             "row of points at the top has the smallest p that so many resamples can give.",
             names) +
         drawn_figure(
             "contrast-ranking", "ranked", "the experts with the largest risk differences",
             "The experts with the largest |rd|, with 95 % percentile bootstrap intervals over examples. The first "
             "of a ranking are first partly by luck: test them on other records.",
             names);
}

std::string likeness_section(const fs::path& dir) {
  const std::optional<CsvTable> table = read_table(dir, "similarity.csv");
  if (!table) return "";
  std::vector<Curve> curves;
  std::map<std::string, size_t> places;
  for (size_t r = 0; r < table->n_rows(); ++r) {
    const std::string name =
        table->text(r, table->column("condition_a")) + " and " + table->text(r, table->column("condition_b"));
    const auto [found, added] = places.emplace(name, curves.size());
    if (added) curves.push_back({name});
    add_point(curves[found->second], *table, r, table->column("layer"), table->column("jaccard"));
  }
  return lines_figure(
      "similarity", "layer", "jaccard", "how alike the routes of the same tokens are under two conditions",
      "How alike the routes of the same tokens are under two conditions: experts in common over experts in "
      "all, mean over tokens. From similarity.csv.",
      curves);
}

}  // namespace

RoutesFigures routes_figures(const fs::path& dir, bool contrast) {
  RoutesFigures out;
  const auto section = [&](const char* id, const char* name, const char* heading, const std::string& html) {
    if (html.empty()) return;
    out.places.emplace_back(id, name);
    out.html += std::string("<h2 id=\"") + id + "\">" + heading + "</h2>" + html;
  };
  if (contrast) section("contrast-section", "two conditions", "Use under two conditions", contrast_section(dir));
  section("use", "use and domains", "Who is used, and where", use_section(dir));
  section("order", "token to token", "From token to token", order_section(dir));
  section("together", "together", "Who works together", together_section(dir));
  section("words", "words", "Which tokens an expert takes", words_section(dir));
  section("likeness", "same tokens", "The same tokens under two conditions", likeness_section(dir));
  section("tables", "tables", "Tables", tables_section(dir));
  return out;
}

}  // namespace signalbox::eval
