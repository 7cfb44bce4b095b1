#include "eval/report/page.h"

#include "base/base64.h"
#include "base/sha256.h"
#include "eval/findings/format.h"
#include "eval/report/browser_files.h"
#include "eval/report/charts.h"
#include "eval/report/page_data.h"

namespace signalbox::eval {

namespace {

// 'sha256-...' of a policy.
std::string source_hash(std::string_view content) {
  const std::string hex = sha256_hex(content);
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return "'sha256-" + base64(bytes) + "'";
}

// The page's own scripts as one. Each file is a function of its own; what files share are members of `box`.
const std::string& page_script() {
  static const std::string script = [] {
    std::string out = "'use strict';const box={draw:{}};\n";
    for (const BrowserFile& file : browser_files())
      if (file.name.ends_with(".js") && file.name != "d3.min.js")
        out += "(()=>{\n" + std::string(file.content) + "})();\n";
    return out + "box.start();\n";
  }();
  return script;
}

std::string caption_of(const std::string& id, const std::string& caption) {
  return "<figcaption>" + caption + " <a class=\"anchor\" href=\"#" + html_escape(id) +
         "\" aria-label=\"link to this figure\">#</a></figcaption>";
}

}  // namespace

std::string html_page(std::string_view title, const std::string& body) {
  std::string style;
  for (const BrowserFile& file : browser_files())
    if (file.name.ends_with(".css")) style += file.content;
  style += chart_style;
  std::vector<std::string> scripts = {page_script()};
  std::string licence;
  if (body.find(" data-draw=\"") != std::string::npos) {
    scripts.insert(scripts.begin(), std::string(browser_file("d3.min.js")));
    licence = "<details class=\"small\"><summary>licence of D3</summary><pre>" +
              html_escape(browser_file("d3_licence.txt")) + "</pre></details>\n";
  }
  std::string hashes, elements;
  for (const std::string& script : scripts) {
    hashes += " " + source_hash(script);
    elements += "<script>" + script + "</script>";
  }
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta "
         "http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src " +
         source_hash(style) + "; script-src" + hashes +
         "; base-uri 'none'; form-action 'none'\"/><meta name=\"viewport\" content=\"width=device-width, "
         "initial-scale=1\"/><title>" +
         html_escape(title) + "</title><style>" + style + "</style></head><body>\n<main>" + body + licence + "</main>" +
         elements + "</body></html>\n";
}

std::string section_links(const std::string& body) {
  std::string out;
  int64_t n = 0;
  const std::string open = "<h2 id=\"";
  for (size_t at = 0; (at = body.find(open, at)) != std::string::npos;) {
    const size_t id = at + open.size(), quote = body.find('"', id), name = body.find('>', quote) + 1;
    at = body.find("</h2>", name);
    out += "<a href=\"#" + body.substr(id, quote - id) + "\">" + body.substr(name, at - name) + "</a>";
    ++n;
  }
  return n < 2 ? "" : "<nav class=\"small\" aria-label=\"sections\">" + out + "</nav>\n";
}

std::string html_figure(const std::string& id, const std::string& picture, const std::string& caption,
                        const std::string& csv) {
  std::string out =
      "<figure id=\"" + html_escape(id) + "\"><div class=\"wide\">" + picture + "</div>" + caption_of(id, caption);
  if (!csv.empty()) out += "<script type=\"application/json\" class=\"csv\">" + script_json(csv) + "</script>";
  return out + "</figure>\n";
}

std::string drawn_figure(const std::string& id, const std::string& draw, const std::string& label,
                         const std::string& caption,
                         const std::vector<std::pair<std::string, std::string>>& attributes) {
  std::string out = "<figure id=\"" + html_escape(id) + "\" data-draw=\"" + html_escape(draw) + "\" data-label=\"" +
                    html_escape(label) + "\"";
  for (const auto& [name, value] : attributes) out += " data-" + name + "=\"" + html_escape(value) + "\"";
  return out + "><div class=\"wide place\"><noscript>Drawn by a script, which this browser does not " +
         "run.</noscript></div>" + caption_of(id, caption) + "</figure>\n";
}

std::string html_table(const std::vector<std::string>& headings, const std::vector<uint8_t>& numeric,
                       const std::vector<std::vector<std::string>>& rows) {
  const auto cell = [&](const char* tag, size_t c, const std::string& content) {
    return std::string("<") + tag + (numeric[c] ? " class=\"n\">" : ">") + content + "</" + tag + ">";
  };
  std::string out = "<div class=\"wide\"><table class=\"sort\"><thead><tr>";
  for (size_t c = 0; c < headings.size(); ++c) out += cell("th", c, headings[c]);
  out += "</tr></thead>\n<tbody>";
  for (const auto& row : rows) {
    out += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) out += cell("td", c, row[c]);
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string html_table(const FindingsTable& table) {
  std::vector<std::string> headings;
  std::vector<uint8_t> numeric;
  for (const TableColumn& column : table.columns) {
    if (column.heading.empty()) continue;
    headings.push_back(html_escape(column.heading));
    numeric.push_back(column.kind != TableColumn::Kind::text);
  }
  std::vector<std::vector<std::string>> rows = table_cells(table);
  for (std::vector<std::string>& row : rows)
    for (std::string& cell : row) cell = html_escape(cell);
  return html_table(headings, numeric, rows);
}

}  // namespace signalbox::eval
