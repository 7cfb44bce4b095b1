#include "eval/compress/quantization.h"

#include "base/text_table.h"
#include "eval/findings/format.h"

namespace signalbox::eval {

namespace {

const QualityRow* rows_of(const QuantizationQuality& quality, int i) {
  return i == 0 ? &quality.original : &quality.quantized;
}

std::string megabytes(int64_t n) { return format_value(static_cast<double>(n) / 1e6, 3); }

}  // namespace

std::string quantization_csv(const QuantizationQuality& quality) {
  std::vector<std::string_view> columns = quality_columns();
  columns.insert(columns.end(), {"route_agreement", "route_agreement_ci_lo", "route_agreement_ci_hi"});
  CsvWriter csv(columns);
  for (int i = 0; i < 2; ++i) {
    add_quality_cells(csv, *rows_of(quality, i));
    if (!quality.route_agreement) {
      csv.cell("").cell("").cell("");
    } else if (i == 0) {
      csv.cell(1.0).cell(1.0).cell(1.0);
    } else {
      csv.cell(quality.route_agreement->mean).cell(quality.route_agreement->ci.lo).cell(quality.route_agreement->ci.hi);
    }
    csv.end_row();
  }
  return csv.text();
}

json::Value quantization_json(const QuantizationQuality& quality) {
  json::Value out = json::Value::array();
  for (int i = 0; i < 2; ++i) {
    json::Value row = quality_json(*rows_of(quality, i));
    if (quality.route_agreement)
      row.set("route_agreement", i == 0 ? json::Value(1.0) : json::Value(quality.route_agreement->mean));
    out.push_back(std::move(row));
  }
  return out;
}

std::string quantization_table(const QuantizationQuality& quality, int width) {
  TextTable table({{"weights", false, true},
                   {"MB"},
                   {"perplexity"},
                   {"KL"},
                   {"KL, 95 %"},
                   {"agreement"},
                   {"route agreement"},
                   {"95 %"}});
  const int decimals = decimals_for(quality.original.quality.ppl);
  for (int i = 0; i < 2; ++i) {
    const QualityRow& row = *rows_of(quality, i);
    const auto& routes = quality.route_agreement;
    table.add({row.plan, megabytes(row.stored_bytes), format_value(row.quality.ppl, decimals),
               format_value(row.quality.kl, 4), format_interval(row.quality.kl_ci.lo, row.quality.kl_ci.hi, 4),
               format_value(row.quality.agreement, 3), !routes ? "" : format_value(i == 0 ? 1 : routes->mean, 4),
               !routes || i == 0 ? "" : format_interval(routes->ci.lo, routes->ci.hi, 4)},
              i == 1);
  }
  return table.text(width);
}

}  // namespace signalbox::eval
