#include "eval/report/page.h"

#include "eval/findings/format.h"
#include "eval/report/charts.h"

namespace signalbox::eval {

namespace {

constexpr const char* style = R"(
:root{color-scheme:light dark;--back:#fff;--text:#1c2330;--soft:#667085;--line:#d9dee7;--band:#e3e7ee;--pos:#1f6fc4;
--neg:#d9660b;--hover:rgba(31,111,196,.08);--box:#f5f7fa;--warn:#fff4e0;--warnline:#e0a030}
@media (prefers-color-scheme:dark){:root{--back:#14181f;--text:#e4e8ef;--soft:#98a2b3;--line:#333b48;--band:#2a313d;
--pos:#5aa5f0;--neg:#f0954a;--hover:rgba(90,165,240,.12);--box:#1c222c;--warn:#33291a;--warnline:#b07d20}}
body{font:16px/1.5 system-ui,sans-serif;max-width:74rem;margin:2rem auto;padding:0 1.2rem;color:var(--text);
background:var(--back)}
h1{line-height:1.2}h2{margin-top:2.6rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}h3{margin-bottom:.4rem}
table{border-collapse:collapse;margin:1rem 0;font-size:14px}td,th{padding:.3rem .7rem;border-bottom:1px solid var(--line);
text-align:left;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.base{font-weight:600}table.sort th{cursor:pointer}table.sort th:hover{color:var(--pos)}
.note{color:var(--soft)}.small{font-size:14px}.wide{overflow-x:auto}.warn{background:var(--warn);border-left:4px solid
var(--warnline);padding:.5rem .9rem;margin:1rem 0}.warn p{margin:.3rem 0}.texts td{white-space:pre-wrap;max-width:24rem;
overflow-wrap:anywhere}pre{background:var(--box);padding:.8rem;overflow-x:auto;font-size:13px}details{margin:.8rem 0}
summary{cursor:pointer;color:var(--soft)}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}.row{display:flex;flex-wrap:wrap;gap:1rem}
nav a{margin-right:1rem;color:var(--pos)}.bar{display:inline-block;height:.6rem;background:var(--pos);
vertical-align:middle;margin-left:.4rem}
@media print{nav,summary{display:none}})";

constexpr const char* script = R"(
for(const table of document.querySelectorAll('table.sort')){
 const heads=[...table.rows[0].cells];
 heads.forEach((head,c)=>head.addEventListener('click',()=>{
  const down=head.dataset.down!=='1';heads.forEach(h=>delete h.dataset.down);head.dataset.down=down?'1':'0';
  const key=row=>{const text=row.cells[c].textContent.trim();
   if(!head.classList.contains('n'))return text;const v=parseFloat(text.replace('<',''));return isNaN(v)?-Infinity:v};
  const rows=[...table.rows].slice(1);
  rows.sort((a,b)=>{const x=key(a),y=key(b);return (x<y?-1:x>y?1:0)*(down?-1:1)});
  rows.forEach(row=>row.parentNode.appendChild(row));
 }));
})";

}  // namespace

std::string html_page(std::string_view title, const std::string& body) {
  return std::string("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>") +
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>" + html_escape(title) +
         "</title><style>" + style + chart_style + "</style></head><body>\n" + body + "<script>" + script +
         "</script></body></html>\n";
}

std::string html_table(const std::vector<std::string>& headings, const std::vector<uint8_t>& numeric,
                       const std::vector<std::vector<std::string>>& rows) {
  const auto cell = [&](const char* tag, size_t c, const std::string& content) {
    return std::string("<") + tag + (numeric[c] ? " class=\"n\">" : ">") + content + "</" + tag + ">";
  };
  std::string out = "<div class=\"wide\"><table class=\"sort\"><tr>";
  for (size_t c = 0; c < headings.size(); ++c) out += cell("th", c, headings[c]);
  out += "</tr>\n";
  for (const auto& row : rows) {
    out += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) out += cell("td", c, row[c]);
    out += "</tr>\n";
  }
  return out + "</table></div>\n";
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
