#include "eval/report/figure_pictures.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/no_number.h"
#include "eval/report/browser_files.h"
#include "eval/report/charts.h"
#include "eval/report/graph_picture.h"
#include "eval/report/routes_graphs.h"

namespace signalbox::eval {

namespace {

constexpr size_t links_of_graph = 40;

// What stands between two texts, from a place on; nothing: they are not there.
std::optional<std::string> between(const std::string& text, const std::string& begin, const std::string& end,
                                   size_t from = 0) {
  const size_t at = text.find(begin, from);
  if (at == std::string::npos) return std::nullopt;
  const size_t first = at + begin.size(), last = text.find(end, first);
  if (last == std::string::npos) return std::nullopt;
  return text.substr(first, last - first);
}

std::string attribute_of(const std::string& tag, const std::string& name) {
  std::string value = between(tag, " " + name + "=\"", "\"").value_or("");
  for (const auto& [escaped, plain] : {std::pair("&lt;", "<"), {"&gt;", ">"}, {"&quot;", "\""}, {"&amp;", "&"}})
    for (size_t at = 0; (at = value.find(escaped, at)) != std::string::npos; ++at)
      value.replace(at, std::string(escaped).size(), plain);
  return value;
}

// The style sheet's rules for pictures with the light values of its variables in their places.
const std::string& picture_style() {
  static const std::string style = [] {
    std::map<std::string, std::string> values;
    std::string rules = chart_style;
    for (const BrowserFile& file : browser_files()) {
      if (!file.name.ends_with(".css")) continue;
      const std::string text(file.content);
      if (const auto root = between(text, ":root{", "}"); root && values.empty())
        for (size_t at = 0; (at = root->find("--", at)) != std::string::npos; ++at) {
          const size_t colon = root->find(':', at), end = std::min(root->find(';', at), root->size());
          values[root->substr(at, colon - at)] = root->substr(colon + 1, end - colon - 1);
        }
      // Its rules of classes of pictures, one after the other.
      for (size_t at = 0; (at = text.find("svg .", at)) != std::string::npos; ++at) {
        const size_t end = text.find('}', at);
        rules += text.substr(at, end + 1 - at) + "\n";
        at = end;
      }
    }
    for (size_t at = 0; (at = rules.find("var(", at)) != std::string::npos;) {
      const size_t end = rules.find(')', at);
      rules.replace(at, end + 1 - at, values.at(rules.substr(at + 4, end - at - 4)));
    }
    return rules;
  }();
  return style;
}

std::string document_of(std::string svg) {
  const size_t end = svg.find('>');
  const std::string width = attribute_of(svg.substr(0, end), "width"),
                    height = attribute_of(svg.substr(0, end), "height");
  svg.insert(end + 1, "<style>" + picture_style() + "</style><rect width=\"" + width + "\" height=\"" + height +
                          "\" fill=\"#ffffff\"/>");
  svg.insert(4, " xmlns=\"http://www.w3.org/2000/svg\"");
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + svg + "\n";
}

// A block of columns {rows, columns: {name: [...]}}, as pack_table makes it.
class Columns {
 public:
  explicit Columns(const json::Value& block) : columns_(*block.find("columns")), rows_(block.find("rows")->integer()) {}
  size_t n_rows() const { return static_cast<size_t>(rows_); }
  bool has(const std::string& name) const { return columns_.find(name) != nullptr; }
  double number(const std::string& name, size_t row) const {
    const json::Value& value = columns_.find(name)->items()[row];
    return value.is_null() ? no_number : value.real();
  }
  int32_t integer(const std::string& name, size_t row) const { return static_cast<int32_t>(number(name, row)); }

 private:
  const json::Value& columns_;
  int64_t rows_;
};

std::set<int32_t> layers_in(const Columns& table) {
  std::set<int32_t> layers;
  for (size_t r = 0; r < table.n_rows(); ++r) layers.insert(table.integer("layer", r));
  return layers;
}

// What draws a figure: its tag, its label, and the page for its data.
struct Drawn {
  std::string name, draw, source, label;
  const std::string& page;
  json::Value data(const std::string& id) const {
    const auto text = between(page, "<script type=\"application/json\" id=\"" + id + "\">", "</script>");
    if (!text) throw Error("report", "expected a block \"" + id + "\" in the page, found none");
    return json::parse(*text, id);
  }
};

using Pictures = std::vector<PagePicture>;

double share_at(const json::Value& domain, size_t at) {
  const json::Value& value = domain.find("share")->items()[at];
  return value.is_null() ? no_number : value.real();
}

Pictures usage_layers(const Drawn& figure) {
  const json::Value usage = figure.data("usage");
  const auto layers = usage.find("layers")->items();
  const auto n_experts = static_cast<size_t>(usage.find("experts")->integer());
  const json::Value& all = usage.find("domains")->items()[0];
  std::vector<HeatCell> cells;
  for (size_t l = 0; l < layers.size(); ++l)
    for (size_t e = 0; e < n_experts; ++e)
      cells.push_back({static_cast<int32_t>(layers[l].integer()), static_cast<int32_t>(e),
                       share_at(all, l * n_experts + e), "", ""});
  return {{figure.name, heat_map(cells, figure.label)}};
}

// Each domain's share less that over all records, one picture a layer.
Pictures usage_domains(const Drawn& figure) {
  const json::Value usage = figure.data("usage");
  const auto layers = usage.find("layers")->items();
  const auto domains = usage.find("domains")->items();
  const auto n_experts = static_cast<size_t>(usage.find("experts")->integer());
  HeatNames names;
  for (size_t d = 1; d < domains.size(); ++d) names.rows.push_back(domains[d].find("name")->string());
  Pictures out;
  for (size_t l = 0; l < layers.size(); ++l) {
    const std::string layer = std::to_string(layers[l].integer());
    std::vector<HeatCell> cells;
    for (size_t d = 1; d < domains.size(); ++d)
      for (size_t e = 0; e < n_experts; ++e)
        cells.push_back({static_cast<int32_t>(d - 1), static_cast<int32_t>(e),
                         share_at(domains[d], l * n_experts + e) - share_at(domains[0], l * n_experts + e), "", ""});
    names.across = "expert of layer " + layer + ": share less that over all records";
    out.push_back({figure.name + "-layer-" + layer, heat_map(cells, figure.label, names)});
  }
  return out;
}

Pictures lines(const Drawn& figure) {
  const json::Value data = figure.data(figure.source);
  std::vector<DoseLine> curves;
  for (const json::Value& curve : data.find("curves")->items()) {
    DoseLine line{curve.find("name")->string(), {}};
    for (const json::Value& point : curve.find("points")->items())
      line.points.push_back({point.items()[0].real(), point.items()[1].real(), no_number, no_number});
    curves.push_back(std::move(line));
  }
  return {{figure.name, dose_plot(curves, data.find("x")->string(), data.find("y")->string(), no_number)}};
}

Pictures transitions(const Drawn& figure) {
  const json::Value block = figure.data("transitions");
  const Columns table(block);
  Pictures out;
  for (const int32_t layer : layers_in(table)) {
    std::vector<HeatCell> cells;
    HeatNames names{{}, "next expert, layer " + std::to_string(layer)};
    for (size_t r = 0; r < table.n_rows(); ++r) {
      if (table.integer("layer", r) != layer) continue;
      const auto from = static_cast<size_t>(table.integer("from", r));
      while (names.rows.size() <= from) names.rows.push_back("from " + std::to_string(names.rows.size()));
      cells.push_back({static_cast<int32_t>(from), table.integer("to", r), table.number("probability", r), "", ""});
    }
    out.push_back({figure.name + "-layer-" + std::to_string(layer), heat_map(cells, figure.label, names)});
  }
  return out;
}

Pictures persistence(const Drawn& figure) {
  const json::Value block = figure.data("persistence");
  const Columns table(block);
  std::vector<ScatterPoint> points;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    const double stay = table.number("p_stay", r);
    if (std::isnan(stay)) continue;
    points.push_back(
        {table.number("rate", r), stay, stay, stay,
         "layer " + std::to_string(table.integer("layer", r)) + " expert " + std::to_string(table.integer("expert", r)),
         table.has("lag1_q") && table.number("lag1_q", r) < 0.05});
  }
  return {{figure.name, scatter_plot(points, "share of tokens", "P(selected again at the next token)")}};
}

// The strongest links of each layer, by `weight`.
Graph strongest(const Columns& table, const std::string& name, const std::string& weight, bool directed,
                std::optional<int32_t> only, const Communities& communities = {}) {
  const std::string a = directed ? "layer_a" : "layer", b = directed ? "layer_b" : "layer";
  std::map<int32_t, std::vector<GraphLink>> by_layer;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    const double value = table.number(weight, r);
    if (!(value > 0) || (only && table.integer(a, r) != *only)) continue;
    by_layer[table.integer(a, r)].push_back(
        {table.integer(a, r), table.integer("expert_a", r), table.integer(b, r), table.integer("expert_b", r), value});
  }
  std::vector<GraphLink> chosen;
  for (auto& [layer, links] : by_layer) {
    std::stable_sort(links.begin(), links.end(),
                     [](const GraphLink& x, const GraphLink& y) { return x.weight > y.weight; });
    links.resize(std::min(links.size(), directed ? links_of_graph / 4 : links_of_graph));
    chosen.insert(chosen.end(), links.begin(), links.end());
  }
  return expert_graph(name, weight, directed, chosen, communities);
}

Pictures coactivation(const Drawn& figure) {
  const json::Value block = figure.data("coactivation");
  const Columns table(block);
  const json::Value groups = figure.data("communities");
  Communities communities;
  if (!groups.is_null()) {
    const Columns rows(groups);
    for (size_t r = 0; r < rows.n_rows(); ++r)
      if (!std::isnan(rows.number("community", r)))
        communities[{rows.integer("layer", r), rows.integer("expert", r)}] = rows.integer("community", r);
  }
  Pictures out;
  for (const int32_t layer : layers_in(table))
    out.push_back(
        {figure.name + "-layer-" + std::to_string(layer),
         graph_picture(strongest(table, "coactivation", "count", false, layer, communities), figure.label, "count")});
  return out;
}

Pictures flow(const Drawn& figure) {
  const json::Value block = figure.data("across");
  return {{figure.name,
           graph_picture(strongest(Columns(block), "across_layers", "phi", true, std::nullopt), figure.label, "phi")}};
}

Pictures contrast_map(const Drawn& figure) {
  const json::Value block = figure.data("contrast");
  const Columns table(block);
  std::vector<HeatCell> cells;
  for (size_t r = 0; r < table.n_rows(); ++r)
    cells.push_back({table.integer("layer", r), table.integer("expert", r), table.number("rd", r), "", "",
                     table.number("q", r) < 0.05});
  return {{figure.name, heat_map(cells, figure.label)}};
}

Pictures volcano(const Drawn& figure) {
  const json::Value block = figure.data("contrast");
  const Columns table(block);
  std::vector<ScatterPoint> points;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    if (!(table.number("p", r) > 0)) continue;
    const double y = -std::log10(table.number("p", r));
    points.push_back({100 * table.number("rd", r), y, y, y, "", table.number("q", r) < 0.05});
  }
  return {{figure.name, scatter_plot(points, "rd in percentage points", "\xE2\x88\x92log10 p")}};
}

Pictures ranked(const Drawn& figure) {
  const json::Value block = figure.data("contrast");
  const Columns table(block);
  std::vector<size_t> order(table.n_rows());
  for (size_t r = 0; r < order.size(); ++r) order[r] = r;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::fabs(table.number("rd", a)) > std::fabs(table.number("rd", b));
  });
  order.resize(std::min<size_t>(order.size(), 20));
  std::vector<ForestRow> rows;
  for (const size_t r : order) {
    ForestRow row;
    row.name = "L" + std::to_string(table.integer("layer", r)) + " E" + std::to_string(table.integer("expert", r));
    row.difference = table.number("rd", r);
    row.lo = table.number("ci_lo", r);
    row.hi = table.number("ci_hi", r);
    row.q = table.number("q", r);
    rows.push_back(row);
  }
  return {{figure.name, forest_plot(rows, "risk difference, 95 % interval")}};
}

const std::map<std::string, Pictures (*)(const Drawn&)>& drawings() {
  static const std::map<std::string, Pictures (*)(const Drawn&)> all = {{"usage_layers", usage_layers},
                                                                        {"usage_domains", usage_domains},
                                                                        {"lines", lines},
                                                                        {"transitions", transitions},
                                                                        {"persistence", persistence},
                                                                        {"coactivation", coactivation},
                                                                        {"flow", flow},
                                                                        {"contrast_map", contrast_map},
                                                                        {"volcano", volcano},
                                                                        {"ranked", ranked}};
  return all;
}

// The SVGs in a figure that are shown in wide pages.
std::vector<std::string> standing_pictures(const std::string& figure) {
  std::vector<std::string> out;
  for (size_t at = 0; (at = figure.find("<svg ", at)) != std::string::npos;) {
    const size_t end = figure.find("</svg>", at);
    if (end == std::string::npos) break;
    const size_t narrow = figure.rfind("class=\"narrow\"", at), broad = figure.rfind("class=\"broad\"", at);
    if (narrow == std::string::npos || (broad != std::string::npos && broad > narrow))
      out.push_back(figure.substr(at, end + 6 - at));
    at = end;
  }
  return out;
}

}  // namespace

std::vector<PagePicture> pictures_of_page(const std::string& html) {
  std::vector<PagePicture> out;
  for (size_t at = 0; (at = html.find("<figure", at)) != std::string::npos;) {
    const size_t end = html.find("</figure>", at);
    if (end == std::string::npos) break;
    const std::string figure = html.substr(at, end - at), tag = figure.substr(0, figure.find('>'));
    const std::string name = attribute_of(tag, "id"), draw = attribute_of(tag, "data-draw");
    const std::vector<std::string> standing = standing_pictures(figure);
    for (size_t i = 0; i < standing.size(); ++i)
      out.push_back({standing.size() > 1 ? name + "-" + std::to_string(i + 1) : name, standing[i]});
    if (const auto found = drawings().find(draw); found != drawings().end())
      for (PagePicture& one :
           found->second({name, draw, attribute_of(tag, "data-source"), attribute_of(tag, "data-label"), html}))
        out.push_back(std::move(one));
    at = end;
  }
  for (PagePicture& one : out) one.svg = document_of(one.svg);
  return out;
}

std::vector<std::filesystem::path> write_pictures(const std::string& html, const std::filesystem::path& dir) {
  const std::vector<PagePicture> pictures = pictures_of_page(html);
  if (pictures.empty()) throw Error("--pictures", "expected a report with figures, found one without");
  std::error_code failed;
  std::filesystem::create_directories(dir, failed);
  if (failed) throw Error(dir.string(), "cannot make the directory: " + failed.message());
  std::vector<std::filesystem::path> files;
  for (const PagePicture& picture : pictures) {
    files.push_back(dir / (picture.name + ".svg"));
    write_file_atomically(files.back(), picture.svg);
  }
  return files;
}

}  // namespace signalbox::eval
