#include "eval/findings/cross_fit.h"

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/files.h"
#include "eval/findings/metrics_file.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

double read_number(const json::Ref& object, const char* key) {
  const json::Ref value = object.at(key);
  return value.is_null() ? no_number : value.number();
}

// Interventions whose effects are of interest by themselves, the baseline left out.
std::vector<size_t> shown(const RunFindings& findings) {
  std::vector<size_t> out;
  for (size_t i = 0; i < findings.interventions.size(); ++i)
    if (findings.interventions[i].is_main() && findings.interventions[i].name != findings.baseline) out.push_back(i);
  return out;
}

}  // namespace

std::string cross_fit_csv(const RunFindings& findings) {
  CsvWriter csv({"deal", "intervention", "metric", "diff", "ci_lo", "ci_hi", "p", "n"});
  const auto row = [&](const std::string& deal, size_t i, size_t m, const Estimate& difference, double p) {
    csv.cell(deal).cell(findings.interventions[i].name).cell(findings.metrics[m]);
    csv.cell(difference.value).cell(difference.lo).cell(difference.hi).cell(p).cell(difference.n).end_row();
  };
  const CrossFitFindings& fit = *findings.cross_fit;
  for (int64_t deal = 0; deal < fit.deals; ++deal)
    for (const size_t i : shown(findings))
      for (size_t m = 0; m < findings.metrics.size(); ++m) {
        const DealEffect& effect = fit.effects[i][m][static_cast<size_t>(deal)];
        row(std::to_string(deal), i, m, effect.difference, effect.p);
      }
  for (const size_t i : shown(findings))
    for (size_t m = 0; m < findings.metrics.size(); ++m) {
      const Contrast& contrast = findings.all.contrasts[i][m];
      row("all", i, m, contrast.difference, contrast.p);
    }
  return csv.text();
}

std::string selection_csv(const RunFindings& findings) {
  CsvWriter csv({"intervention", "layer", "expert", "deals", "frequency", "rd"});
  for (const SelectedExpert& one : findings.cross_fit->selection) {
    csv.cell(one.intervention).cell(int64_t{one.expert.layer}).cell(int64_t{one.expert.expert}).cell(one.deals);
    csv.cell(static_cast<double>(one.deals) / static_cast<double>(findings.cross_fit->deals)).cell(one.rd).end_row();
  }
  return csv.text();
}

FindingsTable cross_fit_table(const RunFindings& findings) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = "deals";
  table.columns = {{"metric", Kind::text, {"metric"}},
                   {"intervention", Kind::text, {"intervention"}},
                   {"deals", Kind::count, {"deals"}},
                   {"difference [95 % CI]", Kind::difference, {"diff", "ci_lo", "ci_hi"}, true},
                   {"least", Kind::value, {"least", "least_lo", "least_hi"}},
                   {"median", Kind::value, {"median", "median_lo", "median_hi"}},
                   {"greatest", Kind::value, {"greatest", "greatest_lo", "greatest_hi"}},
                   {"deals of its sign", Kind::count, {"same_sign"}}};
  for (size_t m = 0; m < findings.metrics.size(); ++m)
    for (const size_t i : shown(findings)) {
      const Estimate& all = findings.all.contrasts[i][m].difference;
      std::vector<double> values;
      for (const DealEffect& effect : findings.cross_fit->effects[i][m])
        if (std::isfinite(effect.difference.value)) values.push_back(effect.difference.value);
      std::sort(values.begin(), values.end());
      const auto same = std::count_if(values.begin(), values.end(), [&](double value) {
        return (value > 0 && all.value > 0) || (value < 0 && all.value < 0) || (value == 0 && all.value == 0);
      });
      const auto only = [](double value) { return Estimate{value, no_number, no_number, 0}; };
      table.rows.push_back({findings.metrics[m],
                            {findings.metrics[m], findings.interventions[i].name, static_cast<int64_t>(values.size()),
                             all, only(values.empty() ? no_number : values.front()), only(quantile(values, 0.5)),
                             only(values.empty() ? no_number : values.back()), static_cast<int64_t>(same)}});
    }
  table.notes = {
      "Differences are means over the deals that tested a record; least, median and greatest are those of the",
      "deals by themselves, on their test parts."};
  return table;
}

json::Value cross_fit_json(const RunFindings& findings) {
  const CrossFitFindings& fit = *findings.cross_fit;
  json::Value effects = json::Value::object(), selection = json::Value::object();
  for (const size_t i : shown(findings)) {
    json::Value by_metric = json::Value::object();
    for (size_t m = 0; m < findings.metrics.size(); ++m) {
      json::Value list = json::Value::array();
      for (const DealEffect& effect : fit.effects[i][m]) {
        json::Value one = json::Value::object();
        one.set("diff", json_number(effect.difference.value)).set("ci_lo", json_number(effect.difference.lo));
        one.set("ci_hi", json_number(effect.difference.hi))
            .set("p", json_number(effect.p))
            .set("n", effect.difference.n);
        list.push_back(std::move(one));
      }
      by_metric.set(findings.metrics[m], std::move(list));
    }
    effects.set(findings.interventions[i].name, std::move(by_metric));
  }
  for (size_t begin = 0; begin < fit.selection.size();) {
    const std::string& name = fit.selection[begin].intervention;
    json::Value list = json::Value::array();
    for (; begin < fit.selection.size() && fit.selection[begin].intervention == name; ++begin) {
      const SelectedExpert& expert = fit.selection[begin];
      if (expert.deals == 0) continue;
      json::Value one = json::Value::object();
      one.set("layer", int64_t{expert.expert.layer}).set("expert", int64_t{expert.expert.expert});
      list.push_back(one.set("deals", expert.deals).set("rd", json_number(expert.rd)));
    }
    selection.set(name, std::move(list));
  }
  json::Value out = json::Value::object();
  out.set("deals", fit.deals).set("share", fit.share).set("effects", std::move(effects));
  return out.set("selection", std::move(selection));
}

CrossFitFindings read_cross_fit(const json::Ref& value, const RunFindings& run) {
  CrossFitFindings out;
  out.deals = value.at("deals").size();
  out.share = value.at("share").number();
  out.effects.assign(run.interventions.size(), {});
  for (auto& by_metric : out.effects)
    by_metric.assign(run.metrics.size(), std::vector<DealEffect>(static_cast<size_t>(out.deals)));
  for (const auto& [name, by_metric] : value.at("effects").members())
    for (const auto& [metric, list] : by_metric.members()) {
      auto& effects = out.effects[run.intervention_index(name)][run.metric_index(metric)];
      if (list.length() != effects.size())
        list.fail("expected an effect for each of " + std::to_string(out.deals) + " deals, found " +
                  std::to_string(list.length()));
      for (size_t deal = 0; deal < effects.size(); ++deal) {
        const json::Ref one = list[deal];
        effects[deal] = {
            {read_number(one, "diff"), read_number(one, "ci_lo"), read_number(one, "ci_hi"), one.at("n").size()},
            read_number(one, "p")};
      }
    }
  for (const auto& [name, list] : value.at("selection").members())
    for (const json::Ref& one : list.items())
      out.selection.push_back({name,
                               {static_cast<int32_t>(one.at("layer").integer(0, INT32_MAX)),
                                static_cast<int32_t>(one.at("expert").integer(0, INT32_MAX))},
                               one.at("deals").size(),
                               read_number(one, "rd")});
  return out;
}

void write_cross_fit_tables(const std::filesystem::path& dir, const RunFindings& findings) {
  write_file_atomically(dir / "cross_fit.csv", cross_fit_csv(findings));
  write_file_atomically(dir / "selection.csv", selection_csv(findings));
}

}  // namespace signalbox::eval
