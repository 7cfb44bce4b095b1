// What a transplant leaves beside its checkpoint: the table, what decided it, and what may be said.
#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/text_table.h"
#include "eval/findings/format.h"
#include "train/likeness_files.h"
#include "train/transplant.h"

namespace signalbox::train {

namespace {

constexpr const char* variants[] = {"original", "transplant", "ban", "mean", "random"};

json::Value place_json(const ExpertAt& at) {
  return json::Value::object().set("layer", int64_t{at.layer}).set("expert", int64_t{at.expert});
}

json::Value gain_json(const MeanEstimate& gain) {
  json::Value out = json::Value::object();
  out.set("mean", gain.mean);
  return out.set("ci", json::Value::array().push_back(gain.ci.lo).push_back(gain.ci.hi));
}

std::string gain_text(const MeanEstimate& gain) {
  return format_difference(gain.mean, 4) + " " + format_interval(gain.ci.lo, gain.ci.hi, 4, true);
}

const TransplantRow* find_row(const TransplantResult& result, const std::string& variant, const std::string& metric) {
  const auto found = std::find_if(result.rows.begin(), result.rows.end(), [&](const TransplantRow& row) {
    return row.variant == variant && row.metric == metric;
  });
  return found == result.rows.end() ? nullptr : &*found;
}

}  // namespace

std::string transplant_csv(const TransplantResult& result) {
  CsvWriter csv({"variant", "metric", "value", "ci_lo", "ci_hi"});
  for (const char* variant : variants)
    for (const TransplantRow& row : result.rows)
      if (row.variant == variant)
        csv.cell(row.variant).cell(row.metric).cell(row.value).cell(row.ci.lo).cell(row.ci.hi).end_row();
  return csv.text();
}

json::Value transplant_json(const TransplantResult& result, const TransplantOptions& options, json::Value about) {
  about.set("from", place_json(options.donor)).set("to", place_json(options.host));
  about.set("basis", basis_json(result.map));
  about.set("random_expert", result.random_expert ? json::Value(int64_t{*result.random_expert}) : json::Value());
  json::Value router = json::Value::object();
  router.set("row", options.rescale_router ? "donor's, rescaled" : "host's");
  if (result.router) {
    router.set("alpha", result.router->alpha).set("beta", result.router->beta);
    router.set("offset_error", result.router->offset_error).set("reached", result.router->reached);
  }
  about.set("router", std::move(router));
  about.set("tokens_paired", result.tokens).set("tokens_aligned_by", result.states);
  about.set("tokens_predicted", result.predicted);
  about.set("donor_gain_over_mean", gain_json(result.donor_gain))
      .set("host_gain_over_ban", gain_json(result.host_gain));
  about.set("works", result.works ? json::Value(*result.works) : json::Value());
  return about.set("verdict", transplant_verdict(result));
}

std::string transplant_table(const TransplantResult& result, int width) {
  std::vector<std::string> metrics;
  for (const TransplantRow& row : result.rows)
    if (row.variant == "original") metrics.push_back(row.metric);
  std::vector<TextTable::Column> columns = {{"variant", false, true}};
  for (const std::string& metric : metrics) columns.push_back({metric});
  TextTable table(columns);
  for (const char* variant : variants) {
    std::vector<std::string> cells = {variant};
    bool any = false;
    for (const std::string& metric : metrics) {
      const TransplantRow* row = find_row(result, variant, metric);
      any |= row != nullptr;
      std::string text = row ? format_value(row->value, 4) : "";
      if (row && !std::isnan(row->ci.lo)) text += " " + format_interval(row->ci.lo, row->ci.hi, 4);
      cells.push_back(std::move(text));
    }
    if (any) table.add(std::move(cells));
  }
  return table.text(width);
}

std::string transplant_verdict(const TransplantResult& result) {
  const std::string host = "the host loses " + gain_text(result.host_gain) + " nats less than under the ban";
  if (!result.works) return "Not judged: no --donor-task. Of the host: " + host + ".";
  return std::string(*result.works ? "It works" : "Nothing shows that it works") +
         ": on the donor's task it is better than the mean output by " + gain_text(result.donor_gain) +
         " nats a token, and " + host + " (both intervals must be above 0).";
}

}  // namespace signalbox::train
